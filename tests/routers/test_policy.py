"""Policies: the threshold keeps its promise, and what is saved decides what was calibrated."""

import dataclasses
import json

import make
import numpy as np
import pytest

from routers.build import build
from routers.errors import InputError
from routers.policy import Policy, calibrate
from routers.records import Records, pair
from routers.schema import normalise

RATES = [0.0, 0.05, 0.3, 0.5, 0.99, 1.0]


@pytest.fixture(scope="module")
def records() -> Records:
    return make.records(80)


def validation(records):
    return pair(records, "small", "large", "validation")


@pytest.mark.parametrize("spec", ["chow_average", "post_hoc:learner=booster", "prompt"])
@pytest.mark.parametrize("rate", RATES)
def test_the_promised_rate_is_never_exceeded_and_nearly_met(records, spec, rate):
    policy = calibrate(records, build(spec), deferral_rate=rate)
    inputs, _ = validation(records)
    sent = policy.decide(inputs)
    assert sent.dtype == bool
    assert sent.mean() <= rate + 1e-12
    assert sent.mean() == pytest.approx(policy.about["deferral_rate"], abs=1e-12)
    score = policy.router.score(inputs.at_stage(policy.router.stage))
    kept = score[~sent]
    if len(kept):  # the next group of equal scores would have been too many
        assert sent.mean() + np.mean(score == kept.max()) > rate


def test_what_it_reached_is_the_mean_of_the_chosen_answers(records):
    policy = calibrate(records, build("chow_average"), deferral_rate=0.4)
    inputs, outcomes = validation(records)
    sent = policy.decide(inputs)
    quality = [
        float(large if defer else small)
        for defer, small, large in zip(
            sent, outcomes.quality_small, outcomes.quality_large, strict=True
        )
    ]
    spent = outcomes.flops_small + sent * outcomes.flops_large
    spent = spent + policy.router.flops_per_query(inputs)
    assert policy.about["quality"] == pytest.approx(np.mean(quality), abs=1e-12)
    assert policy.about["flops"] == pytest.approx(np.mean(spent), rel=1e-12)
    told = {key: policy.about[key] for key in ("small", "large", "fit_split", "n_fit")}
    assert told == {"small": "small", "large": "large", "fit_split": "validation", "n_fit": 80}


@pytest.mark.parametrize("spec", ["chow_average", "length", "post_hoc:learner=booster", "prompt"])
def test_saved_and_loaded_decides_the_same(records, spec, tmp_path):
    policy = calibrate(records, build(spec), deferral_rate=0.37)
    policy.save(tmp_path / "deep" / "policy.json")
    loaded = Policy.load(tmp_path / "deep" / "policy.json")
    test, _ = pair(records, "small", "large", "test")
    assert loaded.threshold == policy.threshold
    assert loaded.about == policy.about
    np.testing.assert_array_equal(loaded.decide(test), policy.decide(test))
    names = sorted(path.name for path in (tmp_path / "deep").iterdir())
    assert names == ["policy.json", "policy.safetensors"]


@pytest.mark.parametrize(("threshold", "share"), [(np.inf, 0.0), (-np.inf, 1.0)])
def test_never_and_always_survive_the_file(records, threshold, share, tmp_path):
    Policy(build("length"), float(threshold), {}).save(tmp_path / "p.json")
    json.loads((tmp_path / "p.json").read_text(), parse_constant=pytest.fail)  # plain JSON
    loaded = Policy.load(tmp_path / "p.json")
    assert loaded.threshold == threshold
    assert loaded.decide(validation(records)[0]).mean() == share


def test_the_policy_sees_only_its_stage(records):
    @dataclasses.dataclass(frozen=True)
    class Curious(type(build("length"))):
        stage = "prompt"

        def score(self, inputs):
            assert inputs.response_tokens is None
            assert inputs.token_logprob is None
            return inputs.prompt_tokens.astype(float)

    inputs, _ = validation(records)
    sent = Policy(Curious(), 10.0, {}).decide(inputs)
    np.testing.assert_array_equal(sent, inputs.prompt_tokens >= 10)


def test_the_fit_split_is_the_one_that_is_named(records):
    on_test = calibrate(records, build("chow_average"), deferral_rate=0.3, split="test")
    inputs, _ = pair(records, "small", "large", "test")
    assert on_test.decide(inputs).mean() == pytest.approx(on_test.about["deferral_rate"])
    assert on_test.about["fit_split"] == "test"
    with pytest.raises(InputError, match="train"):
        calibrate(records, build("chow_average"), deferral_rate=0.3, split="train")


def test_dollars_are_not_called_flops():
    import pyarrow as pa

    columns = make.minimal() | {
        "split": ["validation"] * 80,
        "response_tokens": [*range(1, 41)] * 2,
    }
    log = Records(normalise(pa.table(columns), "log"), {})
    about = calibrate(log, build("length"), deferral_rate=0.25).about
    assert about["cost_unit"] == "dollars"
    assert about["flops"] == pytest.approx(0.1 + 0.25 * 1.0, abs=1e-9)


@pytest.mark.parametrize("rate", [-0.1, 1.5, float("nan")])
def test_a_rate_outside_zero_to_one(records, rate):
    with pytest.raises(InputError, match="deferral rate"):
        calibrate(records, build("length"), deferral_rate=rate)


def test_a_name_that_is_no_json(records, tmp_path):
    with pytest.raises(InputError, match=r"ends in \.json"):
        Policy(build("length"), 1.0, {}).save(tmp_path / "policy.txt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "no such policy"),
        ("{", "not JSON"),
        ("[]", "not a policy"),
        ('{"format": "else"}', "not a policy"),
        ('{"format": "cascade-policy", "schema": 1}', "no 'threshold'"),
        (
            '{"format": "cascade-policy", "schema": 9, "threshold": 1, "about": {}, "router": "x"}',
            "schema 9 is newer",
        ),
        (
            '{"format": "cascade-policy", "schema": 1, "threshold": 1, "about": {}, "router": "x"}',
            "no such router file",
        ),
    ],
)
def test_files_that_are_no_policy(text, says, tmp_path):
    path = tmp_path / "policy.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=says) as caught:
        Policy.load(path)
    assert "\n" not in str(caught.value)
