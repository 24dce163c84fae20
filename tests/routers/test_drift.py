"""Drift against SciPy's tests, a threshold at a time, and how often it cries wolf."""

import itertools

import numpy as np
import pytest
from scipy import stats

from routers.drift import CRITICAL, population_stability_index, score_drift, task_drift
from routers.errors import InputError


@pytest.mark.parametrize("levels", [3, 20, 100_000])
def test_distance_is_the_largest_miss_of_a_deferral_rate(levels):
    rng = np.random.default_rng(levels)
    ours, theirs = (rng.integers(0, levels, n) / levels for n in (150, 90))
    found = score_drift(ours, theirs)
    misses = [
        abs((ours >= t).mean() - (theirs >= t).mean()) for t in np.concatenate([ours, theirs])
    ]
    assert found.distance == pytest.approx(max(misses), abs=1e-12)
    assert found.distance == pytest.approx(stats.ks_2samp(ours, theirs).statistic, abs=1e-12)


@pytest.mark.parametrize(("n", "m"), [(200, 200), (1000, 300), (5000, 4000)])
@pytest.mark.parametrize("shift", [0.0, 0.05, 0.12])
def test_p_is_near_the_exact_one(n, m, shift):
    """From 200 queries on the limiting p is off by .03 at most, and upwards where it matters."""
    rng = np.random.default_rng(n)
    ours, theirs = rng.normal(size=n), shift + rng.normal(size=m)
    exact = stats.ks_2samp(ours, theirs, method="exact").pvalue
    found = score_drift(ours, theirs).p
    assert found == pytest.approx(exact, abs=0.03)
    assert found >= exact or exact > 0.2


def test_the_visible_distance_is_where_p_passes_the_level():
    assert stats.kstwobign.sf(CRITICAL) == pytest.approx(0.05, abs=1e-7)
    found = score_drift(np.arange(400.0), np.arange(100.0))
    assert found.visible == pytest.approx(CRITICAL * np.sqrt(500 / 40_000), rel=1e-12)
    assert score_drift(np.zeros(1), np.zeros(2)).visible == 1.0


def test_false_alarms_are_as_rare_as_the_level():
    """2,000 pairs of splits of 300 without drift; the standard error of .05 is .0049.

    The limit is conservative at this size (SciPy's exact test rejects in about .044).
    """
    rng = np.random.default_rng(0)
    p = [score_drift(*rng.random((2, 300))).p for _ in range(2000)]
    assert 0.025 <= np.mean(np.array(p) <= 0.05) <= 0.05 + 3 * 0.0049


@pytest.mark.parametrize(
    ("queries", "shift", "verdict", "says"),
    [
        (4000, 0.0, "stable", "can be trusted"),
        (20_000, 0.03, "slight", "hold about"),
        (4000, 0.3, "shifted", "do not trust"),
        (40, 0.0, "too few", "too few queries to tell"),
    ],
)
def test_the_verdict_says_whether_to_trust_thresholds(queries, shift, verdict, says):
    rng = np.random.default_rng(1)
    ours, theirs = rng.random(queries), shift + rng.random(queries)
    found = score_drift(ours, theirs)
    assert found.verdict == verdict
    assert says in found.sentence
    assert f"missed by up to {found.distance:.3f}" in found.sentence
    # What it says of thresholds is what happens to them.
    for rate in (0.2, 0.5, 0.8):
        achieved = (theirs >= np.quantile(ours, 1 - rate)).mean()
        assert abs(achieved - rate) <= found.distance + 1 / queries


def test_the_index_by_a_loop():
    rng = np.random.default_rng(0)
    expected, actual = rng.normal(size=500), 0.4 + rng.normal(size=300)
    edges = [-np.inf, *np.quantile(expected, np.arange(1, 10) / 10), np.inf]
    want = 0.0
    for low, high in itertools.pairwise(edges):
        e, a = (
            (sum(low <= s < high for s in part) + 0.5) / (len(part) + 5)
            for part in (expected.tolist(), actual.tolist())
        )
        want += (a - e) * np.log(a / e)
    assert population_stability_index(expected, actual) == pytest.approx(want, abs=1e-12)
    assert want > 0.1


def test_the_index_of_two_normals_is_their_divergence():
    """Symmetrised Kullback-Leibler divergence of N(0, 1) and N(d, 1) is d^2; ten bins lose some."""
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(size=200_000), 0.5 + rng.normal(size=200_000)
    assert 0.22 < population_stability_index(ours, theirs) < 0.25
    assert population_stability_index(ours, theirs, bins=1000) == pytest.approx(0.25, abs=0.015)


def test_without_drift_the_index_is_its_bias():
    """Mean (bins - 1)(1/N + 1/M) = .024 over 1,000 draws, within 10 %."""
    rng = np.random.default_rng(0)
    drawn = [population_stability_index(rng.random(500), rng.random(1500)) for _ in range(1000)]
    assert np.mean(drawn) == pytest.approx(9 * (1 / 500 + 1 / 1500), rel=0.1)


def test_the_index_stays_finite_where_scores_are_tied_or_gone():
    assert population_stability_index(np.zeros(50), np.zeros(80)) == 0.0
    moved = population_stability_index(np.zeros(50), np.ones(80))
    assert 0 <= moved < np.inf  # no threshold below the only score ever seen: one bin
    gone = population_stability_index(np.arange(100.0), np.full(50, 99.0))
    assert 2 < gone < np.inf


def mixes(n, m, p, rng):
    names = np.array([f"task {k}" for k in range(len(p))])
    return rng.choice(names, n, p=p), rng.choice(names, m, p=p[::-1])


@pytest.mark.parametrize("seed", range(4))
def test_task_p_is_near_the_chi_square_tests(seed):
    """Hundreds of queries per task: the permutation p is the asymptotic one to .03."""
    p = np.array([0.30, 0.24, 0.24, 0.22])
    ours, theirs = mixes(1200, 800, p, np.random.default_rng(seed))
    table = [[(part == t).sum() for t in np.unique(ours)] for part in (ours, theirs)]
    want = stats.chi2_contingency(table, correction=False).pvalue
    assert task_drift(ours, theirs, permutations=5000).p == pytest.approx(want, abs=0.03)


def test_task_p_is_that_of_permuted_queries():
    """Tasks with one or two queries, where chi-square tables mislead: shuffle them by hand."""
    rng = np.random.default_rng(0)
    pool = np.array([*"aaaaaaaabbbccdde"])
    ours, theirs = pool[:9], pool[9:]

    def statistic(part):
        expected = np.array([9 * (pool == t).mean() for t in "abcde"])
        return (((part[:, None] == [*"abcde"]).sum(0) - expected) ** 2 / expected).sum()

    drawn = [statistic(rng.permutation(pool)[:9]) for _ in range(4000)]
    want = np.mean(np.array(drawn) >= statistic(ours) - 1e-9)
    got = task_drift(ours, theirs, permutations=20_000).p
    assert got == pytest.approx(want, abs=0.03)  # 4 standard errors at p = .5


def test_task_mixes_in_sentences():
    same = np.repeat(["a", "b"], 50)
    found = task_drift(same, same[::-1])
    assert (found.distance, found.p) == (0.0, 1.0)
    assert "the same as far as can be told" in found.sentence
    moved = task_drift(same, np.repeat(["a", "c"], [20, 80]))
    assert moved.distance == pytest.approx(0.8, abs=1e-12)
    assert moved.p == pytest.approx(1 / 10_001, rel=1e-12)
    assert "differs (0.800 of the queries" in moved.sentence
    assert "per task" in moved.sentence


def test_one_task_cannot_drift():
    assert task_drift(np.array(["a"] * 5), np.array(["a"] * 9)).p == 1.0


def test_seeds_decide_the_permutations():
    ours, theirs = mixes(60, 60, np.array([0.4, 0.3, 0.3]), np.random.default_rng(0))
    p = [task_drift(ours, theirs, permutations=500, seed=k).p for k in (0, 0, 1)]
    assert p[0] == p[1] != p[2]


def test_empty_and_broken_splits_are_refused():
    with pytest.raises(InputError, match="no queries to compare task mixes"):
        task_drift(np.array([], str), np.array(["a"]))
    with pytest.raises(InputError, match="mine: no queries"):
        score_drift(np.zeros(0), np.zeros(3), "mine")
    with pytest.raises(InputError, match="mine: score is inf for 1 of 2"):
        score_drift(np.zeros(3), np.array([0.0, np.inf]), "mine")
