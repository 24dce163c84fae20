"""Routing and cascade routing against the rules written out query by query."""

import dataclasses
import itertools

import numpy as np
import pytest
import tiers_planted as planted

from routers.cascade import decide, judge
from routers.cascade_routing import (
    CascadeRouting,
    Options,
    Routing,
    cascade_routing_frontier,
    options,
    routing_frontier,
)
from routers.column import Column
from routers.estimates import fit_estimates
from routers.expected_max import expected_max
from routers.tier_policy import STOP, prompt_of
from routers.tiers import join

PRICES = [0.0, 0.05, 0.2, 0.5, 1.0, 3.0, 100.0]


@pytest.fixture(scope="module")
def tiers():
    return join(planted.records(150, clue=0.3), planted.MODELS, "test")


@pytest.fixture(scope="module")
def estimates():
    fit = join(planted.records(300, clue=0.3), planted.MODELS, "validation")
    return fit_estimates(fit, (Column("unsure"),) * 2)


def subset(tiers, seen, rows):
    return {k: tiers.inputs[k].take(rows) for k in seen}


def best_first(estimates, tiers, price, i, seen):
    """One step of cascade routing for one query, as written in the paper."""
    row = np.array([i])
    prompt = prompt_of(tiers.inputs[0]).take(row)
    mean = estimates.quality(prompt, subset(tiers, seen, row), tiers.models)[0]
    cost = estimates.cost(prompt)[0]
    rest = [k for k in range(3) if k not in seen]
    tried = {}
    for size in range(len(rest) + 1):
        for added in itertools.combinations(rest, size):
            whole = sorted({*seen, *added})
            if not whole:
                continue
            known = [tuple(k for k in sorted(s) if k < 2) for s in (seen, whole)]
            change = estimates.change_of(*known)[np.ix_(whole, whole)]
            value = expected_max(mean[None, whole], change)[0]
            tried[added] = round(value - price * sum(cost[k] for k in added), 9)
    best = max(tried, key=lambda added: (tried[added], -len(added)))
    return min(best, key=lambda k: cost[k]) if best else STOP


@pytest.mark.parametrize("price", PRICES)
def test_cascade_routing_is_the_loop(tiers, estimates, price):
    done = decide(CascadeRouting(tiers.models, estimates, price), tiers.inputs)
    for i in range(0, len(tiers), 10):
        seen = []
        while len(seen) < 3:
            step = best_first(estimates, tiers, price, i, seen)
            if step == STOP:
                break
            seen.append(step)
        assert np.flatnonzero(done.visited[i]).tolist() == sorted(seen)
        row = np.array([i])
        prompt = prompt_of(tiers.inputs[0]).take(row)
        quality = estimates.quality(prompt, subset(tiers, seen, row), tiers.models)[0]
        assert done.answer[i] == max(sorted(seen), key=lambda k: round(quality[k], 9))


@pytest.mark.parametrize("price", PRICES)
def test_routing_is_the_greatest_value_before_any_answer(tiers, estimates, price):
    prompt = prompt_of(tiers.inputs[0])
    value = estimates.quality(prompt, {}, tiers.models) - price * estimates.cost(prompt)
    done = decide(Routing(tiers.models, estimates, price), tiers.inputs)
    np.testing.assert_array_equal(done.answer, value.round(9).argmax(axis=1))
    assert (done.visited.sum(axis=1) == 1).all()


@pytest.mark.parametrize("kind", [Routing, CascadeRouting])
@pytest.mark.parametrize("price", [0.05, 0.5, 1.0])
def test_answers_not_paid_for_change_nothing(tiers, estimates, kind, price):
    """What the tiers not visited say is dealt out anew among the queries."""
    policy = kind(tiers.models, estimates, price)
    before = decide(policy, tiers.inputs)
    assert not before.visited.all()
    permuted = []
    for k, inputs in enumerate(tiers.inputs):
        rows = np.flatnonzero(~before.visited[:, k])
        dealt = np.arange(len(tiers))
        dealt[rows] = np.random.default_rng(k).permutation(rows)
        scores = {name: column[dealt] for name, column in inputs.scores.items()}
        permuted.append(dataclasses.replace(inputs, scores=scores))
    assert (permuted[0].scores["unsure"] != tiers.inputs[0].scores["unsure"]).any()
    after = decide(policy, permuted)
    np.testing.assert_array_equal(before.visited, after.visited)
    np.testing.assert_array_equal(before.answer, after.answer)
    np.testing.assert_array_equal(before.own_flops, after.own_flops)


def test_a_decision_is_its_querys_own(tiers, estimates):
    """In any order, alone or with others."""
    policy = CascadeRouting(tiers.models, estimates, 0.5)
    whole = decide(policy, tiers.inputs)
    rows = np.random.default_rng(0).permutation(len(tiers))[:40]
    part = decide(policy, tiers.take(rows).inputs)
    np.testing.assert_array_equal(part.visited, whole.visited[rows])
    np.testing.assert_array_equal(part.answer, whole.answer[rows])


def test_it_goes_straight_to_the_large_one(tiers, estimates):
    """What a plain cascade cannot: some queries never see the small tier."""
    for part, fitted in ((tiers, estimates), two_tiers()):
        last = len(part.models) - 1
        visits = decide(CascadeRouting(part.models, fitted, 0.3), part.inputs).visited
        assert (visits[:, last] & ~visits[:, 0]).any()
        assert visits[:, 0].any()


def two_tiers():
    records = planted.records(300, models=2, clue=0.1)
    fit, test = (join(records, planted.MODELS[:2], split) for split in ("validation", "test"))
    return test, fit_estimates(fit, (Column("unsure"),))


def test_a_free_price_runs_all_and_a_high_price_the_cheapest(tiers, estimates):
    free = decide(Routing(tiers.models, estimates, 0.0), tiers.inputs)
    assert (free.answer == 2).mean() > 0.8
    dear = decide(CascadeRouting(tiers.models, estimates, 1e6), tiers.inputs)
    np.testing.assert_array_equal(dear.visited, np.tile([True, False, False], (len(tiers), 1)))


def test_the_cheapest_of_a_set_comes_first_not_the_lowest_index(tiers, estimates):
    """Where the first tier is the dearest for a query, the set begins with another."""
    prompt = prompt_of(tiers.inputs[0])
    swapped = dataclasses.replace(estimates, prompt_cost=estimates.prompt_cost[::-1])
    found = options(swapped, prompt, {}, tiers.models)
    both = found.cost.argmax(axis=1)[0]  # the set of all three
    assert (found.first[:, both] == 2).all()
    assert (options(estimates, prompt, {}, tiers.models).first[:, both] == 0).all()


def test_equal_values_take_the_smaller_set():
    value = np.array([[0.7, 0.7, 0.7 + 1e-13]])
    found = Options(value, np.array([[0.0, 0.0, 0.0]]), np.array([[STOP, 0, 1]]))
    assert found.next(1.0).tolist() == [STOP]


def test_rates_are_the_prices_at_which_choices_change():
    rng = np.random.default_rng(0)
    value, cost = rng.random((1, 4)), rng.random((1, 4))
    found = Options(value, cost, np.arange(4)[None, :])
    grid = np.linspace(0, 3, 3001)
    chosen = [int(found.next(price)[0]) for price in grid.tolist()]
    turns = grid[1:][np.diff(chosen) != 0]
    assert len(turns)
    for turn in turns:
        assert np.abs(found.rates() - turn).min() <= 1e-3


@pytest.mark.parametrize(
    ("kind", "sweep"),
    [(Routing, routing_frontier), (CascadeRouting, cascade_routing_frontier)],
)
def test_a_frontiers_points_are_what_the_policy_does(tiers, estimates, kind, sweep):
    found = sweep(estimates, tiers)
    assert len(found) > 5
    for p in range(0, len(found), len(found) // 4):
        policy = kind(tiers.models, estimates, float(found.settings[p, 0]))
        judged = judge(decide(policy, tiers.inputs), tiers)
        assert judged.quality.mean() == pytest.approx(found.quality[p], abs=1e-12)
        assert judged.cost.mean() == pytest.approx(found.cost[p], rel=1e-12)


def test_prices_miss_nothing_of_routing(tiers, estimates):
    """Against 2,000 prices: at no cost does the frontier lose more than .01 of quality."""
    found = routing_frontier(estimates, tiers)
    for price in np.geomspace(1e-3, 1e2, 2_000)[::80].tolist():
        judged = judge(decide(Routing(tiers.models, estimates, price), tiers.inputs), tiers)
        place = found.within(float(judged.cost.mean()))
        assert place is not None
        assert found.quality[place] >= judged.quality.mean() - 0.01


def test_constant_estimates_still_give_every_model():
    """Nothing known of the prompt, no signal worth anything: routing picks a model for all."""
    n = 60
    quality = np.tile([0.0, 0.5, 1.0], (n, 1))
    quality[::2, 1] = 1.0
    tiers = planted.bare(quality, np.tile([1.0, 3.0, 9.0], (n, 1)), np.zeros((n, 2)))
    found = routing_frontier(fit_estimates(tiers, ()), tiers)
    np.testing.assert_allclose(found.cost, [1.0, 3.0, 9.0])
    np.testing.assert_allclose(found.quality, quality.mean(axis=0))
