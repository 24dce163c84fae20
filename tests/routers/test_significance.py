"""p-values against literal swaps, loops, SciPy, and their size where there is nothing to find."""

import itertools

import make
import numpy as np
import pytest
from scipy import stats

from routers import metrics
from routers.base import Outcomes
from routers.bootstrap import interval, replicates
from routers.curves import deferral_curve, rank
from routers.errors import InputError
from routers.paired import hierarchical_difference
from routers.significance import (
    bootstrap_p,
    compare,
    holm,
    permutation_p,
    sign_flip_p,
    swap_terms,
)


def pair(levels, other_levels, queries=37, graded=True):
    """Two rankings of the same queries, with so many distinct scores."""
    outcomes = make.outcomes(queries, graded=graded)
    scores = make.tied_score(queries, 1, levels), make.tied_score(queries, 2, other_levels)
    return *(rank(score, outcomes) for score in scores), scores, outcomes


def percentile(score):
    """The places a score may take among its router's, in [0, N]: those of its ties."""
    return [(np.sum(score < s), np.sum(score <= s)) for s in score]


def chance_below(place, other):
    """P(uniform on ``other`` < uniform on ``place``) by hand: piecewise areas of a rectangle."""
    (a, b), (c, d) = place, other
    low, high = max(a, c), min(b, d)
    if low >= high:
        return float(c < a)
    below = (high - low) ** 2 / 2  # both in the overlap
    below += (high - low) * (low - c)  # the other further down
    below += (b - high) * (high - c) if b > high else 0.0  # this one further up
    return below / ((b - a) * (d - c))


def area_of(places, gain):
    """Area of a column of percentiles, ties spread evenly, less Q_S: a double loop."""
    n = len(gain)
    chances = [
        [0.5 if i == j else chance_below(places[i], places[j]) for j in range(n)] for i in range(n)
    ]
    return sum(gain[i] * sum(chances[i]) for i in range(n)) / n**2


@pytest.mark.parametrize("levels", list(itertools.product((1, 4, 100_000), repeat=2)))
def test_terms_add_up_to_the_difference_of_areas(levels):
    first, second, _, _ = pair(*levels)
    want = metrics.audc(first.curve()) - metrics.audc(second.curve())
    assert swap_terms(first, second).mean() == pytest.approx(want, abs=1e-14)


def test_signs_are_literal_swaps_ranked_again():
    """Without ties: swap percentiles, rank both columns again, draw both curves."""
    first, second, scores, outcomes = pair(100_000, 100_000)
    terms = swap_terms(first, second)
    places = [stats.rankdata(score) for score in scores]
    rng = np.random.default_rng(0)
    for _ in range(20):
        swap = rng.random(len(terms)) < 0.5
        mixed = np.where(swap, *places[::-1]), np.where(swap, *places)
        a, b = (metrics.audc(deferral_curve(column, outcomes)) for column in mixed)
        assert np.mean(np.where(swap, -1, 1) * terms) == pytest.approx(a - b, abs=1e-14)


@pytest.mark.parametrize("levels", [(3, 9), (1, 100_000), (2, 3), (5, 5)])
def test_ties_are_spread_over_the_places_they_share(levels):
    first, second, scores, outcomes = pair(*levels, queries=11)
    terms = swap_terms(first, second)
    places = [percentile(score) for score in scores]
    rng = np.random.default_rng(0)
    for _ in range(5):
        swap = rng.random(11) < 0.5
        a, b = ([places[side ^ int(s)][i] for i, s in enumerate(swap)] for side in (0, 1))
        want = area_of(a, outcomes.gain) - area_of(b, outcomes.gain)
        assert np.mean(np.where(swap, -1, 1) * terms) == pytest.approx(want, abs=1e-13)


def test_the_p_value_is_that_of_all_sign_flips():
    """Ten queries have 1,024 equally likely swaps: SciPy counts them all."""
    first, second, _, _ = pair(100_000, 4, queries=10)
    terms = swap_terms(first, second)
    exact = stats.permutation_test((terms,), np.mean, permutation_type="samples", n_resamples=1024)
    got = permutation_p(first, second, permutations=40_000)
    assert 0.05 < exact.pvalue < 0.95
    assert got == pytest.approx(exact.pvalue, abs=0.01)  # 4 standard errors at p = .5


def test_swapping_the_routers_or_their_scale_changes_no_p():
    first, second, scores, outcomes = pair(100_000, 9)
    p = permutation_p(first, second, permutations=200)
    assert permutation_p(second, first, permutations=200) == p
    scaled = rank(np.exp(3 * scores[0]), outcomes)
    assert permutation_p(scaled, second, permutations=200) == p
    assert permutation_p(first, second, permutations=200, seed=1) != p


def test_a_pair_has_the_same_p_in_any_company_and_any_block(monkeypatch):
    first, second, _, _ = pair(100_000, 9)
    third, _, _, _ = pair(4, 9)
    alone = permutation_p(first, second, permutations=300)
    rows = [swap_terms(third, second), swap_terms(first, second)]
    together = sign_flip_p(np.stack(rows), permutations=300)
    monkeypatch.setattr("routers.significance.SIGNS_AT_ONCE", 7 * 37)
    assert together[1] == alone == permutation_p(first, second, permutations=300)


def test_the_same_ranking_twice_is_no_difference():
    first, _, scores, outcomes = pair(9, 9, queries=200)
    again = rank(np.exp(scores[0]), outcomes)
    assert not swap_terms(first, again).any()
    areas, (found,) = compare({"a": first, "b": again}, resamples=100, permutations=50)
    assert (found.p_permutation, found.p_holm, found.p_bootstrap) == (1.0, 1.0, 1.0)
    assert found.per_query == 0.0
    assert (found.difference.value, found.difference.low, found.difference.high) == (0.0, 0.0, 0.0)
    assert areas["a"].value == pytest.approx(areas["b"].value, abs=1e-14)


def test_other_outcomes_are_refused():
    score = make.tied_score(20)
    a, b = (rank(score, make.outcomes(20, seed)) for seed in (0, 1))
    with pytest.raises(InputError, match="rankings of different outcomes"):
        swap_terms(a, b)
    with pytest.raises(InputError, match="curves of 20 and 21 queries"):
        swap_terms(a, rank(np.zeros(21), make.outcomes(21)))


def noisy(rng, queries, tied):
    """Two equally noisy views of the same difficulty, on different scales."""
    d = rng.random(queries)
    scores = [-d + 0.3 * rng.normal(size=queries) for _ in range(2)]
    small = (rng.random(queries) < d).astype(float)
    if tied:
        scores = [np.round(3 * score) for score in scores]
    return scores[0], np.exp(3 * scores[1]), small


def constant_and_coin(rng, queries, tied):
    return np.zeros(queries), rng.random(queries), (rng.random(queries) < 0.5).astype(float)


@pytest.mark.parametrize(
    ("scores", "tied"), [(noisy, False), (noisy, True), (constant_and_coin, True)]
)
def test_the_size_is_the_level_where_routers_are_alike(scores, tied):
    """1,000 data sets of 200 queries; the standard error of a rate of .05 is .0069, of .2 .0126.

    Three of them either way; percentiles estimated from the queries cost less than one.
    """
    rng, found = np.random.default_rng(5), []
    for k in range(1000):
        first, second, small = scores(rng, 200, tied)
        large = (rng.random(200) < 0.9).astype(float)
        outcomes = Outcomes(small, large, small, small)
        ranked = rank(first, outcomes), rank(second, outcomes)
        found.append(permutation_p(*ranked, permutations=199, seed=k))
    assert 0.029 <= np.mean(np.array(found) <= 0.05) <= 0.071
    assert 0.162 <= np.mean(np.array(found) <= 0.2) <= 0.238


def test_a_real_difference_is_found():
    score, outcomes = make.calibrated(500, np.random.default_rng(0))
    noise = np.random.default_rng(1).normal(size=500)
    better, worse = rank(score, outcomes), rank(score + 0.5 * noise, outcomes)
    assert permutation_p(better, worse, permutations=999) == 0.001


def test_with_many_queries_the_p_value_is_normal():
    """The sum of 3,000 signed terms: p is that of a z-test, to 4 standard errors at 5,000 flips."""
    first, second, _, _ = pair(100_000, 100_000, queries=3000)
    terms = swap_terms(first, second)
    z = terms.sum() / np.sqrt(np.sum(terms**2))
    want = 2 * stats.norm.sf(abs(z))
    got = permutation_p(first, second, permutations=5000)
    assert got == pytest.approx(want, abs=4 * np.sqrt(want * (1 - want) / 5000))


def test_p_values_do_not_depend_on_the_order_of_the_queries():
    """Another order draws other signs: equal up to 4 standard errors at 20,000 flips."""
    first, second, scores, outcomes = pair(100_000, 9)
    rows = np.random.default_rng(0).permutation(37)
    moved = [rank(score[rows], outcomes.take(rows)) for score in scores]
    np.testing.assert_allclose(
        swap_terms(*moved), swap_terms(first, second)[rows], rtol=0, atol=1e-14
    )
    p, q = (permutation_p(a, b, permutations=20_000) for a, b in ((first, second), moved))
    assert p == pytest.approx(q, abs=0.02)


def test_bootstrap_p_agrees_with_the_interval():
    """999 resamples: p <= .05 exactly where the 95 % percentile interval leaves out 0."""
    rng = np.random.default_rng(0)
    verdicts = set()
    for shift in np.linspace(1.5, 2.4, 40):
        drawn = shift + rng.normal(size=999)
        low, _ = interval(drawn)
        assert (bootstrap_p(drawn) <= 0.05) == (low > 0)
        assert bootstrap_p(-drawn) == bootstrap_p(drawn)
        verdicts.add(low > 0)
    assert verdicts == {True, False}


def test_bootstrap_p_by_hand():
    assert bootstrap_p(np.array([1.0] * 99)) == 2 / 100
    assert bootstrap_p(np.array([1.0] * 97 + [-1.0] * 2)) == 6 / 100
    assert bootstrap_p(np.array([1.0] * 97 + [np.nan] * 2)) == 6 / 100  # undefined: both sides
    assert bootstrap_p(np.zeros(99)) == 1.0


def holm_by_hand(p):
    """The step-down procedure as Holm states it: the least level at which each is rejected."""
    order = sorted(range(len(p)), key=lambda i: p[i])
    adjusted, worst = [0.0] * len(p), 0.0
    for step, i in enumerate(order):
        worst = max(worst, (len(p) - step) * p[i])
        adjusted[i] = min(1.0, worst)
    return adjusted


@pytest.mark.parametrize("size", [1, 2, 7, 45])
def test_holm_is_the_step_down_procedure(size):
    rng = np.random.default_rng(size)
    p = np.round(rng.random(size) ** 3, 2)  # with ties
    np.testing.assert_allclose(holm(p), holm_by_hand(p.tolist()), rtol=0, atol=1e-15)
    # Rejecting where the corrected p is small is the procedure at every level.
    for level in (0.01, 0.05, 0.3):
        rejected = np.zeros(size, bool)
        for step, i in enumerate(np.argsort(p, kind="stable")):
            if p[i] > level / (size - step):
                break
            rejected[i] = True
        np.testing.assert_array_equal(holm(p) <= level + 1e-12, rejected)


def test_holm_bounds_false_findings_among_many():
    """2,000 sets of 10 true hypotheses: any rejected in at most .05; uncorrected in .40."""
    p = np.random.default_rng(0).random((2000, 10))
    assert np.mean([holm(row).min() <= 0.05 for row in p]) <= 0.05 + 3 * 0.0049
    assert np.mean(p.min(axis=1) <= 0.05) > 0.35


def test_every_pair_is_compared_best_first():
    score, outcomes = make.calibrated(300, np.random.default_rng(0))
    rng = np.random.default_rng(1)
    noise = {"coin": 100.0, "good": 0.0, "fair": 0.3}
    ranked = {n: rank(score + s * rng.normal(size=300), outcomes) for n, s in noise.items()}
    areas, found = compare(ranked, resamples=100, permutations=200, seed=3)
    assert list(areas) == ["good", "fair", "coin"]
    assert [(c.first, c.second) for c in found] == [
        ("good", "fair"),
        ("good", "coin"),
        ("fair", "coin"),
    ]
    drawn = replicates(ranked, {"audc": metrics.audc}, resamples=100, seed=3)
    for c in found:
        a, b = ranked[c.first], ranked[c.second]
        assert c.difference == hierarchical_difference([a], [b], resamples=100, seed=3)
        assert c.difference.value >= 0
        assert c.p_permutation == permutation_p(a, b, permutations=200, seed=3)
        change = drawn[c.first]["audc"] - drawn[c.second]["audc"]
        assert c.p_bootstrap == bootstrap_p(change)
        assert c.per_query == pytest.approx(np.sqrt(300 * np.var(change, ddof=1)), rel=1e-12)
    together = holm(np.array([c.p_permutation for c in found]))
    np.testing.assert_array_equal([c.p_holm for c in found], together)


@pytest.mark.parametrize(
    ("routers", "counts", "says"),
    [
        (1, {}, "1 router to compare"),
        (2, {"resamples": 99}, "99 resamples cannot bound"),
        (4, {"permutations": 119}, "over 6 comparisons; take 120 or more"),
    ],
)
def test_too_little_to_compare_is_refused(routers, counts, says):
    outcomes = make.outcomes(20)
    ranked = {str(k): rank(make.tied_score(20, k), outcomes) for k in range(routers)}
    with pytest.raises(InputError, match=says):
        compare(ranked, **counts)
