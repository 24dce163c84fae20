"""What a router may see, and when."""

import dataclasses

import make
import numpy as np
import pytest

from routers.base import Inputs, Router
from routers.errors import InputError, did_you_mean
from routers.records import pair

PROMPT = {"query_id", "task", "prompt_tokens", "prompt_embedding", "scores"}


@pytest.fixture
def both():
    return pair(make.records(20), "small", "large", "test")


def test_prompt_stage_hides_the_response(both):
    inputs, _ = both
    seen = inputs.at_stage("prompt")
    for field in dataclasses.fields(Inputs):
        kept = getattr(seen, field.name)
        if field.name in PROMPT:
            assert kept is getattr(inputs, field.name)
        else:
            assert kept is None
    assert inputs.at_stage("response") is inputs


def test_inputs_hold_nothing_of_the_outcomes():
    """No field of Inputs can carry quality, cost or the reference."""
    names = {field.name for field in dataclasses.fields(Inputs)}
    assert not [n for n in names if any(w in n for w in ("quality", "flops", "forced", "large"))]


def test_take_selects_rows_of_every_column(both):
    inputs, outcomes = both
    rows = np.array([5, 0, 5])
    taken, results = inputs.take(rows), outcomes.take(rows)
    assert len(taken) == len(results) == 3
    assert taken.query_id.tolist() == [inputs.query_id[i] for i in rows]
    assert [taken.token_logprob[i].tolist() for i in range(3)] == [
        inputs.token_logprob[i].tolist() for i in rows.tolist()
    ]
    np.testing.assert_array_equal(taken.topk_logprob[2], inputs.topk_logprob[5])
    np.testing.assert_array_equal(taken.prompt_embedding, inputs.prompt_embedding[rows])
    np.testing.assert_array_equal(results.gain, outcomes.gain[rows])
    assert taken.response_embedding is None


def test_take_selects_rows_of_scores(both):
    inputs = dataclasses.replace(both[0], scores={"mine": np.arange(20.0)})
    assert inputs.take(np.array([3, 1])).scores["mine"].tolist() == [3.0, 1.0]


def test_need_names_what_is_absent(both):
    inputs, _ = both
    inputs.need("token_logprob", "prompt_tokens")
    with pytest.raises(InputError, match="records lack response_embedding, which this router"):
        inputs.need("token_logprob", "response_embedding")


@dataclasses.dataclass(frozen=True)
class Learned(Router):
    learned = True
    weights_: np.ndarray | None = None


def test_learned_routers_must_be_fitted():
    assert not Learned().fitted
    with pytest.raises(ValueError, match=r"Learned is not fitted; call fit"):
        Learned().require_fitted()
    done = Learned(np.zeros(1))
    assert done.fitted
    done.require_fitted()


def test_training_free_routers_are_always_fitted(both):
    router = Router()
    assert router.fit(*both) is router
    assert dataclasses.is_dataclass(Learned)
    np.testing.assert_array_equal(router.flops_per_query(both[0]), np.zeros(20))


@pytest.mark.parametrize(
    ("name", "hint"),
    [("chow_avrage", "did you mean 'chow_average'? Known: "), ("zzz", "Known: ")],
)
def test_did_you_mean(name, hint):
    assert did_you_mean(name, ["chow_average", "random"]) == hint + "chow_average, random"
