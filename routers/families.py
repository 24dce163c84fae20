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
from routers.cascade import Cascade, Mixed, StaticMixture, check_router, decide, judge
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
from routers.tier_policy import TierPolicy
from routers.tiers import Tiers

Kind = Literal["alone", "static", "routing", "cascade", "pair", "cascade_routing"]

HALVES_SEED = 6_000_011
"""Of the hash that halves the fit split; ``estimates`` folds by another."""

MIXTURES = np.linspace(0.0, 1.0, 101)
"""Shares of the dearer of two models that a static mixture tries."""


@dataclasses.dataclass(frozen=True)
class Parts:
    """The queries to fit and choose on: ``fits`` for what is learned, ``chooses`` for its settings.

    What learns nothing chooses on the ``whole``.
    """

    whole: Tiers
    fits: Tiers
    chooses: Tiers

    @classmethod
    def of(cls, whole: Tiers) -> Parts:
        """Halves by a hash of the query id."""
        return cls(whole, *halves(whole, HALVES_SEED))


@dataclasses.dataclass(frozen=True)
class Family:
    """Policies of one kind: the settings worth trying, and the policy of each.

    ``tiers`` are its models' places among all; it sees the records of no other. ``fitted`` queries
    fitted what is learned; the frontier is drawn on the queries ``chooses``.
    """

    kind: Kind
    router: str | None
    tiers: tuple[int, ...]
    fitted: int
    chooses: Tiers
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
    parts = Parts.of(fit)
    found = [_alone(fit, k) for k in every]
    found += [static(fit), routing(parts)]
    for name, router in routers.items():
        for tiers in (every, *(itertools.combinations(every, 2) if len(every) > 2 else ())):
            found.append(cascade(parts, router, name, tiers))
        found.append(cascade_routing(parts, router, name))
    return found


def run(family: Family, point: int, test: Tiers) -> Run:
    """A policy of the family on queries it was not chosen on."""
    own = test.select(family.tiers)
    done = decide(family.make(family.frontier.settings[point]), own.inputs)
    judged = judge(done, own)
    answered = np.bincount(done.answer, minlength=len(family.tiers)) / len(own)
    visited = done.visited.mean(axis=0)
    return Run(judged.quality, judged.cost, tuple(visited.tolist()), tuple(answered.tolist()))


def cascade(parts: Parts, router: Router, name: str, tiers: tuple[int, ...]) -> Family:
    """Cascades of these tiers that stop by the scores of one router, fitted on each if learned."""
    check_router(router)
    whole = parts.whole
    fits, chooses = (parts.fits, parts.chooses) if router.learned else (whole, whole)
    routers = _fitted(router, fits.select(tiers))
    own = chooses.select(tiers)
    return Family(
        "cascade" if len(tiers) == len(whole.models) else "pair",
        name,
        tiers,
        len(fits) if router.learned else 0,
        own,
        frontier(chain(own, routers)),
        lambda setting: Cascade(own.models, routers, tuple(setting.tolist())),
    )


def static(fit: Tiers) -> Family:
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
        0,
        fit,
        Frontier.of(shares_AK, quality_A, cost_A),
        lambda setting: StaticMixture(fit.models, tuple(setting.tolist())),
    )


def routing(parts: Parts) -> Family:
    """One tier for each query before anything is generated, at any price."""
    models, estimates = parts.whole.models, fit_estimates(parts.fits, ())
    return Family(
        "routing",
        None,
        tuple(range(len(models))),
        len(parts.fits),
        parts.chooses,
        routing_frontier(estimates, parts.chooses).mixtures(),
        _mixed(models, lambda price: Routing(models, estimates, price)),
    )


def cascade_routing(parts: Parts, router: Router, name: str) -> Family:
    """Both at once, at any price."""
    check_router(router)
    models = parts.whole.models
    estimates = fit_estimates(parts.fits, _fitted(router, parts.fits))
    return Family(
        "cascade_routing",
        name,
        tuple(range(len(models))),
        len(parts.fits),
        parts.chooses,
        cascade_routing_frontier(estimates, parts.chooses).mixtures(),
        _mixed(models, lambda price: CascadeRouting(models, estimates, price)),
    )


def halves(tiers: Tiers, seed: int) -> tuple[Tiers, Tiers]:
    """Two halves of the queries, by a hash of the query id; another seed, another split."""
    half_N = fold_of(tiers.inputs[0].query_id, 2, seed)
    return tiers.take(np.flatnonzero(half_N == 0)), tiers.take(np.flatnonzero(half_N == 1))


def _alone(fit: Tiers, tier: int) -> Family:
    """One model, nothing to choose."""
    own = fit.select((tier,))
    policy = Cascade(own.models, (), ())
    return Family("alone", None, (tier,), 0, own, frontier(chain(own, ())), lambda _: policy)


def _mixed(
    models: tuple[str, ...], at: Callable[[float], TierPolicy]
) -> Callable[[np.ndarray], TierPolicy]:
    """From (price, price, share) to the mixture of the two policies."""

    def make(setting: np.ndarray) -> TierPolicy:
        cheap, dear, share = setting.tolist()
        return Mixed(models, at(cheap), at(dear), share)

    return make


def _fitted(router: Router, tiers: Tiers) -> tuple[Router, ...]:
    """One router for each tier but the last, fitted on it against the next."""
    return tuple(
        router.fit(tiers.inputs[k], tiers.outcomes(k, k + 1)) for k in range(len(tiers.models) - 1)
    )
