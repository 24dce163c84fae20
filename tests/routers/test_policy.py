"""Policies: what is saved decides what was built, in NumPy alone; other files are refused."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
from planted import from_rows

import routers
from routers.build import build
from routers.column import Column
from routers.errors import InputError
from routers.policy import Policy

LENGTHS = [2, 5, 9, 5]


def inputs(tasks=("a", "a", "b", "never seen")):
    made = from_rows(response_tokens=np.array(LENGTHS))
    return dataclasses.replace(made, task=np.array(tasks))


def test_defers_at_the_threshold_and_above():
    sent = Policy(build("length"), 5.0, {}).decide(inputs())
    assert sent.dtype == bool
    assert sent.tolist() == [False, True, True, True]


def test_a_task_has_its_own_threshold_and_an_unknown_one_the_pooled():
    policy = Policy(build("length"), 6.0, {}, {"a": 2.0, "b": 10.0})
    assert policy.decide(inputs()).tolist() == [True, True, False, False]
    assert dataclasses.replace(policy, threshold=5.0).decide(inputs())[3]
    never = dataclasses.replace(policy, task_thresholds={"a": np.inf, "b": -np.inf})
    assert never.decide(inputs()).tolist() == [False, False, True, False]


@pytest.mark.parametrize(("threshold", "share"), [(np.inf, 0.0), (-np.inf, 1.0), (5.0, 0.75)])
def test_never_and_always_survive_the_file(threshold, share, tmp_path):
    saved = Policy(build("length"), float(threshold), {"n": 3}, {"c": -float(threshold)})
    saved.save(tmp_path / "deep" / "p.json")
    text = (tmp_path / "deep" / "p.json").read_text()
    json.loads(text, parse_constant=pytest.fail)  # plain JSON
    loaded = Policy.load(tmp_path / "deep" / "p.json")
    assert loaded == saved
    assert loaded.decide(inputs()).mean() == share
    names = sorted(path.name for path in (tmp_path / "deep").iterdir())
    assert names == ["p.json", "p.safetensors"]


def test_a_path_may_be_text(tmp_path):
    saved = Policy(build("length"), 5.0, {})
    saved.save(str(tmp_path / "p.json"))
    assert routers.Policy.load(str(tmp_path / "p.json")) == saved


def test_a_file_of_the_first_schema_is_read(tmp_path):
    """As the version before wrote it: no task_thresholds."""
    Policy(build("length"), 5.0, {"n_fit": 80}).save(tmp_path / "p.json")
    body = json.loads((tmp_path / "p.json").read_text())
    assert body.pop("task_thresholds") == {}
    (tmp_path / "p.json").write_text(json.dumps(body | {"schema": 1}))
    assert Policy.load(tmp_path / "p.json") == Policy(build("length"), 5.0, {"n_fit": 80})


def test_the_policy_sees_only_its_stage():
    @dataclasses.dataclass(frozen=True)
    class Curious(type(build("length"))):
        stage = "prompt"

        def score(self, inputs):
            assert inputs.response_tokens is None
            assert inputs.token_logprob is None
            return inputs.prompt_tokens.astype(float)

    sent = Policy(Curious(), 1.0, {}).decide(inputs())
    assert sent.all()


def test_a_score_that_is_not_a_number_is_not_kept_silently():
    broken = from_rows(logprobs=[[-1.0], [np.nan, -1.0]])
    with pytest.raises(InputError, match="score of query 'q1' is NaN"):
        Policy(build("chow_average"), 0.5, {}).decide(broken)
    certain = from_rows(logprobs=[[-1.0], [-np.inf]])  # impossible token: as unsure as can be
    assert Policy(build("chow_average"), 2.0, {}).decide(certain).tolist() == [False, True]


def test_a_ready_made_score_is_a_policy_that_says_what_it_lacks(tmp_path):
    Policy(build("score:doubt"), 0.5, {}).save(tmp_path / "p.json")
    policy = Policy.load(tmp_path / "p.json")
    assert policy == Policy(Column("doubt"), 0.5, {})
    given = dataclasses.replace(inputs(), scores={"doubt": np.array([0.4, 0.5, 0.6, -np.inf])})
    assert policy.decide(given).tolist() == [False, True, True, False]
    with pytest.raises(InputError, match="lack column 'score:doubt' for these queries"):
        policy.decide(dataclasses.replace(inputs(), scores={"trust": np.ones(4)}))


def test_an_empty_batch():
    assert Policy(build("length"), 5.0, {}, {"a": 1.0}).decide(
        inputs().take(np.arange(0))
    ).shape == (0,)


def test_deciding_needs_numpy_alone(tmp_path):
    """In a process of its own: no JAX, SciPy, scikit-learn, nor PyArrow."""
    Policy(build("chow_average"), 0.5, {}, {"a": 0.1}).save(tmp_path / "p.json")
    code = (
        "import sys, numpy as np, routers\n"
        "from routers.base import Inputs\n"
        "from routers.ragged import Ragged\n"
        f"policy = routers.Policy.load({str(tmp_path / 'p.json')!r})\n"
        "rows = Ragged.of([[-0.1, -0.3], [-0.1, -0.3]])\n"
        "inputs = Inputs(np.array(['x', 'y']), np.array(['a', 'b']), None, token_logprob=rows)\n"
        "print(policy.decide(inputs).tolist(), *{m.partition('.')[0] for m in sys.modules})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("[True, False]")
    heavy = {"jax", "flax", "optax", "scipy", "sklearn", "pyarrow", "matplotlib", "tyro"}
    assert not heavy & set(done.stdout.split())


def test_the_package_names_only_what_it_has():
    assert routers.__all__ == ["Policy", "TierPolicy"]
    assert routers.TierPolicy.__module__ == "routers.tier_policy"
    with pytest.raises(AttributeError, match="no attribute 'Polcy'"):
        _ = routers.Polcy


def test_a_name_that_is_no_json(tmp_path):
    with pytest.raises(InputError, match=r"ends in \.json"):
        Policy(build("length"), 1.0, {}).save(tmp_path / "policy.txt")
    assert list(tmp_path.iterdir()) == []


GOOD = {
    "format": "cascade-policy",
    "schema": 2,
    "threshold": 1,
    "task_thresholds": {},
    "about": {},
    "router": "x.safetensors",
}


def but(**changes):
    return json.dumps({k: v for k, v in (GOOD | changes).items() if v is not ...})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "no such policy"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        ("[]", "not a policy"),
        ('{"format": "else"}', "not a policy"),
        ('{"format": "cascade-policy", "schema": 1}', "no 'threshold'"),
        ('{"format": "cascade-tier-policy"}', "over several models; load it with routers.TierPol"),
        (but(schema=9), "schema 9 is newer"),
        (but(schema="2"), "schema '2' is not a version"),
        (but(schema=True), "schema True is not a version"),
        (but(threshold="high"), "threshold 'high' is not a number"),
        (but(threshold=None), "threshold None is not a number"),
        (but(threshold=True), "threshold True is not a number"),
        (but(threshold=float("nan")), "threshold nan is not a number"),
        (but(threshold=[1]), r"threshold \[1\] is not a number"),
        (but(task_thresholds={"a": "x"}), "threshold 'x' is not a number"),
        (but(task_thresholds=[]), "not as a policy is written"),
        (but(about="text"), "not as a policy is written"),
        (but(router="../x.safetensors"), "is not a file beside it"),
        (but(router=""), "is not a file beside it"),
        (but(router=".."), "is not a file beside it"),
        (but(router=3), "router 3 is not a file beside it"),
        (but(), "no such router file"),
    ],
)
def test_files_that_are_no_policy(text, says, tmp_path):
    path = tmp_path / "policy.json"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=says) as caught:
        Policy.load(path)
    assert "\n" not in str(caught.value)
