"""Resampling by weights against literally resampled rows; coverage of the intervals."""

import functools

import make
import numpy as np
import pytest

from routers import metrics
from routers.bootstrap import (
    BLOCK,
    THREADED_FROM,
    interval,
    replicates,
    resample_weights,
)
from routers.curves import deferral_curve, rank

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
        score, outcomes = make.calibrated(150, rng)
        drawn = replicates(
            {"r": rank(score, outcomes)}, {"audc": metrics.audc}, resamples=39, seed=k
        )
        low, high = interval(drawn["r"]["audc"])
        covered += low <= PLANTED_AREA <= high
    assert 0.895 <= covered / 120 <= 0.995
