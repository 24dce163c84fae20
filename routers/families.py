"""The kinds of policy over K models that are compared, each with its frontier on the fit split.

Learned parts (learned routers, every quality estimate) are fitted on one half of the fit split and
thresholds and prices chosen on the other, by a hash of the query id; cascades of training-free
routers choose on all of it.

Letters: N queries, K tiers, A mixtures.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np

from routers.base import Router
from routers.cascade import Cascade, Mixed, StaticMixture, TierPolicy, check_router, decide, judge
from routers.cascade_routing import (
    CascadeRouting,
    Routing,
    cascade_routing_frontier,
    routing_frontier,
)
from routers.crossfit import fold_of
from routers.estimates import fit_estimates
from routers.frontier import Frontier
from routers.joint_thresholds import chain, frontier
from routers.tiers import Tiers

Kind = Literal["alone", "static", "routing", "cascade", "pair", "cascade_routing"]

HALVES_SEED = 6_000_011
"""Of the hash that halves the fit split; ``estimates`` folds by another."""

MIXTURES = np.linspace(0.0, 1.0, 101)
"""Shares of the dearer of two models that a static mixture tries."""


@dataclasses.dataclass(frozen=True)
class Family:
    """Policies of one kind: the settings worth trying, and the policy of each.

    ``tiers`` are its models' places among all; it sees the records of no other.
    """

    kind: Kind
    router: str | None
    tiers: tuple[int, ...]
    frontier: Frontier
    make: Callable[[np.ndarray], TierPolicy]


@dataclasses.dataclass(frozen=True)
class Run:
    """One policy on queries: quality and cost of each, and which tiers were used how often."""

    quality: np.ndarray  # [N]
    cost: np.ndarray  # [N]
    visited: tuple[float, ...]  # share of the queries that ran each of the policy's tiers
    answered: tuple[float, ...]  # and whose answer came from it


def families(fit: Tiers, routers: Mapping[str, Router]) -> list[Family]:
    """All policies to compare, each with its frontier on the fit split.

    First those that need no router: each model alone, static mixtures, routing. Then for each
    router the cascade of all tiers, those of any two, and cascade routing.
    """
    every = tuple(range(len(fit.models)))
    fits, chooses = _halves(fit)
    found = [_cascade((), (k,), fit, None) for k in every]
    found += [_static(fit), _routing(fits, chooses)]
    for name, router in routers.items():
        check_router(router)
        own, rest = (fits, chooses) if router.learned else (fit, fit)
        for tiers in (every, *(itertools.combinations(every, 2) if len(every) > 2 else ())):
            found.append(_cascade(_fitted(router, own.select(tiers)), tiers, rest, name))
        found.append(_cascade_routing(_fitted(router, fits), fits, chooses, name))
    return found


def run(family: Family, point: int, test: Tiers) -> Run:
    """A policy of the family on queries it was not chosen on."""
    own = test.select(family.tiers)
    done = decide(family.make(family.frontier.settings[point]), own.inputs)
    judged = judge(done, own)
    answered = np.bincount(done.answer, minlength=len(family.tiers)) / len(own)
    visited = done.visited.mean(axis=0)
    return Run(judged.quality, judged.cost, tuple(visited.tolist()), tuple(answered.tolist()))


def _cascade(
    routers: tuple[Router, ...], tiers: tuple[int, ...], chooses: Tiers, name: str | None
) -> Family:
    """Cascades of these tiers, or for one tier the model alone."""
    own = chooses.select(tiers)
    kind: Kind = "cascade" if len(tiers) == len(chooses.models) else "pair"
    return Family(
        kind if routers else "alone",
        name,
        tiers,
        frontier(chain(own, routers)),
        lambda setting: Cascade(own.models, routers, tuple(setting.tolist())),
    )


def _static(fit: Tiers) -> Family:
    """Mixtures of any two models."""
    every = range(len(fit.models))
    unit_KK = np.eye(len(fit.models))
    shares = [
        (1 - share) * unit_KK[i] + share * unit_KK[j]
        for i, j in itertools.combinations(every, 2)
        for share in MIXTURES
    ]
    shares_AK = np.array(shares)
    quality_A, cost_A = shares_AK @ fit.quality.mean(axis=0), shares_AK @ fit.cost.mean(axis=0)
    return Family(
        "static",
        None,
        tuple(every),
        Frontier.of(shares_AK, quality_A, cost_A),
        lambda setting: StaticMixture(fit.models, tuple(setting.tolist())),
    )


def _routing(fits: Tiers, chooses: Tiers) -> Family:
    estimates = fit_estimates(fits, ())
    return Family(
        "routing",
        None,
        tuple(range(len(fits.models))),
        routing_frontier(estimates, chooses).mixtures(),
        _mixed(fits.models, lambda price: Routing(fits.models, estimates, price)),
    )


def _cascade_routing(routers: tuple[Router, ...], fits: Tiers, chooses: Tiers, name: str) -> Family:
    estimates = fit_estimates(fits, routers)
    return Family(
        "cascade_routing",
        name,
        tuple(range(len(fits.models))),
        cascade_routing_frontier(estimates, chooses).mixtures(),
        _mixed(fits.models, lambda price: CascadeRouting(fits.models, estimates, price)),
    )


def _mixed(
    models: tuple[str, ...], at: Callable[[float], TierPolicy]
) -> Callable[[np.ndarray], TierPolicy]:
    """From (price, price, share) to the mixture of the two policies."""
    return lambda setting: Mixed(models, at(float(setting[0])), at(float(setting[1])), setting[2])


def _fitted(router: Router, tiers: Tiers) -> tuple[Router, ...]:
    """One router for each tier but the last, fitted on it against the next."""
    return tuple(
        router.fit(tiers.inputs[k], tiers.outcomes(k, k + 1)) for k in range(len(tiers.models) - 1)
    )


def _halves(fit: Tiers) -> tuple[Tiers, Tiers]:
    """The queries that learned parts are fitted on, and those settings are chosen on."""
    half_N = fold_of(fit.inputs[0].query_id, 2, HALVES_SEED)
    return fit.take(np.flatnonzero(half_N == 0)), fit.take(np.flatnonzero(half_N == 1))
