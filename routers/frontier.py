"""Which settings of a policy no other beats in quality and cost, and mixtures of them.

Letters: A settings tried, P points of a frontier, D numbers in a setting.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float64, Int64, Num

ROUNDING = 1e-9
"""A budget is kept up to this share of it: sums of costs in another order differ that much."""


@dataclasses.dataclass(frozen=True)
class Frontier:
    """P settings of a policy, rising in cost and in quality; no other setting tried beats one.

    Args:
        settings: [P, D] what to set: thresholds, a price, shares.
        quality: [P] mean quality on the queries it was made from.
        cost: [P] mean cost of a query there.
    """

    settings: Float64[np.ndarray, "P D"]
    quality: Float64[np.ndarray, " P"]
    cost: Float64[np.ndarray, " P"]

    def __len__(self) -> int:
        return len(self.cost)

    @classmethod
    def of(
        cls,
        settings: Num[np.ndarray, "A D"],
        quality: Num[np.ndarray, " A"],
        cost: Num[np.ndarray, " A"],
    ) -> Frontier:
        """The settings that are not dominated; of equal ones the first."""
        rows = pareto(quality, cost)
        return cls(*(np.asarray(a[rows], np.float64) for a in (settings, quality, cost)))

    def hull(self) -> Frontier:
        """The points on the upper concave hull: those that no mixture of two others beats."""
        kept: list[int] = []
        for p in range(len(self)):
            while len(kept) > 1 and self._below(kept[-2], kept[-1], p):
                kept.pop()
            kept.append(p)
        return Frontier(self.settings[kept], self.quality[kept], self.cost[kept])

    def mixtures(self) -> Frontier:
        """Random mixtures of hull neighbours: settings (cheaper's, dearer's, share of the dearer).

        Shares in whole percents. They spend a budget that lies between two settings; their quality
        and cost are the expected ones.
        """
        hull = self.hull()
        cheap = np.maximum(np.arange(len(hull)) - 1, 0).repeat(101)
        dear = np.arange(len(hull)).repeat(101)
        share_A = np.tile(np.linspace(0.0, 1.0, 101), len(hull))
        share_A[cheap == dear] = 0.0
        both = [hull.settings[cheap], hull.settings[dear], share_A[:, None]]
        settings = np.concatenate(both, axis=1)[101 if len(hull) > 1 else 0 :]
        quality, cost = (
            ((1 - share_A) * values[cheap] + share_A * values[dear])[-len(settings) :]
            for values in (hull.quality, hull.cost)
        )
        return Frontier.of(settings, quality, cost)

    def _below(self, a: int, b: int, c: int) -> bool:
        """Whether point b lies on or below the line from a to c."""
        (cost_b, cost_c), (quality_b, quality_c) = (
            (values[[b, c]] - values[a]).tolist() for values in (self.cost, self.quality)
        )
        return cost_b * quality_c >= quality_b * cost_c

    def within(self, budget: float) -> int | None:
        """The point of the best quality whose mean cost is at most ``budget``; None if none is.

        >>> Frontier.of(np.zeros((2, 1)), np.array([0.5, 0.7]), np.array([1.0, 9.0])).within(8.0)
        0
        """
        place = int(np.searchsorted(self.cost, budget * (1 + ROUNDING), side="right")) - 1
        return place if place >= 0 else None


def pareto(quality: Num[np.ndarray, " A"], cost: Num[np.ndarray, " A"]) -> Int64[np.ndarray, " P"]:
    """Rows that no other beats in one without losing in the other, by rising cost.

    >>> pareto(np.array([0.5, 0.4, 0.9, 0.5]), np.array([1.0, 2.0, 3.0, 1.0])).tolist()
    [0, 2]
    """
    order = np.lexsort((-quality, cost))
    best = np.maximum.accumulate(quality[order])
    return order[np.append(True, quality[order][1:] > best[:-1])]
