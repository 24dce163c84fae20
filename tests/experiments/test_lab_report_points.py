import math

import numpy as np
import pytest

from experiments.lab_points import Z, at_thresholds, by_score, of_router, thinned
from routers.base import Inputs, Outcomes
from routers.build import build
from routers.curves import deferral_curve, oracle_score
from routers.measure import Split
from routers.thresholds import achieved

N = 53


def outcomes(graded=False, n=N, seed=0):
    rng = np.random.default_rng(seed)
    quality = rng.random((2, n)) if graded else rng.integers(0, 2, (2, n)).astype(float)
    return Outcomes(*quality, rng.uniform(1, 2, n), rng.uniform(10, 20, n))


def scores(levels, n=N, seed=1):
    return np.random.default_rng(seed).integers(0, levels, n) / 8


def thresholds(score):
    between = np.array([0.0625, 0.3])
    return np.array([np.inf, *np.sort(score)[::-1][::5], *between, score.min(), -np.inf])


def loop(threshold, score, o, stage, router):
    """One threshold, query by query."""
    quality, change, small, large = [], [], [], []
    for i in range(len(score)):
        sent = score[i] >= threshold
        quality.append(float(o.quality_large[i] if sent else o.quality_small[i]))
        change.append(quality[-1] - float(o.quality_large[i]))
        small.append(0.0 if sent and stage == "prompt" else float(o.flops_small[i]))
        large.append(float(o.flops_large[i]) if sent else 0.0)
    n = len(score)
    found = {"deferral_rate": sum(score >= threshold) / n, "router_cost": sum(router) / n}
    found |= {"small_cost": sum(small) / n, "large_cost": sum(large) / n}
    for name, values in (("quality", quality), ("change", change)):
        mean = sum(values) / n
        half = Z * math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1) / n)
        found |= {name: mean, f"{name}_lo": mean - half, f"{name}_hi": mean + half}
    for end in ("quality_lo", "quality_hi"):
        found[end] = min(max(found[end], 0.0), 1.0)
    return found


@pytest.mark.parametrize("graded", [False, True])
@pytest.mark.parametrize("stage", ["prompt", "response"])
@pytest.mark.parametrize("levels", [1, 6, 10_000])
def test_points_are_their_definition(graded, stage, levels):
    o, score = outcomes(graded), scores(levels)
    router = np.random.default_rng(2).uniform(0, 3, N)
    threshold_K = thresholds(score)
    points = at_thresholds(threshold_K, score, o, stage=stage, router_cost_N=router)
    for k, threshold in enumerate(threshold_K):
        for name, wanted in loop(threshold, score, o, stage, router).items():
            # the spread is a difference of second moments: half of float64's digits near zero
            assert getattr(points, name)[k] == pytest.approx(wanted, abs=2e-8), name
    assert points.threshold is threshold_K


@pytest.mark.parametrize("stage", ["prompt", "response"])
def test_points_at_a_curves_thresholds_are_the_curve(stage):
    o, score = outcomes(True), scores(9)
    router = np.full(N, 0.25)
    curve = deferral_curve(score, o, stage=stage, router_flops=router)
    points = at_thresholds(curve.threshold, score, o, stage=stage, router_cost_N=router)
    for name in ("deferral_rate", "quality", "cost"):
        np.testing.assert_allclose(getattr(points, name), getattr(curve, name), rtol=1e-12)


def test_a_threshold_between_scores_is_the_point_it_achieves():
    o, score = outcomes(), scores(9)
    points = at_thresholds(np.array([0.3, -np.inf]), score, o)
    for k, threshold in enumerate((0.3, -np.inf)):
        wanted = achieved(threshold, score, o)
        assert points.deferral_rate[k] == wanted.deferral_rate
        assert points.quality[k] == pytest.approx(wanted.quality, abs=1e-12)
        assert points.cost[k] == pytest.approx(wanted.flops, abs=1e-9)


def test_the_interval_is_the_bootstraps():
    o, score = outcomes(n=2000), scores(40, n=2000)
    points = at_thresholds(np.array([2.5]), score, o)
    served = np.where(score >= 2.5, o.quality_large, o.quality_small)
    rng = np.random.default_rng(3)
    means = [served[rng.integers(0, 2000, 2000)].mean() for _ in range(2000)]
    half = (points.quality_hi[0] - points.quality_lo[0]) / 2
    assert half == pytest.approx(Z * np.std(means), rel=0.06)  # 2,000 draws know a sd to 1.6 %


def test_change_at_full_deferral_is_none_without_doubt():
    points = at_thresholds(np.array([-np.inf]), scores(9), outcomes(True))
    for name in ("change", "change_lo", "change_hi"):
        assert getattr(points, name)[0] == pytest.approx(0, abs=1e-7)


def test_one_query_has_no_interval():
    one = Outcomes(*np.array([[0.0], [1.0], [1.0], [2.0]]))
    points = at_thresholds(np.array([0.0]), np.array([1.0]), one)
    assert points.quality.tolist() == [1.0]
    assert np.isnan([points.quality_lo[0], points.quality_hi[0], points.change_lo[0]]).all()


def test_dollars_charge_no_router_flops():
    o, score = outcomes(n=8), scores(9, n=8)
    names, embedding = np.array(list("abcdefgh")), np.random.default_rng(0).random((8, 3))
    inputs = Inputs(names, names, np.ones(8, int), prompt_embedding=embedding)
    router = build("knn:k=2").fit(inputs, o)
    flops, dollars = (
        of_router(np.array([0.5]), router, score, Split(inputs, o, counts))
        for counts in (True, False)
    )
    assert flops.router_cost[0] > 0
    assert dollars.router_cost[0] == 0
    assert dollars.small_cost[0] < o.flops_small.mean()  # a prompt router: kept queries only


def test_thinned_keeps_ends_order_and_number():
    rng = np.random.default_rng(0)
    for length in (1, 2, 999, 1000, 1001, 25_000):
        rate = np.concatenate([[0.0], np.sort(rng.random(length))])
        rate[-1] = 1.0
        keep = thinned(rate, 1000)
        assert len(keep) <= 1000
        assert (keep[0], keep[-1]) == (0, length)
        assert (np.diff(keep) > 0).all()
        if length < 1000:
            assert keep.tolist() == list(range(length + 1))


def test_thinned_points_lie_where_the_rate_is_not_where_ties_are():
    rate = np.concatenate([np.linspace(0, 0.1, 5000), [0.5, 1.0]])
    assert {5000, 5001} <= set(thinned(rate, 100).tolist())
    assert np.diff(rate[thinned(rate, 100)])[:9].max() < 0.011


@pytest.mark.parametrize("levels", [1, 3, 14, 10_000])
def test_groups_are_their_definition(levels):
    o, score = outcomes(True), scores(levels)
    found = by_score(score, o)
    members = {}
    for i in range(N):
        below = sum(score[j] < score[i] for j in range(N))
        same = sum(score[j] == score[i] for j in range(N))
        group = int((below + (same - 1) / 2) / N * 10)
        members.setdefault(group, []).append(i)
    assert found.count.tolist() == [len(members[g]) for g in sorted(members)]
    for d, group in enumerate(sorted(members)):
        gains = [o.quality_large[i] - o.quality_small[i] for i in members[group]]
        assert found.gain[d] == pytest.approx(np.mean(gains), abs=1e-12)
        assert found.score[d] == pytest.approx(np.mean(score[members[group]]), abs=1e-12)
        if len(gains) > 1:
            half = Z * np.std(gains, ddof=1) / math.sqrt(len(gains))
            assert found.gain_hi[d] - found.gain[d] == pytest.approx(half, abs=1e-7)
            assert found.gain[d] - found.gain_lo[d] == pytest.approx(half, abs=1e-7)


def test_distinct_scores_make_deciles_and_a_perfect_score_rises():
    o = outcomes(True, n=100)
    found = by_score(oracle_score(o), o)
    assert found.count.tolist() == [10] * 10
    np.testing.assert_allclose(found.gain, found.score, rtol=1e-12)
    assert (np.diff(found.gain) > 0).all()
