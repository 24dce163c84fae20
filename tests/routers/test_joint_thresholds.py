"""Frontiers against a loop over every tuple of thresholds; a case where tuning one by one fails."""

import itertools

import numpy as np
import pytest
import tiers_planted as planted

import routers.joint_thresholds
from routers.cascade import Cascade, decide, judge
from routers.curves import deferral_curve
from routers.errors import InputError
from routers.evaluate import Column
from routers.frontier import Frontier
from routers.joint_thresholds import chain, frontier
from routers.thresholds import for_budget

SCORE = Column("s")


def made(tiers):
    return chain(tiers, (SCORE,) * (len(tiers.models) - 1))


def brute(tiers):
    """(quality, cost) of every tuple of thresholds, by the rule itself."""
    scores = [inputs.scores["s"] for inputs in tiers.inputs[:-1]]
    tried = [[np.inf, *np.unique(s)[::-1].tolist()] for s in scores]
    points = []
    for thresholds in itertools.product(*tried):
        stop = np.full(len(tiers), len(scores))
        for k in reversed(range(len(scores))):
            stop = np.where(scores[k] >= thresholds[k], stop, k)
        rows = np.arange(len(tiers))
        cost = np.cumsum(tiers.cost, axis=1)[rows, stop]
        points.append((tiers.quality[rows, stop].mean(), cost.mean()))
    return np.array(points)


def gaps(found: Frontier, points):
    """What the frontier misses of the best quality, at each cost that any setting has."""
    quality, cost = points[np.lexsort((-points[:, 0], points[:, 1]))].T
    best = np.maximum.accumulate(quality)
    at = np.searchsorted(found.cost, cost * (1 + 1e-9), side="right") - 1
    assert at.min() >= 0  # the cheapest setting is found
    return best - found.quality[at]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("levels", [0, 4])
@pytest.mark.parametrize(("tiers_K", "n"), [(2, 40), (3, 18)])
def test_up_to_three_tiers_are_exact(tiers_K, n, levels, seed):
    tiers = planted.random_tiers(n, tiers_K, seed, levels)
    found, points = frontier(made(tiers)), brute(tiers)
    np.testing.assert_allclose(gaps(found, points), 0.0, atol=1e-11)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("levels", [0, 3])
def test_local_search_on_four_tiers_finds_what_every_tuple_does(levels, seed):
    """2,197 tuples of thresholds on 12 queries; the search draws fewer lines than there are."""
    tiers = planted.random_tiers(12, 4, seed, levels)
    found = frontier(made(tiers), exact_lines=0)
    np.testing.assert_allclose(gaps(found, brute(tiers)), 0.0, atol=1e-11)


@pytest.mark.parametrize("seed", range(4))
def test_local_search_on_three_tiers_is_the_exact_frontier(seed):
    tiers = planted.random_tiers(60, 3, seed)
    exact, searched = frontier(made(tiers)), frontier(made(tiers), exact_lines=0)
    np.testing.assert_array_equal(exact.quality, searched.quality)
    np.testing.assert_array_equal(exact.cost, searched.cost)


def test_local_search_from_few_starts_is_near(monkeypatch):
    """From the corners alone it may stop short: here by at most .08, on pure noise."""
    monkeypatch.setattr(routers.joint_thresholds, "STARTS", 0)
    missed = []
    for seed in range(2, 6):
        tiers = planted.random_tiers(9, 4, seed)
        missed.append(gaps(frontier(made(tiers), exact_lines=0), brute(tiers)))
    assert min(m.min() for m in missed) >= -1e-11
    assert 0.0 < max(m.max() for m in missed) < 0.08
    assert np.mean([m.mean() for m in missed]) < 0.01


def test_settings_give_what_the_frontier_says():
    """The thresholds, deployed through ``Cascade`` on the same queries."""
    tiers = planted.random_tiers(40, 4, 3)
    found = frontier(made(tiers))
    assert len(found) > 10
    for p in range(0, len(found), 5):
        policy = Cascade(tiers.models, (SCORE,) * 3, tuple(found.settings[p].tolist()))
        judged = judge(decide(policy, tiers.inputs), tiers)
        assert judged.quality.mean() == pytest.approx(found.quality[p], abs=1e-13)
        assert judged.cost.mean() == pytest.approx(found.cost[p], rel=1e-13)


def test_a_frontier_rises():
    found = frontier(made(planted.random_tiers(50, 3, 1)))
    assert (np.diff(found.cost) > 0).all()
    assert (np.diff(found.quality) > 0).all()


def test_two_tiers_are_the_curves_best_points():
    tiers = planted.random_tiers(70, 2, 5, levels=9)
    curve = deferral_curve(tiers.inputs[0].scores["s"], tiers.outcomes(0, 1))
    found = frontier(made(tiers))
    for budget in np.linspace(curve.cost.min(), curve.cost.max(), 23).tolist():
        threshold = for_budget(curve, budget)
        place = found.within(budget)
        assert found.quality[place] == curve.quality[curve.threshold == threshold][0]


def test_sending_everything_on_is_minus_infinity():
    """The large tier always right: the dearest point must hold for lower scores to come, too."""
    score = np.random.default_rng(0).random((6, 2))
    tiers = planted.bare(np.tile([0.0, 0.0, 1.0], (6, 1)), np.ones((6, 3)), score)
    for part in (tiers, tiers.select((0, 2))):
        assert (frontier(made(part)).settings[-1] == -np.inf).all()


def test_one_tier_is_one_point():
    tiers = planted.random_tiers(10, 3).select((1,))
    found = frontier(chain(tiers, ()))
    assert len(found) == 1
    assert found.quality[0] == pytest.approx(tiers.quality.mean(), abs=1e-15)
    assert found.cost[0] == pytest.approx(tiers.cost.mean(), abs=1e-15)


def test_nothing_within_the_budget():
    found = frontier(made(planted.random_tiers(10, 3)))
    assert found.within(found.cost[0] * 0.99) is None
    assert found.within(found.cost[0]) == 0
    assert found.within(np.inf) == len(found) - 1


def waiting_room(n=200):
    """The middle tier never answers right, but its signal tells who needs the large one.

    The small tier is right for the easy half and cannot tell its halves apart; the large tier is
    right for half of the hard ones, and only the middle tier's signal says which.
    """
    rng = np.random.default_rng(0)
    easy = np.arange(n) % 2 == 0
    solvable = ~easy & (np.arange(n) % 4 == 1)
    quality = np.stack([easy, easy, easy | solvable], axis=1).astype(float)
    first = np.where(easy, 0.0, 1.0) + 0.1 * rng.random(n)
    second = np.where(solvable, 1.0, 0.0) + 0.1 * rng.random(n)
    cost = np.tile([1.0, 1.0, 20.0], (n, 1))
    return planted.bare(quality, cost, np.stack([first, second], axis=1))


def greedy(tiers, budget):
    """Each threshold tuned on its own: the best two-tier cascade of a tier and the next."""
    thresholds, spent = [], 0.0
    for k in range(len(tiers.models) - 1):
        curve = deferral_curve(tiers.inputs[k].scores["s"], tiers.outcomes(k, k + 1))
        thresholds.append(for_budget(curve, max(budget - spent, curve.cost.min())))
        spent += float(tiers.cost[:, k].mean())
    return thresholds


def test_thresholds_tuned_one_by_one_fail_where_joint_ones_do_not():
    tiers = waiting_room()
    budget = 7.0
    chained = made(tiers)
    alone, _ = chained.means(greedy(tiers, budget))
    found = frontier(chained)
    joint = found.quality[found.within(budget)]
    assert alone == pytest.approx(0.5, abs=1e-12)  # going on to the middle tier brings nothing
    assert joint == pytest.approx(0.75, abs=1e-12)  # every query that any tier can answer
    searched = frontier(chained, exact_lines=0)
    assert searched.quality[searched.within(budget)] == pytest.approx(0.75, abs=1e-12)


def test_thresholds_transfer_to_queries_not_chosen_on():
    """Chosen on half, deployed on the other: within five standard errors of what was promised."""
    tiers = planted.random_tiers(4_000, 3, 2)
    half, rest = tiers.take(np.arange(2_000)), tiers.take(np.arange(2_000, 4_000))
    found = frontier(made(half), candidates=40)
    place = found.within(float(np.median(found.cost)))
    policy = Cascade(tiers.models, (SCORE,) * 2, tuple(found.settings[place].tolist()))
    judged = judge(decide(policy, rest.inputs), rest)
    for new, promised in ((judged.quality, found.quality), (judged.cost, found.cost)):
        error = new.std() * np.sqrt(2 / 2_000)
        assert abs(new.mean() - promised[place]) < 5 * error


def test_more_scores_than_candidates_lose_little():
    tiers = planted.random_tiers(400, 3, 4)
    full, coarse = frontier(made(tiers), candidates=400), frontier(made(tiers), candidates=50)
    at = [full.within(c) for c in coarse.cost.tolist()]
    assert (coarse.quality <= full.quality[at] + 1e-11).all()
    assert (full.quality[at] - coarse.quality).max() < 0.01


def test_a_router_that_sees_no_answer_is_refused():
    from routers.build import build

    tiers = planted.random_tiers(10, 2)
    with pytest.raises(InputError, match="Prompt decides before"):
        chain(tiers, (build("prompt"),))
