"""Routing and cascade routing: run whichever model its expected quality pays for.

Letters: N queries, K tiers, S sets of tiers that could be run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float64, Int64

from routers.base import Inputs
from routers.cascade import Decisions, groups, judge, walk
from routers.estimates import Estimates, Sets, subsets
from routers.expected_max import POINTS, expected_max
from routers.frontier import Frontier
from routers.tier_policy import STOP, Seen, TierPolicy, prompt_of
from routers.tiers import Tiers

PRICES = 96
"""Quantiles of the exchange rates at which some query's choice changes."""

SAMPLE = 2_000
"""Queries whose exchange rates are looked at."""


@dataclasses.dataclass(frozen=True)
class Routing(TierPolicy):
    """One tier for each query, before anything is generated: argmax_k q_k(x) - price c_k(x).

    ``price`` is the quality one gives up to save one mean answer of the last tier. Equal values:
    the cheaper tier. Source: routing as in cascade routing (2410.10347, section 2), whose
    randomisation between equal values is left out.
    """

    estimates: Estimates
    price: float

    def next_tier(self, prompt: Inputs, seen: Seen) -> np.ndarray:
        """The tier of the greatest value, then ``STOP``."""
        if seen:
            return np.full(len(prompt), STOP)
        return routes(self.estimates, prompt, self.models).next(self.price)

    def own_flops(self, prompt: Inputs, seen: Seen) -> np.ndarray:
        """[N] the regressions on the prompt."""
        return self.estimates.own_flops(prompt, {})


@dataclasses.dataclass(frozen=True)
class CascadeRouting(TierPolicy):
    """At each step the set of tiers worth running, then its cheapest; estimates anew after each.

    With tiers V seen, choose the set W of further tiers (none: stop) that maximises

        E[max of q_k over V and W] - price sum_{k in W} c_k

    and run the tier of W with the least expected cost. q are Gaussian: means from the prompt and
    the answers seen, covariance that of what the signals of W will change (``Estimates.change``).
    Any tier may come first, so with two models it can go straight to the large one, and a cheaper
    tier may still follow a dearer one. The answer of the greatest estimated quality is returned.
    Equal values: the smaller set.

    Source: cascade routing, Dekoninck et al. (2410.10347, section 4). Where we differ: one price
    for all steps instead of one per step, no randomisation between equal values, and the reference
    program, which orders a set by ``np.argmin`` of a generator, in fact runs the tier of lowest
    index first; here it is the cheapest for the query, as meant.
    """

    estimates: Estimates
    price: float

    def next_tier(self, prompt: Inputs, seen: Seen) -> np.ndarray:
        """The cheapest tier of the best set, or ``STOP``."""
        return options(self.estimates, prompt, seen, self.models).next(self.price)

    def answer(self, prompt: Inputs, seen: Seen) -> np.ndarray:
        """[N] the tier seen whose answer is expected to be the best."""
        return _best_seen(self.estimates.quality(prompt, seen, self.models), seen)

    def own_flops(self, prompt: Inputs, seen: Seen) -> np.ndarray:
        """[N] the estimates, and at most what E[max] takes at every step."""
        tiers = len(self.models)
        steps = min(len(seen) + 1, tiers)
        return self.estimates.own_flops(prompt, seen) + steps * 2.0**tiers * 2 * POINTS * tiers


@dataclasses.dataclass(frozen=True)
class Options:
    """What could be run next, for queries that have seen the same tiers.

    Args:
        value: [N, S] expected quality of the best answer once the set is run.
        cost: [N, S] expected cost of running it.
        first: [N, S] the tier of the set to run first, or ``STOP`` for the empty set.
    """

    value: Float64[np.ndarray, "N S"]
    cost: Float64[np.ndarray, "N S"]
    first: Int64[np.ndarray, "N S"]

    def next(self, price: float) -> Int64[np.ndarray, " N"]:
        """The first tier of the set of the greatest value at this price; equal: the first set."""
        # Rounded, or a gain of 1e-17 would run a model.
        best_N = (self.value - price * self.cost).round(9).argmax(axis=1)
        return self.first[np.arange(len(best_N)), best_N]

    def take(self, rows: np.ndarray) -> Options:
        """The queries of these indices."""
        return Options(self.value[rows], self.cost[rows], self.first[rows])

    def rates(self) -> Float64[np.ndarray, " R"]:
        """Quality per cost between any two sets: the prices at which a choice can change."""
        value_NSS = self.value[:, :, None] - self.value[:, None, :]
        cost_NSS = self.cost[:, :, None] - self.cost[:, None, :]
        dearer = (cost_NSS > 1e-12) & (value_NSS > 0)
        return value_NSS[dearer] / cost_NSS[dearer]


def routes(estimates: Estimates, prompt: Inputs, models: tuple[str, ...]) -> Options:
    """The options of routing: each tier alone."""
    value_NK = estimates.quality(prompt, {}, models)
    first_NK = np.tile(np.arange(len(models)), (len(prompt), 1))
    return Options(value_NK, estimates.cost(prompt), first_NK)


def options(estimates: Estimates, prompt: Inputs, seen: Seen, models: tuple[str, ...]) -> Options:
    """The options of cascade routing: every set of tiers not seen, and to stop once one is."""
    quality_NK = estimates.quality(prompt, seen, models)
    cost_NK = estimates.cost(prompt)
    rest = [k for k in range(len(models)) if k not in seen]
    before = estimates.signals(seen)
    value, cost, first = [], [], []
    for added in subsets(rest)[0 if seen else 1 :]:
        both = sorted((*seen, *added))
        after = estimates.signals(tuple(both))
        change_KK = estimates.change_of(before, after)
        value.append(expected_max(quality_NK[:, both], change_KK[np.ix_(both, both)]))
        cost.append(cost_NK[:, list(added)].sum(axis=1))
        first.append(_cheapest(cost_NK, added))
    return Options(*(np.stack(columns, axis=1) for columns in (value, cost, first)))


def routing_frontier(estimates: Estimates, tiers: Tiers) -> Frontier:
    """The prices of ``Routing`` that no other price tried beats on these queries."""
    prompt = prompt_of(tiers.inputs[0])
    found = routes(estimates, prompt, tiers.models)

    def visits(price: float) -> Decisions:
        answer_N = found.next(price)
        visited_NK = answer_N[:, None] == np.arange(len(tiers.models))[None, :]
        return Decisions(visited_NK, answer_N, estimates.own_flops(prompt, {}))

    return _sweep([found], tiers, visits)


def cascade_routing_frontier(estimates: Estimates, tiers: Tiers) -> Frontier:
    """The prices of ``CascadeRouting`` that no other price tried beats on these queries.

    Nothing but the price is chosen; every set of tiers is estimated once for all prices.
    """
    prompt = prompt_of(tiers.inputs[0])
    policy = CascadeRouting(tiers.models, estimates, 0.0)
    all_seen: list[dict[int, Inputs]] = [
        {k: tiers.inputs[k] for k in seen} for seen in subsets(range(len(tiers.models)))
    ]
    table: dict[Sets, Options] = {}
    ends: dict[Sets, tuple[np.ndarray, np.ndarray]] = {}
    for seen in all_seen:
        if len(seen) < len(tiers.models):
            table[tuple(seen)] = options(estimates, prompt, seen, tiers.models)
        if seen:
            ends[tuple(seen)] = (policy.answer(prompt, seen), policy.own_flops(prompt, seen))

    def visits(price: float) -> Decisions:
        visited_NK = walk(
            len(tiers), len(tiers.models), lambda rows, seen: table[seen].take(rows).next(price)
        )
        answer_N, flops_N = np.zeros(len(tiers), np.int64), np.zeros(len(tiers))
        for rows, seen in groups(visited_NK, np.arange(len(tiers))):
            answer_N[rows], flops_N[rows] = (column[rows] for column in ends[seen])
        return Decisions(visited_NK, answer_N, flops_N)

    return _sweep(list(table.values()), tiers, visits)


def _sweep(found: list[Options], tiers: Tiers, visits: Callable[[float], Decisions]) -> Frontier:
    """Judge every price worth trying."""
    prices = _prices(found)
    judged = [judge(visits(price), tiers) for price in prices.tolist()]
    quality = np.array([j.quality.mean() for j in judged])
    return Frontier.of(prices[:, None], quality, np.array([j.cost.mean() for j in judged]))


def _prices(found: list[Options]) -> Float64[np.ndarray, " P"]:
    """0, quantiles of the rates at which choices change, what lies between, and beyond them."""
    sampled = [o.take(np.arange(0, len(o.value), max(1, len(o.value) // SAMPLE))) for o in found]
    rates = np.concatenate([o.rates() for o in sampled])
    if not len(rates):
        return np.zeros(1)
    levels = np.unique(np.quantile(rates, np.linspace(0.0, 1.0, PRICES)))
    between = np.sqrt(levels[1:] * levels[:-1])
    return np.concatenate([[0.0, levels[0] / 2], np.sort([*levels, *between]), [2 * levels[-1]]])


def _best_seen(quality_NK: np.ndarray, seen: Seen) -> np.ndarray:
    """[N] the tier seen with the greatest estimate; equal: the cheapest."""
    order = np.array(sorted(seen))
    return order[quality_NK[:, order].round(9).argmax(axis=1)]


def _cheapest(cost_NK: np.ndarray, tiers: Sets) -> np.ndarray:
    """[N] the tier with the least expected cost, or ``STOP`` for none."""
    if not tiers:
        return np.full(len(cost_NK), STOP)
    order = np.array(tiers)
    return order[cost_NK[:, order].argmin(axis=1)]
