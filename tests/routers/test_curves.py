"""Exact curves against NumPy loops, closed forms and invariances."""

import itertools

import make
import numpy as np
import pytest

from routers.base import Outcomes
from routers.curves import deferral_curve, oracle_score, rank
from routers.errors import InputError
from routers.metrics import audc

TIGHT = {"rtol": 0, "atol": 1e-12}


def loop(score, outcomes, *, stage="response", router=0.0):
    """The curve from its definition: for each threshold, answer every query one by one."""
    points = []
    for threshold in [np.inf, *sorted(set(score.tolist()), reverse=True)]:
        quality = cost = sent = 0.0
        for i in range(len(score)):
            defer = score[i] >= threshold
            sent += defer
            quality += outcomes.quality_large[i] if defer else outcomes.quality_small[i]
            small, large = outcomes.flops_small[i], outcomes.flops_large[i]
            if stage == "response":
                cost += small + router + (large if defer else 0)
            else:
                cost += router + (large if defer else small)
        n = len(score)
        points.append((threshold, sent / n, quality / n, cost / n))
    return np.array(points).T


@pytest.mark.parametrize("stage", ["prompt", "response"])
@pytest.mark.parametrize("levels", [1, 7, 10_000])
@pytest.mark.parametrize("graded", [False, True])
def test_curve_is_its_definition(stage, levels, graded):
    outcomes, score = make.outcomes(53, graded=graded), make.tied_score(53, levels=levels)
    curve = deferral_curve(score, outcomes, stage=stage, router_flops=np.full(53, 0.25))
    want = loop(score, outcomes, stage=stage, router=0.25)
    for got, expected in zip(
        (curve.threshold, curve.deferral_rate, curve.quality, curve.cost), want, strict=True
    ):
        np.testing.assert_allclose(got, expected, **TIGHT)
    assert curve.small_cost == pytest.approx(outcomes.flops_small.mean(), abs=1e-12)
    assert curve.large_cost == pytest.approx(outcomes.flops_large.mean(), abs=1e-12)


def test_ends_are_the_two_models():
    outcomes = make.outcomes(100)
    curve = deferral_curve(make.tied_score(100), outcomes)
    assert curve.threshold[0] == np.inf
    assert curve.deferral_rate[0] == 0
    assert curve.deferral_rate[-1] == 1
    np.testing.assert_allclose(curve.quality[0], outcomes.quality_small.mean(), **TIGHT)
    np.testing.assert_allclose(curve.quality[-1], outcomes.quality_large.mean(), **TIGHT)
    # Deferring everything is dearer than the large model alone.
    assert curve.cost[-1] > curve.large_cost
    np.testing.assert_allclose(curve.cost[-1], curve.small_cost + curve.large_cost, **TIGHT)


def test_constant_score_is_the_chord():
    outcomes = make.outcomes(100)
    curve = deferral_curve(np.full(100, 3.0), outcomes)
    assert curve.deferral_rate.tolist() == [0.0, 1.0]
    chord = (outcomes.quality_small.mean() + outcomes.quality_large.mean()) / 2
    np.testing.assert_allclose(audc(curve), chord, **TIGHT)


def test_ties_are_the_mean_over_every_tie_breaking():
    """Exactly: all 3! x 3! orders of two groups of three."""
    outcomes, score = make.outcomes(6, seed=2, graded=True), np.array([1.0, 1, 1, 0, 0, 0])
    orders = list(itertools.permutations([0.1, 0.2, 0.3]))
    broken = [
        deferral_curve(score + np.array([*first, *second]), outcomes).quality
        for first in orders
        for second in orders
    ]
    curve = deferral_curve(score, outcomes)
    line = np.interp(np.arange(7) / 6, curve.deferral_rate, curve.quality)
    np.testing.assert_allclose(np.mean(broken, axis=0), line, **TIGHT)
    assert np.std(broken, axis=0).max() > 0.01  # the orders do differ


@pytest.mark.parametrize("transform", [lambda s: 3 * s - 5, np.exp, lambda s: s**3, np.arctan])
def test_only_the_order_counts(transform):
    outcomes = make.outcomes(200, graded=True)
    score = make.tied_score(200, levels=30)
    curve, same = (deferral_curve(s, outcomes) for s in (score, transform(score)))
    np.testing.assert_allclose(curve.quality, same.quality, **TIGHT)
    np.testing.assert_allclose(curve.cost, same.cost, **TIGHT)


def test_row_order_does_not_count():
    outcomes, score = make.outcomes(200), make.tied_score(200)
    rows = np.random.default_rng(1).permutation(200)
    curve, same = (
        deferral_curve(score, outcomes),
        deferral_curve(score[rows], outcomes.take(rows)),
    )
    np.testing.assert_allclose(curve.quality, same.quality, **TIGHT)


def test_permutations_average_to_the_chord():
    """Exactly: the mean over all orders of 6 queries, not a sample of them."""
    outcomes = make.outcomes(6, graded=True)
    orders = itertools.permutations(np.arange(6.0))
    qualities = [deferral_curve(np.array(order), outcomes).quality for order in orders]
    curve = np.mean(qualities, axis=0)
    small, large = outcomes.quality_small.mean(), outcomes.quality_large.mean()
    np.testing.assert_allclose(curve, small + np.arange(7) / 6 * (large - small), **TIGHT)


def test_oracle_is_above_every_ranking():
    outcomes = make.outcomes(80, graded=True)
    best = deferral_curve(oracle_score(outcomes), outcomes)
    grid = np.linspace(0, 1, 41)
    top = np.interp(grid, best.deferral_rate, best.quality)
    for seed in range(50):
        curve = deferral_curve(np.random.default_rng(seed).random(80), outcomes)
        assert (np.interp(grid, curve.deferral_rate, curve.quality) <= top + 1e-12).all()


def test_weights_repeat_queries():
    outcomes, score = make.outcomes(40, graded=True), make.tied_score(40)
    weights = np.random.default_rng(3).integers(0, 4, 40)
    rows = np.repeat(np.arange(40), weights)
    got = rank(score, outcomes).curve(weights)
    want = deferral_curve(score[rows], outcomes.take(rows))
    kept = np.isin(got.threshold, want.threshold)  # groups nobody drew add repeated points
    for name in ("deferral_rate", "quality", "cost"):
        np.testing.assert_allclose(getattr(got, name)[kept], getattr(want, name), **TIGHT)
    assert got.small_cost == pytest.approx(want.small_cost, abs=1e-12)
    assert got.large_cost == pytest.approx(want.large_cost, abs=1e-12)


def test_narrow_types_lose_nothing():
    """float32 qualities are subtracted and summed in float64."""
    graded = make.outcomes(1000, graded=True)
    small, large = (q.astype(np.float32) for q in (graded.quality_small, graded.quality_large))
    costs = (graded.flops_small, graded.flops_large)
    narrow = Outcomes(small, large, *costs)
    wide = Outcomes(small.astype(np.float64), large.astype(np.float64), *costs)
    score = make.tied_score(1000)
    a, b = (deferral_curve(score, o) for o in (wide, narrow))
    np.testing.assert_array_equal(a.quality, b.quality)
    assert b.quality.dtype == np.float64


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_scores_name_the_router(bad):
    score = np.array([0.1, bad, 0.3])
    with pytest.raises(InputError, match=r"^chow: score is -?(nan|inf) for 1 of 3 .* at row 1;"):
        deferral_curve(score, make.outcomes(3), name="chow")


def test_wrong_number_of_scores():
    with pytest.raises(InputError, match=r"score has shape \(4,\) for 3 queries"):
        deferral_curve(np.zeros(4), make.outcomes(3))


def test_no_queries():
    with pytest.raises(InputError, match="no queries"):
        deferral_curve(np.zeros(0), make.outcomes(0))
