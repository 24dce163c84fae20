"""Targets: one at a time, each with the promise that belongs to it."""

import pytest

from routers.errors import InputError
from routers.targets import Target, promise

KINDS = {
    "deferral_rate": None,
    "budget_flops": "flops",
    "budget_dollars": "dollars",
    "budget_latency": "latency_s",
    "quality": None,
}


@pytest.mark.parametrize("name", KINDS)
def test_one_target_names_itself(name):
    target = Target(**{name: 0.25})
    assert (target.name, target.value, target.unit) == (name, 0.25, KINDS[name])
    assert target.given == {name: 0.25}
    assert "not promised" in promise(target, "large", 0)


def test_zero_is_a_target():
    assert Target(deferral_rate=0.0).given == {"deferral_rate": 0.0}


def test_a_promise_in_words():
    sure = Target(max_quality_loss=0.02, delta=0.1)
    assert sure.given == {"max_quality_loss": 0.02, "delta": 0.1}
    assert promise(sure, "L", 3) == (
        "mean quality at most 0.02 below 'L' in each of 3 tasks at once, with probability 0.9"
    )
    mean = Target(max_quality_loss=0.02, in_expectation=True)
    assert mean.given == {"max_quality_loss": 0.02, "in_expectation": True}
    assert (
        promise(mean, "L", 0) == "mean quality at most 0.02 below 'L', on average over calibrations"
    )


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({}, "^0 targets; give one of --deferral-rate"),
        ({"deferral_rate": 0.1, "quality": 0.5}, "^2 targets"),
        ({"delta": 0.1}, "^0 targets"),
        ({"quality": float("nan")}, "quality is NaN"),
        ({"quality": 0.5, "delta": 0.1}, "only with --max-quality-loss"),
        ({"deferral_rate": 0.5, "in_expectation": True}, "only with --max-quality-loss"),
        ({"max_quality_loss": 0.1}, "needs one of --delta"),
        ({"max_quality_loss": 0.1, "delta": 0.1, "in_expectation": True}, "needs one of --delta"),
        ({"max_quality_loss": 0.0, "delta": 0.1}, "max quality loss 0.0 is not between"),
        ({"max_quality_loss": 1.0, "in_expectation": True}, "max quality loss 1.0"),
        ({"max_quality_loss": 0.1, "delta": 0.0}, "delta 0.0"),
        ({"max_quality_loss": 0.1, "delta": 1.5}, "delta 1.5"),
    ],
)
def test_what_is_no_target(asked, says):
    with pytest.raises(InputError, match=says) as caught:
        Target(**asked)
    assert "\n" not in str(caught.value)
