"""Resampling by weights against literally resampled rows; coverage of the intervals."""

import functools

import make
import numpy as np
import pytest

from routers import metrics
from routers.base import Outcomes
from routers.bootstrap import (
    BLOCK,
    THREADED_FROM,
    hierarchical_difference,
    interval,
    replicates,
    resample_weights,
)
from routers.curves import deferral_curve, rank
from routers.errors import InputError

METRICS = {
    "audc": metrics.audc,
    "aucfc": metrics.aucfc,
    "saving": functools.partial(metrics.flops_saving, x=0.5),
}


def weights_of(queries, b, seed=0):
    """The stream that resample b of a bootstrap with this seed draws from."""
    stream = np.random.SeedSequence(seed, spawn_key=(0, b))
    return resample_weights(queries, np.random.default_rng(stream))


def literal(score, outcomes, weights, metric):
    """The metric of the rows repeated as often as they were drawn."""
    rows = np.repeat(np.arange(len(score)), weights)
    value = metric(deferral_curve(score[rows], outcomes.take(rows)))
    return np.nan if value is None else value


@pytest.mark.parametrize("levels", [1, 5, 100_000])
@pytest.mark.parametrize("graded", [False, True])
def test_weights_are_the_resampled_rows(levels, graded):
    outcomes, score = make.outcomes(83, graded=graded), make.tied_score(83, levels=levels)
    got = replicates({"r": rank(score, outcomes)}, METRICS, resamples=20)["r"]
    for name, metric in METRICS.items():
        want = [literal(score, outcomes, weights_of(83, b), metric) for b in range(20)]
        np.testing.assert_allclose(got[name], want, rtol=0, atol=1e-9)


@pytest.mark.parametrize("levels", [1, 5, 100_000])
def test_area_alone_takes_a_short_cut_to_the_same_numbers(levels):
    outcomes, score = make.outcomes(83, graded=True), make.tied_score(83, levels=levels)
    ranked = {"r": rank(score, outcomes)}
    whole = replicates(ranked, METRICS, resamples=20)["r"]["audc"]
    short = replicates(ranked, {"audc": metrics.audc}, resamples=20)["r"]["audc"]
    np.testing.assert_allclose(short, whole, rtol=0, atol=1e-12)


def test_threads_change_nothing():
    queries = THREADED_FROM + 17
    outcomes, score = make.outcomes(queries), make.tied_score(queries)
    got = replicates({"r": rank(score, outcomes)}, {"audc": metrics.audc}, resamples=3)["r"]
    want = [literal(score, outcomes, weights_of(queries, b), metrics.audc) for b in range(3)]
    np.testing.assert_allclose(got["audc"], want, rtol=0, atol=1e-9)


@pytest.mark.parametrize("queries", [1, 255, 256, 257, 1000, BLOCK + 3])
def test_a_resample_has_the_same_size(queries):
    weights = resample_weights(queries, np.random.default_rng(0))
    assert len(weights) == weights.sum() == queries
    assert weights.min() >= 0


@pytest.mark.parametrize(("queries", "block"), [(10, BLOCK), (10, 4), (9, 4)])
def test_weights_are_multinomial(monkeypatch, queries, block):
    """Mean 1, variance 1 - 1/n, covariance -1/n, also across blocks."""
    monkeypatch.setattr("routers.bootstrap.BLOCK", block)
    rng = np.random.default_rng(0)
    drawn = np.array([resample_weights(queries, rng) for _ in range(4000)])
    np.testing.assert_allclose(drawn.mean(axis=0), 1, atol=0.08)  # 5 standard errors
    want = np.eye(queries) - 1 / queries
    np.testing.assert_allclose(np.cov(drawn.T), want, atol=0.13)


def test_routers_are_resampled_jointly():
    """Evaluated apart or together, in any order, a router sees the same resamples."""
    outcomes = make.outcomes(50)
    a, b = (rank(make.tied_score(50, seed), outcomes) for seed in (1, 2))
    both = replicates({"a": a, "b": b}, {"audc": metrics.audc}, resamples=10, seed=3)
    alone = replicates({"b": b}, {"audc": metrics.audc}, resamples=10, seed=3)
    np.testing.assert_array_equal(both["b"]["audc"], alone["b"]["audc"])
    other = replicates({"b": b}, {"audc": metrics.audc}, resamples=10, seed=4)
    assert (other["b"]["audc"] != alone["b"]["audc"]).any()


def test_interval_is_order_statistics():
    values = np.random.default_rng(0).permutation(1000.0 * np.arange(1000))
    assert interval(values) == (25_000.0, 974_000.0)
    assert interval(values, level=0.9) == (50_000.0, 949_000.0)
    assert interval(np.full(10, 2.0)) == (2.0, 2.0)


def test_undefined_resamples_widen_the_interval():
    values = np.arange(1000.0)
    some = np.where(values < 20, np.nan, values)
    low, high = interval(some)
    assert (low, high) == (25.0, 994.0)
    assert interval(np.where(values < 26, np.nan, values)) == (None, None)
    assert interval(np.zeros(0)) == (None, None)


def planted(queries, rng):
    """Large right with .9; small right where its confidence says so. True area known below."""
    confidence = rng.random(queries)
    small = (rng.random(queries) < confidence).astype(float)
    large = (rng.random(queries) < 0.9).astype(float)
    return -confidence, Outcomes(small, large, np.ones(queries), 9 * np.ones(queries))


# Q(D) = 1/2 + int_0^D (.9 - c) dc, so the area is 1/2 + .9/2 - 1/6.
PLANTED_AREA = 0.5 + 0.9 / 2 - 1 / 6


def test_the_interval_covers_the_truth():
    """120 data sets of 150 queries: 95 % intervals hold the true area in 95 % of them.

    Standard error of a coverage of .95 over 120 sets is .020; the floor is 2.7 of them;
    intervals that hold it in every set would be too wide.
    """
    rng = np.random.default_rng(0)
    covered = 0
    for k in range(120):
        score, outcomes = planted(150, rng)
        drawn = replicates(
            {"r": rank(score, outcomes)}, {"audc": metrics.audc}, resamples=39, seed=k
        )
        low, high = interval(drawn["r"]["audc"])
        covered += low <= PLANTED_AREA <= high
    assert 0.895 <= covered / 120 <= 0.995


def arms(seeds, queries, effect, rng, spread=0.0):
    """Two arms on the same queries: the second one's confidence is noisier by ``effect``."""
    score, outcomes = planted(queries, rng)
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
    score, outcomes = planted(2000, rng)
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
        confidence, outcomes = planted(60, rng)
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
