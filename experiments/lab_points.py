"""What thresholds give on a set of queries, and what scores say about the gain.

Intervals are 95 % normal intervals of a mean over queries with the threshold held fixed, which is
what deploying it means: quality at a threshold is a plain mean of one value per query.

Letters: N queries, K thresholds, D groups of queries by score.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from routers.base import Outcomes, Router, Stage
from routers.curves import oracle_score
from routers.measure import Split

Z = 1.959963984540054
"""The 97.5 % point of the standard normal distribution."""


@dataclasses.dataclass(frozen=True)
class Points:
    """K thresholds on the same queries; costs are means per query, by who is paid.

    ``change`` is quality minus the large model's on the same queries, so its interval is paired.
    """

    threshold: Float[np.ndarray, " K"]  # defer iff score >= threshold
    deferral_rate: Float[np.ndarray, " K"]
    quality: Float[np.ndarray, " K"]
    quality_lo: Float[np.ndarray, " K"]  # NaN for a single query
    quality_hi: Float[np.ndarray, " K"]
    change: Float[np.ndarray, " K"]
    change_lo: Float[np.ndarray, " K"]
    change_hi: Float[np.ndarray, " K"]
    small_cost: Float[np.ndarray, " K"]
    router_cost: Float[np.ndarray, " K"]
    large_cost: Float[np.ndarray, " K"]

    @property
    def cost(self) -> Float[np.ndarray, " K"]:
        """Mean cost per query, everything paid."""
        return self.small_cost + self.router_cost + self.large_cost


@dataclasses.dataclass(frozen=True)
class Groups:
    """Queries in D groups of rising score: mean score, mean gain with its interval, count."""

    score: Float[np.ndarray, " D"]
    gain: Float[np.ndarray, " D"]
    gain_lo: Float[np.ndarray, " D"]
    gain_hi: Float[np.ndarray, " D"]
    count: Int[np.ndarray, " D"]


def at_thresholds(
    threshold_K: Float[np.ndarray, " K"],
    score_N: Float[np.ndarray, " N"],
    outcomes: Outcomes,
    *,
    stage: Stage = "response",
    router_cost_N: Float[np.ndarray, " N"] | None = None,
) -> Points:
    """Rate, quality and cost of each threshold; costs charged as by ``routers.curves.rank``.

    >>> outcomes = Outcomes(*np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 1.0], [9.0, 9.0]]))
    >>> points = at_thresholds(np.array([0.5]), np.array([0.2, 0.7]), outcomes)
    >>> points.quality.tolist(), points.small_cost.tolist(), points.large_cost.tolist()
    ([1.0], [1.0], [4.5])
    """
    order = np.argsort(-score_N, kind="stable")
    sent_K = len(score_N) - np.searchsorted(score_N[order][::-1], threshold_K, side="left")
    q_small, q_large, f_small, f_large = (
        np.asarray(column, np.float64)[order]
        for column in (
            outcomes.quality_small,
            outcomes.quality_large,
            outcomes.flops_small,
            outcomes.flops_large,
        )
    )
    quality = _mean(q_small, q_large, sent_K)
    change = _mean(q_small - q_large, np.zeros(len(order)), sent_K)
    router = 0.0 if router_cost_N is None else float(np.mean(router_cost_N, dtype=np.float64))
    unpaid = np.zeros(len(order))
    return Points(
        threshold=threshold_K,
        deferral_rate=sent_K / len(order),
        quality=quality[0],
        quality_lo=np.clip(quality[1], 0.0, 1.0),
        quality_hi=np.clip(quality[2], 0.0, 1.0),
        change=change[0],
        change_lo=change[1],
        change_hi=change[2],
        small_cost=_mean(f_small, f_small if stage == "response" else unpaid, sent_K)[0],
        router_cost=np.full(len(sent_K), router),
        large_cost=_mean(unpaid, f_large, sent_K)[0],
    )


def of_router(
    threshold_K: Float[np.ndarray, " K"],
    router: Router,
    score_N: Float[np.ndarray, " N"],
    split: Split,
) -> Points:
    """The same for a fitted router on a split, charged for its stage and its own FLOPs."""
    charge = split.charge(router)
    return at_thresholds(
        threshold_K, score_N, split.outcomes, stage=router.stage, router_cost_N=charge
    )


def thinned(rate_K: Float[np.ndarray, " K"], most: int) -> Int[np.ndarray, " P"]:
    """At most ``most`` of the points of a curve, evenly over its rising deferral rate, both ends.

    >>> thinned(np.array([0.0, 0.1, 0.11, 0.5, 1.0]), 3).tolist()
    [0, 3, 4]
    """
    if len(rate_K) <= most:
        return np.arange(len(rate_K))
    return np.unique(np.searchsorted(rate_K, np.linspace(rate_K[0], rate_K[-1], most)))


def by_score(score_N: Float[np.ndarray, " N"], outcomes: Outcomes, groups: int = 10) -> Groups:
    """Queries cut into ``groups`` of about equal size by rising score.

    A query's group is its mid-rank over N: equal scores stay together, so groups are fewer where
    many queries score alike, and one for a constant score. Source: our choice.
    """
    place_N = _midrank(score_N)
    group_N = np.floor(place_N / len(score_N) * groups).astype(np.int64)
    gain_N = oracle_score(outcomes)
    seen_D, group_N = np.unique(group_N, return_inverse=True)
    count_D = np.bincount(group_N, minlength=len(seen_D))
    score_D, gain_D, square_D = (
        np.bincount(group_N, column) / count_D for column in (score_N, gain_N, gain_N**2)
    )
    half_D = _half_width(gain_D, square_D, count_D)
    return Groups(score_D, gain_D, gain_D - half_D, gain_D + half_D, count_D)


def _midrank(score_N: np.ndarray) -> np.ndarray:
    """[N] queries that score lower, plus half of those that score the same."""
    rising = np.sort(score_N)
    below = np.searchsorted(rising, score_N, side="left")
    return (below + np.searchsorted(rising, score_N, side="right")) / 2 - 0.5


def _mean(
    kept_N: np.ndarray, sent_N: np.ndarray, sent_K: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over N of ``sent_N`` for the first ``sent_K`` queries and ``kept_N`` for the others.

    With both ends of its interval.
    """
    first, second = (_sum(kept_N**p, sent_N**p, sent_K) / len(kept_N) for p in (1, 2))
    half = _half_width(first, second, np.full(len(sent_K), len(kept_N)))
    return first, first - half, first + half


def _sum(kept_N: np.ndarray, sent_N: np.ndarray, sent_K: np.ndarray) -> np.ndarray:
    running = np.concatenate([[0.0], np.cumsum(sent_N - kept_N)])
    return kept_N.sum() + running[sent_K]


def _half_width(mean: np.ndarray, square: np.ndarray, count: np.ndarray) -> np.ndarray:
    """z s / sqrt(n) with the unbiased variance; NaN where n is 1."""
    spread = np.maximum(square - mean**2, 0.0)
    free = np.where(count > 1, count - 1.0, np.nan)
    return Z * np.sqrt(spread / free)
