"""EdgeInference: labels and scores by a loop, the coverage term, thinning, refusals."""

import dataclasses

import numpy as np
import pytest
from planted import planted

from routers import mlp
from routers.errors import InputError
from routers.features import token_features
from routers.ragged import Ragged
from routers.zoo import edge_inference
from routers.zoo.edge_inference import EdgeInference, _labels, _thin


@pytest.fixture(scope="module")
def split():
    return planted(100)


@pytest.fixture(scope="module")
def router(split):
    return EdgeInference().fit(*split)


def test_the_label_is_small_wrong_and_large_right(split):
    _, outcomes = split
    offsets = np.array([0, 4])
    forced = Ragged(np.zeros((4, 2)), offsets)
    small = Ragged(np.array([True, True, False, False]), offsets)
    large = Ragged(np.array([True, False, True, False]), offsets)
    cut = dataclasses.replace(
        outcomes,
        forced_topk_logprob_small=forced,
        forced_hit_small=small,
        forced_hit_large=large,
    )
    assert _labels(cut)[1].tolist() == [0.0, 0.0, 1.0, 0.0]


def test_score_pools_the_tokens_of_the_own_response(split, router):
    inputs, _ = split
    widest = dataclasses.replace(router, pool="max")
    mean_N, max_N = router.score(inputs), widest.score(inputs)
    for i in range(0, 100, 9):
        tokens = token_features(inputs.topk_logprob[i].astype(np.float64))
        r = mlp.predict(router.weights_, tokens).tolist()
        np.testing.assert_allclose(mean_N[i], sum(r) / len(r), rtol=1e-12)
        np.testing.assert_allclose(max_N[i], max(r), rtol=1e-12)


def test_chunks_do_not_change_the_score(split, router, monkeypatch):
    inputs, _ = split
    whole = router.score(inputs)
    monkeypatch.setattr(edge_inference, "CHUNK", 7)
    np.testing.assert_allclose(router.score(inputs), whole, rtol=1e-12)


def test_full_coverage_at_a_high_weight_sends_fewer_tokens(split, router):
    strict = EdgeInference(coverage=1.0, coverage_weight=10.0).fit(*split)
    assert strict.score(split[0]).mean() < router.score(split[0]).mean() - 0.1


def test_cost_is_per_response_token(split, router):
    inputs, _ = split
    per_token = 2 * ((1 + 10 + 5) * 32 + 32 * 32 + 32)
    np.testing.assert_array_equal(
        router.flops_per_query(inputs), per_token * inputs.response_tokens
    )


def test_long_logs_are_thinned_without_repetition():
    assert _thin(10, seed=0).tolist() == list(range(10))
    kept = _thin(edge_inference.MOST_TOKENS + 5000, seed=0)
    assert len(set(kept.tolist())) == edge_inference.MOST_TOKENS
    assert (np.diff(kept) > 0).all()
    assert kept.max() > edge_inference.MOST_TOKENS


@pytest.mark.parametrize(
    "column", ["forced_topk_logprob_small", "forced_hit_small", "forced_hit_large"]
)
def test_missing_forced_columns_are_refused(split, column):
    inputs, outcomes = split
    with pytest.raises(InputError, match="choose post_hoc"):
        EdgeInference().fit(inputs, dataclasses.replace(outcomes, **{column: None}))


def test_references_of_different_lengths_are_refused(split):
    inputs, outcomes = split
    shorter = outcomes.forced_hit_large.take(np.arange(100)[::-1])
    with pytest.raises(InputError, match="differ in length"):
        EdgeInference().fit(inputs, dataclasses.replace(outcomes, forced_hit_large=shorter))
