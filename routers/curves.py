"""Exact deferral curves: quality and cost against the share of queries sent on.

Letters: N queries, G groups of equal score, P = G + 1 points of a curve.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float, Int, Num, Shaped

from routers.base import Outcomes, Stage
from routers.errors import InputError
from routers.sorting import stable_order


@dataclasses.dataclass(frozen=True)
class Curve:
    """One point per distinct score, from "defer nothing" to "defer everything".

    Point p defers every query whose score is at least ``threshold[p]``; points are joined by
    straight lines, which is what breaking ties at random gives on average.

    Args:
        threshold: [P] falling; +inf at the first point.
        deferral_rate: [P] share of queries sent on, from 0 to 1.
        quality: [P] mean quality, in the unit of the records.
        cost: [P] mean FLOPs per query (small model, router and large model as charged).
        small_cost, large_cost: mean FLOPs per query of either model alone.
    """

    threshold: Float[np.ndarray, " P"]
    deferral_rate: Float[np.ndarray, " P"]
    quality: Float[np.ndarray, " P"]
    cost: Float[np.ndarray, " P"]
    small_cost: float
    large_cost: float


@dataclasses.dataclass(frozen=True)
class Ranked:
    """Queries sorted once by falling score, from which any weighted curve is a running sum.

    ``*_sorted`` columns are in the order of ``order``; the others in the order of the queries.
    """

    order: Int[np.ndarray, " N"]
    end: Int[np.ndarray, " G"]  # one past each group's last place in ``order``
    threshold: Float[np.ndarray, " G"]
    gain_sorted: Float[np.ndarray, " N"]  # quality that deferring adds
    step_sorted: Float[np.ndarray, " N"]  # FLOPs that deferring adds
    quality_small: Float[np.ndarray, " N"]
    kept_cost: Float[np.ndarray, " N"]  # FLOPs when the small model's answer is kept
    flops_small: Float[np.ndarray, " N"]
    flops_large: Float[np.ndarray, " N"]

    def __len__(self) -> int:
        return len(self.order)

    def curve(self, weights: Num[np.ndarray, " N"] | None = None) -> Curve:
        """The curve of these queries, each counted ``weights`` times (None: once).

        Integer weights give exactly the curve of the queries literally repeated.
        """
        gain_sorted, step_sorted = self.gain_sorted, self.step_sorted
        if weights is None:
            rate_P = np.zeros(len(self.end) + 1)
            rate_P[1:] = self.end
        else:
            weight_sorted = weights[self.order]
            gain_sorted, step_sorted = weight_sorted * gain_sorted, weight_sorted * step_sorted
            rate_P = _sums(weight_sorted, self.end)
        total = float(rate_P[-1])
        quality_P, cost_P = _sums(gain_sorted, self.end), _sums(step_sorted, self.end)
        for line_P in (rate_P, quality_P, cost_P):  # in place: fresh memory costs more than sums
            line_P /= total
        quality_P += _mean(self.quality_small, weights)
        cost_P += _mean(self.kept_cost, weights)
        return Curve(
            threshold=np.concatenate([[np.inf], self.threshold]),
            deferral_rate=rate_P,
            quality=quality_P,
            cost=cost_P,
            small_cost=_mean(self.flops_small, weights),
            large_cost=_mean(self.flops_large, weights),
        )


def rank(
    score: Shaped[np.ndarray, " N"],
    outcomes: Outcomes,
    *,
    stage: Stage = "response",
    router_flops: Shaped[np.ndarray, " N"] | None = None,
    name: str = "this router",
) -> Ranked:
    """Sort the queries by deferral score and attach what deferring each one brings and costs.

    Cost of a query::

        response stage    F_S + F_router + 1[defer] F_L      (the small model is always paid)
        prompt stage      F_router + (F_L if deferred else F_S)

    Args:
        score: [N] deferral score, higher = send on.
        outcomes: quality and FLOPs of both tiers for the same N queries.
        router_flops: [N] what the router itself spends; None = nothing.
        name: of the router, for error messages.

    Raises:
        InputError: no queries, another number of scores than queries, or a score that is NaN
            or infinite (a fault of the router).

    Source: cost accounting is our choice, stated beside every figure; equal scores move
    together (expected value over random tie-breaking).
    """
    score = np.asarray(score, np.float64)
    check_score(score, len(outcomes), name)
    order, rising = stable_order(-score)
    end = np.flatnonzero(np.append(rising[1:] != rising[:-1], True)) + 1
    small = np.asarray(outcomes.flops_small, np.float64)
    large = np.asarray(outcomes.flops_large, np.float64)
    kept = small if router_flops is None else small + np.asarray(router_flops, np.float64)
    step = large if stage == "response" else large - small
    return Ranked(
        order=order,
        end=end,
        threshold=np.negative(rising if len(end) == len(rising) else rising[end - 1]),
        gain_sorted=oracle_score(outcomes).take(order, mode="clip"),  # "clip" saves a check
        step_sorted=step.take(order, mode="clip"),
        quality_small=np.asarray(outcomes.quality_small, np.float64),
        kept_cost=kept,
        flops_small=small,
        flops_large=large,
    )


def deferral_curve(
    score: Shaped[np.ndarray, " N"],
    outcomes: Outcomes,
    *,
    stage: Stage = "response",
    router_flops: Shaped[np.ndarray, " N"] | None = None,
    name: str = "this router",
) -> Curve:
    """The exact curve of a score: ``Q(k) = mean(q_S) + (1/N) sum_{first k} (q_L - q_S)``.

    Arguments and errors as in ``rank``. Takes one sort, O(N log N).

    >>> outcomes = Outcomes(*np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 1.0], [9.0, 9.0]]))
    >>> curve = deferral_curve(np.array([0.2, 0.7]), outcomes)
    >>> curve.deferral_rate.tolist(), curve.quality.tolist(), curve.cost.tolist()
    ([0.0, 0.5, 1.0], [0.5, 1.0, 1.0], [1.0, 5.5, 10.0])
    """
    ranked = rank(score, outcomes, stage=stage, router_flops=router_flops, name=name)
    return ranked.curve()


def oracle_score(outcomes: Outcomes) -> Float[np.ndarray, " N"]:
    """The best possible ranking: by quality gained, ``q_L - q_S``."""
    large = np.asarray(outcomes.quality_large, np.float64)
    return large - np.asarray(outcomes.quality_small, np.float64)


def check_score(score: Shaped[np.ndarray, "*any"], queries: int, name: str) -> None:
    """Raise InputError unless there is one finite score for each query."""
    if queries == 0:
        raise InputError(f"{name}: no queries to evaluate; check the split and task filters")
    if score.shape != (queries,):
        raise InputError(
            f"{name}: score has shape {score.shape} for {queries} queries; return one score each"
        )
    bad = np.flatnonzero(~np.isfinite(score))
    if len(bad):
        raise InputError(
            f"{name}: score is {score[bad[0]]} for {len(bad)} of {queries} queries, first at row "
            f"{bad[0]}; a deferral score must be finite, repair the router"
        )


def _sums(sorted_N: np.ndarray, end_G: np.ndarray) -> np.ndarray:
    """[P] zero, then the running sum at the last query of each group."""
    sums_P = np.zeros(len(end_G) + 1)
    if len(end_G) == len(sorted_N):
        np.cumsum(sorted_N, out=sums_P[1:])
    else:
        sums_P[1:] = np.cumsum(sorted_N)[end_G - 1]
    return sums_P


def _mean(values: np.ndarray, weights: np.ndarray | None) -> float:
    """Weighted mean as a Python float."""
    if weights is None:
        return float(values.mean())
    return float(np.einsum("n,n->", weights, values) / weights.sum())
