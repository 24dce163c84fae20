"""Arms compared over queries and seeds: against rows written out, and coverage."""

import functools

import make
import numpy as np
import pytest
from test_bootstrap import weights_of

from routers import metrics
from routers.bootstrap import interval, replicates
from routers.curves import deferral_curve, oracle_score, rank
from routers.errors import InputError
from routers.paired import difference, hierarchical_difference, joint_draws, measured


def arms(seeds, queries, effect, rng, spread=0.0):
    """Two arms on the same queries: the second one's confidence is noisier by ``effect``."""
    score, outcomes = make.calibrated(queries, rng)
    ours, theirs = [], []
    for _ in range(seeds):
        noise = rng.normal(size=queries)
        shift = spread * rng.normal()
        ours.append(rank(score + abs(shift) * noise, outcomes))
        theirs.append(rank(score + (abs(shift) + effect) * noise, outcomes))
    return ours, theirs


def test_one_seed_is_the_paired_bootstrap():
    (a,), (b,) = arms(1, 60, 0.5, np.random.default_rng(0))
    got = hierarchical_difference([a], [b], resamples=50, seed=5)
    drawn = replicates({"a": a, "b": b}, {"audc": metrics.audc}, resamples=50, seed=5)
    want = drawn["a"]["audc"] - drawn["b"]["audc"]
    value = metrics.audc(a.curve()) - metrics.audc(b.curve())
    assert got.value == pytest.approx(value, abs=1e-12)
    assert got.per_seed == pytest.approx((value,), abs=1e-12)
    assert (got.low, got.high) == interval(want)


def test_pairing_narrows():
    """Two nearly equal arms: the difference is known far better than either area."""
    (a,), (b,) = arms(1, 400, 0.02, np.random.default_rng(0))
    paired = hierarchical_difference([a], [b], resamples=100)
    drawn = replicates({"a": a}, {"audc": metrics.audc}, resamples=100)["a"]["audc"]
    low, high = interval(drawn)
    assert paired.high - paired.low < (high - low) / 4


def test_difference_of_equal_arms_is_nothing():
    ours, _ = arms(3, 40, 0.3, np.random.default_rng(0), spread=0.1)
    same = hierarchical_difference(ours, ours, resamples=20)
    assert (same.value, same.low, same.high, same.per_seed) == (0.0, 0.0, 0.0, (0.0, 0.0, 0.0))
    assert not same.significant


def test_difference_means_over_seeds_and_sees_a_real_effect():
    ours, theirs = arms(4, 300, 1.0, np.random.default_rng(1), spread=0.05)
    found = hierarchical_difference(ours, theirs, resamples=100)
    each = [
        metrics.audc(a.curve()) - metrics.audc(b.curve()) for a, b in zip(ours, theirs, strict=True)
    ]
    assert found.per_seed == pytest.approx(each, abs=1e-12)
    assert found.value == pytest.approx(np.mean(each), abs=1e-12)
    assert found.low <= found.value <= found.high
    assert found.significant


def test_seeds_widen_the_interval():
    """Seeds that disagree must show: resampling queries alone would hide them."""
    rng = np.random.default_rng(0)
    score, outcomes = make.calibrated(2000, rng)
    good, bad = rank(score, outcomes), rank(-score, outcomes)
    flat = rank(np.zeros(2000), outcomes)
    mixed = hierarchical_difference([good, bad] * 4, [flat] * 8, resamples=100)
    sure = hierarchical_difference([good] * 8, [flat] * 8, resamples=100)
    assert mixed.high - mixed.low > 3 * (sure.high - sure.low)
    assert not mixed.significant
    assert sure.significant


def test_interval_over_seeds_and_queries_covers_the_truth():
    """30 sets of 5 seeds x 60 queries; the percentile interval over 5 seeds is a little
    narrow (a factor .89), so nominal .95 is about .92; the floor is 3 standard errors below."""
    rng = np.random.default_rng(0)
    covered = 0
    for k in range(30):
        confidence, outcomes = make.calibrated(60, rng)
        base = [rank(confidence + 0.3 * rng.normal(size=60), outcomes) for _ in range(5)]
        arm = [rank(confidence + 0.3 * rng.normal(size=60), outcomes) for _ in range(5)]
        found = hierarchical_difference(arm, base, resamples=39, seed=k)  # true difference 0
        covered += found.low <= 0 <= found.high
    assert covered / 30 >= 0.77


def test_relative_flops_at_equal_quality():
    ours, theirs = arms(2, 400, 1.0, np.random.default_rng(0))
    metric = functools.partial(metrics.flops_at_quality, quality=0.75)
    found = hierarchical_difference(ours, theirs, metric, relative=True, resamples=50)
    a, b = (np.mean([metric(r.curve()) for r in side]) for side in (ours, theirs))
    assert found.value == pytest.approx(a / b - 1, abs=1e-12)
    assert found.low < found.value < found.high < 0  # cheaper at equal quality


def test_unreached_quality_has_no_difference():
    ours, theirs = arms(2, 40, 0.5, np.random.default_rng(0))
    metric = functools.partial(metrics.flops_at_quality, quality=1.0)
    found = hierarchical_difference(ours, theirs, metric, resamples=20)
    assert (found.value, found.low, found.high, found.per_seed) == (None, None, None, (None, None))
    assert not found.significant


def test_arms_must_match():
    a, b = (rank(np.arange(float(n)), make.outcomes(n)) for n in (5, 6))
    with pytest.raises(InputError, match="2 and 1 seeds"):
        hierarchical_difference([a, a], [a])
    with pytest.raises(InputError, match="0 and 0 seeds"):
        hierarchical_difference([], [])
    with pytest.raises(InputError, match="curves of 5 and 6 queries"):
        hierarchical_difference([a], [b])


def test_groups_measured_together_or_apart_share_their_resamples():
    ours, theirs = arms(3, 80, 0.6, np.random.default_rng(2), spread=0.2)
    together = measured([ours, theirs], resamples=30, seed=4)
    apart = [measured([side], resamples=30, seed=4)[0] for side in (ours, theirs)]
    for a, b in zip(together, apart, strict=True):
        np.testing.assert_array_equal(a.per_seed, b.per_seed)
        np.testing.assert_array_equal(a.drawn, b.drawn)
    assert difference(*together) == hierarchical_difference(ours, theirs, resamples=30, seed=4)


def test_joint_draws_are_those_of_the_measured_intervals():
    """The area of the queries and seeds written out, as often as each was drawn."""
    outcomes = make.outcomes(50, graded=True)
    scores = [make.tied_score(50, seed=k) for k in range(3)]
    found = measured([[rank(score, outcomes) for score in scores]], resamples=12, seed=6)[0]
    draws = list(joint_draws(50, 3, resamples=12, seed=6))
    for b, (weights, times) in enumerate(draws):
        np.testing.assert_array_equal(weights, weights_of(50, b, seed=6))
        rows = np.repeat(np.arange(50), weights)
        areas = [metrics.audc(deferral_curve(s[rows], outcomes.take(rows))) for s in scores]
        assert found.drawn[b] == pytest.approx(np.dot(times, areas) / 3, abs=1e-12)
    assert {int(times.sum()) for _, times in draws} == {3}


def test_a_seed_without_a_value_counts_only_where_it_was_drawn():
    outcomes = make.outcomes(60)
    good, bad = (rank(sign * oracle_score(outcomes), outcomes) for sign in (1, -1))

    def metric(curve):  # not defined for a ranking below the random chord
        area = metrics.audc(curve)
        return area if area >= (curve.quality[0] + curve.quality[-1]) / 2 else None

    sure = measured([[good] * 4], metric, resamples=40)[0]
    mixed = measured([[good, good, good, bad]], metric, resamples=40)[0]
    drawn = np.array([times[3] for _, times in joint_draws(60, 4, resamples=40)])
    assert np.isnan(mixed.per_seed).tolist() == [False, False, False, True]
    assert 0 < drawn.astype(bool).sum() < 40
    np.testing.assert_array_equal(np.isnan(mixed.drawn), drawn > 0)
    np.testing.assert_allclose(mixed.drawn[drawn == 0], sure.drawn[drawn == 0], atol=1e-12)


def test_groups_must_match():
    a = rank(np.arange(5.0), make.outcomes(5))
    with pytest.raises(InputError, match=r"groups of \[1, 2\] seeds"):
        measured([[a], [a, a]])
