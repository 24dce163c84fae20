"""Choosing the operating point on one split, and what it achieves on another.

A query is deferred iff ``score >= threshold``. A threshold is one of the scores it was chosen
from, +inf for "defer nothing" or -inf for "defer all": a deployed rule cannot stop inside a
group of equal scores, so achieved rates move in whole groups. Letters: N queries.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Shaped

from routers.base import Outcomes, Stage
from routers.curves import Curve, check_score, rank
from routers.errors import InputError

ROUNDING = 1e-9  # queries: 0.3 * 10 counts as 3


@dataclasses.dataclass(frozen=True)
class OperatingPoint:
    """What one threshold gives: means over queries, cost as charged by ``rank``."""

    threshold: float
    deferral_rate: float
    quality: float
    flops: float


def for_deferral_rate(score: Shaped[np.ndarray, " N"], rate: float) -> float:
    """The threshold with the highest deferral rate that does not exceed ``rate``.

    A rate of 1 gives -inf: send on every query, also one that scores below all of these.

    Ties never exceed the rate either: a group of equal scores that does not fit whole is kept
    whole, so all-equal scores give +inf for every rate below 1.

    Raises:
        InputError: a rate outside [0, 1], no scores, or scores that are not finite.

    >>> for_deferral_rate(np.array([0.1, 0.5, 0.5, 0.9]), 0.5)
    0.9
    """
    if not 0 <= rate <= 1:
        raise InputError(f"deferral rate {rate} is not in [0, 1]; 0.3 sends 30 % of queries on")
    check_score(score, len(score), "threshold")
    falling = np.sort(score.astype(np.float64))[::-1]
    allowed = int(np.floor(rate * len(falling) + ROUNDING))
    last = np.flatnonzero(np.append(falling[1:] != falling[:-1], True))
    if allowed >= len(falling):
        return -float("inf")
    fits = last[last < allowed]
    return float(falling[fits[-1]]) if len(fits) else float("inf")


def for_quality(curve: Curve, quality: float) -> float:
    """The threshold of the cheapest point whose mean quality is at least ``quality``.

    Raises:
        InputError: no point of the curve reaches it.
    """
    reached = np.flatnonzero(curve.quality >= quality)
    if not len(reached):
        raise InputError(
            f"no threshold reaches quality {quality:.4g} on the fit split; the best is "
            f"{curve.quality.max():.4g}, ask for that or less"
        )
    return float(curve.threshold[reached[np.argmin(curve.cost[reached])]])


def for_budget(curve: Curve, budget: float, unit: str = "FLOPs") -> float:
    """The threshold of the best point whose mean cost per query is at most ``budget``.

    Equal qualities: the cheaper point. ``unit`` is the unit of the curve's cost, for messages.

    Raises:
        InputError: even the cheapest point costs more.
    """
    within = np.flatnonzero(curve.cost <= budget)
    if not len(within):
        raise InputError(
            f"no threshold keeps mean {unit} within {budget:.4g}; the least is "
            f"{curve.cost.min():.4g} (small model and router), raise the budget"
        )
    best = within[np.lexsort((curve.cost[within], -curve.quality[within]))[0]]
    return float(curve.threshold[best])


def achieved(
    threshold: float,
    score: Shaped[np.ndarray, " N"],
    outcomes: Outcomes,
    *,
    stage: Stage = "response",
    router_flops: Shaped[np.ndarray, " N"] | None = None,
) -> OperatingPoint:
    """Deferral rate, mean quality and mean FLOPs when this threshold is deployed.

    >>> outcomes = Outcomes(*np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 1.0], [9.0, 9.0]]))
    >>> achieved(0.5, np.array([0.2, 0.7]), outcomes)
    OperatingPoint(threshold=0.5, deferral_rate=0.5, quality=1.0, flops=5.5)
    """
    ranked = rank(score, outcomes, stage=stage, router_flops=router_flops)
    return on_curve(ranked.curve(), threshold)


def on_curve(curve: Curve, threshold: float) -> OperatingPoint:
    """The point of a curve where every score of at least ``threshold`` is sent on."""
    point = int(np.flatnonzero(curve.threshold >= threshold)[-1])
    return OperatingPoint(
        float(threshold),
        float(curve.deferral_rate[point]),
        float(curve.quality[point]),
        float(curve.cost[point]),
    )
