"""Numbers read off a deferral curve, each with one definition.

Every metric is a function of a ``Curve``; None means "not defined here" (null in JSON), never
zero. Letters: N queries, P points of the curve.

Q_S, Q_L, F_S, F_L: mean quality and mean FLOPs of the small and the large model alone.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Num, Shaped

from routers.base import Outcomes
from routers.curves import Curve, deferral_curve, oracle_score
from routers.sorting import stable_order

# Running sums of float64 qualities in [0, 1] are exact to far better than this; it lets the
# last point of a curve count as reaching the large model's own quality.
REACHED = 1e-12


def audc(curve: Curve) -> float:
    """Area under quality against deferral rate; exact (trapezoids on straight lines).

    >>> one = np.array([0.0, 1.0])
    >>> audc(Curve(np.array([np.inf, 0.0]), one, np.array([0.4, 0.8]), one, 1.0, 9.0))
    0.6000000000000001
    """
    return float(np.trapezoid(curve.quality, curve.deferral_rate))


def audc_random(curve: Curve) -> float:
    """The same area for deferring at random: ``(Q_S + Q_L) / 2``."""
    return float(curve.quality[0] + curve.quality[-1]) / 2


def audc_oracle(outcomes: Outcomes) -> float:
    """The same area for deferring by true gain first; no ranking can exceed it.

    For 0/1 quality with ``b = P(S wrong, L right)`` and ``c = P(S right, L wrong)`` it is
    ``Q_S + b (1 - b/2) - c^2 / 2``.
    """
    return audc(deferral_curve(oracle_score(outcomes), outcomes))


def audc_normalised(curve: Curve, oracle: float) -> float | None:
    """``(AUDC - random) / (oracle - random)``: 0 for random, 1 for the oracle.

    Our oracle avoids queries the large model gets wrong; Gatekeeper's ideal curve may not, so
    the two are not comparable. None where the oracle is no better than random.
    """
    room = oracle - audc_random(curve)
    return (audc(curve) - audc_random(curve)) / room if room > REACHED else None


def apgr(curve: Curve) -> float | None:
    """Average performance gap recovered, ``(AUDC - Q_S) / (Q_L - Q_S)``; None if Q_L <= Q_S.

    Source: RouteLLM (2406.18665), on the exact curve where theirs has ten quantile bins.
    """
    gap = _gap(curve)
    return None if gap is None else (audc(curve) - float(curve.quality[0])) / gap


def cpt(curve: Curve, x: float) -> float | None:
    """Call-performance threshold: least deferral rate with quality ``Q_S + x (Q_L - Q_S)``.

    The first crossing, which is well defined where quality falls again (RouteLLM interpolates
    with quality as abscissa and needs it to rise). None if Q_L <= Q_S. Source: RouteLLM.
    """
    gap = _gap(curve)
    if gap is None:
        return None
    return _least(curve.deferral_rate, curve.quality, float(curve.quality[0]) + x * gap)


def aucfc(curve: Curve) -> float | None:
    """Area under quality against FLOPs, FLOPs scaled so that F_S is 0 and F_S + F_L is 1.

    ``x = (cost - F_S) / F_L``, cut to [0, 1] and extended flat at both ends, so a router's own
    FLOPs shift the curve right and a prompt-stage router gains what it does not spend.
    None if the large model is free. Source: our choice.
    """
    if curve.large_cost <= 0:
        return None
    x_P = (curve.cost - curve.small_cost) / curve.large_cost
    cut_P, rise = np.clip(x_P, 0.0, 1.0), np.diff(x_P)
    slope = np.divide(np.diff(curve.quality), rise, out=np.zeros_like(rise), where=rise != 0)
    left = curve.quality[:-1] + slope * (cut_P[:-1] - x_P[:-1])
    right = curve.quality[:-1] + slope * (cut_P[1:] - x_P[:-1])
    inside = np.sum(np.diff(cut_P) * (left + right) / 2)
    ends = curve.quality[0] * cut_P[0] + curve.quality[-1] * (1 - cut_P[-1])
    return float(inside + ends)


def flops_at_quality(curve: Curve, quality: float) -> float | None:
    """Least mean FLOPs at which the curve reaches this quality; None if it never does."""
    return _least(curve.cost, curve.quality, quality)


def flops_saving(curve: Curve, x: float) -> float | None:
    """Share of the large model's FLOPs saved at quality ``Q_S + x (Q_L - Q_S)``.

    ``1 - F(Q*) / F_L`` with F the least cost on the curve; negative where the cascade is dearer
    than the large model alone. None if never reached, if Q_L <= Q_S or if F_L is 0.
    """
    gap = _gap(curve)
    if gap is None or curve.large_cost <= 0:
        return None
    cost = flops_at_quality(curve, float(curve.quality[0]) + x * gap)
    return None if cost is None else 1 - cost / curve.large_cost


def qnc(curve: Curve) -> float | None:
    """Least cost that reaches the better model's quality, over that model's cost.

    Above 1 is possible: a response-stage cascade always pays the small model. None if never
    reached. Equal qualities: the cheaper model is the better one.
    Source: UniRoute (2502.08773).
    """
    small, large = float(curve.quality[0]), float(curve.quality[-1])
    cheaper_small = small == large and curve.small_cost <= curve.large_cost
    alone = curve.small_cost if small > large or cheaper_small else curve.large_cost
    cost = flops_at_quality(curve, max(small, large))
    return None if cost is None or alone <= 0 else cost / alone


def aiq(curve: Curve) -> float | None:
    """Area under the non-decreasing upper hull of (cost, quality), over the greatest cost.

    As in RouterBench the hull is integrated from its *own* first cost but divided by the whole
    range, so curves that start dearer score lower. The common greatest cost is F_S + F_L (our
    choice: it does not depend on which routers are compared). None if that is 0.
    Source: RouterBench (2403.12031), evaluation/AIQ.py.
    """
    end = curve.small_cost + curve.large_cost
    if end <= 0:
        return None
    cost_H, quality_H = _rising_hull(curve.cost, curve.quality)
    last = float(np.interp(end, cost_H, quality_H))
    inside = cost_H < end
    cost, quality = np.append(cost_H[inside], end), np.append(quality_H[inside], last)
    return float(np.trapezoid(quality, cost)) / end


def auroc(score: Shaped[np.ndarray, " N"], positive: Shaped[np.ndarray, " N"]) -> float | None:
    """P(score of a positive > score of a negative), ties as half; None if one class is absent.

    >>> auroc(np.array([0.1, 0.4, 0.4, 0.9]), np.array([False, False, True, True]))
    0.875
    """
    positives = int(np.count_nonzero(positive))
    negatives = len(positive) - positives
    if positives == 0 or negatives == 0:
        return None
    above = float(_midrank(score)[positive.astype(bool)].sum()) - positives * (positives + 1) / 2
    return above / (positives * negatives)


def spearman(a: Num[np.ndarray, " N"], b: Num[np.ndarray, " N"]) -> float | None:
    """Rank correlation with mid-ranks for ties; None if either column is constant."""
    a_N, b_N = _midrank(a) - (len(a) + 1) / 2, _midrank(b) - (len(b) + 1) / 2
    norm = float(np.sqrt(np.sum(a_N**2) * np.sum(b_N**2)))
    return float(np.dot(a_N, b_N)) / norm if norm > 0 else None


def _gap(curve: Curve) -> float | None:
    """Q_L - Q_S, or None where the large model is no better."""
    gap = float(curve.quality[-1] - curve.quality[0])
    return gap if gap > REACHED else None


def _least(axis_P: np.ndarray, quality_P: np.ndarray, target: float) -> float | None:
    """Least value of ``axis`` on the polyline where quality is at least ``target``."""
    above = quality_P >= target - REACHED
    if not above.any():
        return None
    low = np.flatnonzero(above[1:] != above[:-1])
    share = np.clip((target - quality_P[low]) / (quality_P[low + 1] - quality_P[low]), 0.0, 1.0)
    crossing = axis_P[low] + share * (axis_P[low + 1] - axis_P[low])
    return float(min(axis_P[above].min(), crossing.min(initial=np.inf)))


def _rising_hull(x_P: np.ndarray, y_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners of the upper convex hull, left to right, up to its peak."""
    order = np.lexsort((y_P, x_P))
    x, y = x_P[order], y_P[order]
    best = np.append(x[1:] != x[:-1], True)  # the highest quality of each cost
    x, y = _upper_hull(x[best], y[best])
    peak = int(np.argmax(y)) + 1
    return x[:peak], y[:peak]


def _upper_hull(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners of the upper hull of points of rising x."""
    if len(x) > 256:  # most points lie below the hull of a sixteenth of them: drop those first
        rows = np.append(np.arange(0, len(x) - 1, 16), len(x) - 1)
        above = y >= np.interp(x, *_upper_hull(x[rows], y[rows]))
        x, y = x[above], y[above]
    hull: list[tuple[float, float]] = []
    for point in zip(x.tolist(), y.tolist(), strict=True):
        while len(hull) >= 2 and _turns_left(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    corners = np.array(hull)
    return corners[:, 0], corners[:, 1]


def _turns_left(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    """Whether b lies on or below the line from a to c."""
    return (b[0] - a[0]) * (c[1] - a[1]) >= (b[1] - a[1]) * (c[0] - a[0])


def _midrank(values: Shaped[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """Ranks from 1; equal values share the mean of theirs."""
    order, rising = stable_order(values)
    end = np.flatnonzero(np.append(rising[1:] != rising[:-1], len(values) > 0)) + 1
    count = np.diff(end, prepend=0)
    rank = np.empty(len(values))
    rank[order] = np.repeat(end - (count - 1) / 2, count)
    return rank
