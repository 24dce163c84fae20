"""Operating points against a search over every possible threshold."""

import make
import numpy as np
import pytest

from routers.curves import deferral_curve
from routers.errors import InputError
from routers.thresholds import OperatingPoint, achieved, for_budget, for_deferral_rate, for_quality


def brute(threshold, score, outcomes):
    """Deferral rate, quality and cost of a threshold, from the rule itself."""
    defer = score >= threshold
    quality = np.where(defer, outcomes.quality_large, outcomes.quality_small).mean()
    flops = (outcomes.flops_small + defer * outcomes.flops_large).mean()
    return defer.mean(), quality, flops


def every(score):
    return [np.inf, *sorted(set(score.tolist()), reverse=True), -np.inf]


@pytest.mark.parametrize("levels", [1, 3, 7, 10_000])
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.3, 0.5, 0.999, 1.0])
def test_rate_is_the_highest_that_does_not_exceed(levels, rate):
    score = make.tied_score(50, levels=levels)
    rates = {t: np.mean(score >= t) for t in every(score)}
    want = max(r for r in rates.values() if r <= rate + 1e-12)
    assert rates[for_deferral_rate(score, rate)] == want


def test_rates_at_the_ends_and_in_a_tie():
    score = np.array([0.1, 0.4, 0.4, 0.9])
    assert for_deferral_rate(score, 0.0) == np.inf
    assert for_deferral_rate(score, 1.0) == -np.inf  # also queries that score below all of these
    assert for_deferral_rate(score, 0.74) == 0.9  # the tied pair does not fit
    assert for_deferral_rate(score, 0.75) == 0.4
    equal = np.full(4, 0.5)
    assert for_deferral_rate(equal, 0.99) == np.inf
    assert for_deferral_rate(equal, 1.0) == -np.inf


def test_rate_times_queries_is_not_rounded_down():
    """0.29 * 100 is 28.999999999999996 in floating point; 29 queries are meant."""
    score = np.arange(100.0)
    assert np.mean(score >= for_deferral_rate(score, 0.29)) == 0.29


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_rate_outside_its_range(rate):
    with pytest.raises(InputError, match="not in"):
        for_deferral_rate(np.arange(3.0), rate)


def test_scores_must_be_finite():
    with pytest.raises(InputError, match="score is nan"):
        for_deferral_rate(np.array([0.0, np.nan]), 0.5)


@pytest.mark.parametrize("seed", range(5))
def test_quality_is_reached_at_least_cost(seed):
    outcomes, score = make.outcomes(60, seed, graded=True), make.tied_score(60, seed, levels=20)
    curve = deferral_curve(score, outcomes)
    target = float(np.quantile(curve.quality, 0.7))
    _, quality, flops = brute(for_quality(curve, target), score, outcomes)
    assert quality >= target - 1e-12
    others = [brute(t, score, outcomes) for t in every(score)]
    assert flops == pytest.approx(min(c for _, q, c in others if q >= target - 1e-12), abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_budget_is_kept_at_best_quality(seed):
    outcomes, score = make.outcomes(60, seed, graded=True), make.tied_score(60, seed, levels=20)
    curve = deferral_curve(score, outcomes)
    budget = float(np.mean(curve.cost))
    _, quality, flops = brute(for_budget(curve, budget), score, outcomes)
    assert flops <= budget
    others = [brute(t, score, outcomes) for t in every(score)]
    assert quality == pytest.approx(max(q for _, q, c in others if c <= budget), abs=1e-12)


def test_what_cannot_be_had():
    curve = deferral_curve(make.tied_score(60), make.outcomes(60))
    with pytest.raises(InputError, match=r"no threshold reaches quality 1\.5"):
        for_quality(curve, 1.5)
    with pytest.raises(InputError, match="no threshold keeps mean FLOPs within 0"):
        for_budget(curve, 0.1)


def test_small_model_alone_can_be_the_best():
    outcomes = make.outcomes(60)
    curve = deferral_curve(make.tied_score(60), outcomes)
    assert for_quality(curve, 0.0) == np.inf
    assert for_budget(curve, curve.cost[0]) == np.inf


@pytest.mark.parametrize("threshold", [-1.0, 0.0, 0.2, 0.45, 1.0, 7.0, float("inf")])
def test_achieved_is_the_rule(threshold):
    """Thresholds from elsewhere lie between, on and beyond the scores."""
    outcomes, score = make.outcomes(60, graded=True), make.tied_score(60, levels=5)
    point = achieved(threshold, score, outcomes)
    assert isinstance(point, OperatingPoint)
    got = (point.deferral_rate, point.quality, point.flops)
    assert got == pytest.approx(brute(threshold, score, outcomes), abs=1e-12)
    assert point.threshold == threshold


def test_achieved_at_prompt_stage_with_router_cost():
    outcomes, score = make.outcomes(60), make.tied_score(60)
    point = achieved(0.5, score, outcomes, stage="prompt", router_flops=np.full(60, 3.0))
    want = np.where(score >= 0.5, outcomes.flops_large, outcomes.flops_small).mean() + 3
    assert point.flops == pytest.approx(want, abs=1e-12)
