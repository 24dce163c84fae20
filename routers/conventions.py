"""The field's figures as their reference programs compute them, where ours differ.

Our metrics read the exact curve; these reproduce published conventions, so that a number in a
paper has one beside it that means the same. ``docs/metrics.md`` sets them side by side and says
which to quote. QNC needs no second version: it is ``metrics.qnc``.

Letters: N queries, B bins, P points of a curve.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float

from routers import metrics
from routers.base import Outcomes
from routers.curves import Curve

Convention = Literal["exact", "routellm", "all"]  # exact: none of these
CALLS = (0.2, 0.5, 0.8)  # shares of the quality gap at which RouteLLM reports CPT
ARENA_BETA, ARENA_CHEAPEST, ARENA_DEAREST = 0.1, 0.0044, 200.0  # $ per 1,000 queries


def routellm(
    score: Float[np.ndarray, " N"], outcomes: Outcomes, bins: int = 10
) -> dict[str, Any] | None:
    """AUC, APGR and CPT from B + 1 points at quantiles of the scores, as RouteLLM prints them.

    Point b sends on every query whose score is at least the b-th quantile (linear between
    order statistics); the last point uses ``>``, so it sends nothing on::

        AUC    trapezoid of quality over the share sent on
        APGR   (AUC - Q_S) / (Q_L - Q_S)
        CPT(x) np.interp at quality Q_S + x (Q_L - Q_S), quality as abscissa

    Thresholds are quantiles of the *test* scores, and CPT means nothing where quality falls
    again along the points: both as in the reference, which prints quality, AUC and CPT times 100.

    Returns:
        ``auc``, ``apgr`` (None if Q_L = Q_S), ``cpt`` by x, and ``points`` from the lowest
        threshold to the highest; None where quantiles coincide (tied scores), since the
        reference program then stops with an error.

    Source: RouteLLM (2406.18665), routellm/evals/{benchmarks,evaluate}.py.

    >>> flat = np.ones(4)
    >>> found = routellm(np.array([0.1, 0.2, 0.3, 0.4]), Outcomes(flat * 0, flat, flat, flat))
    >>> round(found["auc"], 12), found["apgr"], len(found["points"])
    (0.5, 0.5, 11)
    """
    threshold_B = np.percentile(score, 100 * np.linspace(0, 1, bins + 1))
    if (np.diff(threshold_B) <= 0).any():
        return None
    small, large = (
        np.asarray(q, np.float64) for q in (outcomes.quality_small, outcomes.quality_large)
    )
    sent = [score >= threshold for threshold in threshold_B[:-1]] + [score > threshold_B[-1]]
    rate_B = np.array([chosen.sum() / len(score) for chosen in sent])
    quality_B = np.array([np.where(chosen, large, small).sum() / len(score) for chosen in sent])
    rising = slice(None, None, -1)
    auc = float(np.trapezoid(quality_B[rising], rate_B[rising]))
    low, gap = float(small.mean()), float(large.mean() - small.mean())
    targets = {str(x): x * gap + low for x in CALLS}
    return {
        "auc": auc,
        "apgr": (auc - low) / gap if gap else None,
        "cpt": {
            x: float(np.interp(target, quality_B[rising], rate_B[rising]))
            for x, target in targets.items()
        },
        "points": [
            {"threshold": float(t), "deferral_rate": float(r), "quality": float(q)}
            for t, r, q in zip(threshold_B, rate_B, quality_B, strict=True)
        ],
    }


def percent_over_random(curve: Curve) -> float | None:
    """``100 (AUDC / AUDC_random - 1)``; None where random scores 0.

    Favours tasks on which both models are poor: the same gain is a larger share of less.
    Source: Gupta et al. (2404.10136), tables of AUC-DF.

    >>> rate, quality = np.array([0.0, 0.5, 1.0]), np.array([0.4, 0.8, 0.8])
    >>> curve = Curve(np.array([np.inf, 1.0, 0.0]), rate, quality, rate, 1.0, 9.0)
    >>> round(percent_over_random(curve), 6)
    16.666667
    """
    chord = metrics.audc_random(curve)
    return 100 * (metrics.audc(curve) / chord - 1) if chord > 0 else None


def gatekeeper_deferral(curve: Curve) -> float | None:
    """s_d: area between curve and chord over area between an ideal curve and the chord.

    The ideal sends the small model's errors on first, each mended, until it reaches the large
    model: ``min(Q_S + rate, Q_L)``. For 0/1 quality no ranking's ideal is lower, so s_d is at
    least ``audc_normalised`` (both positive) and above 1 where the models mend each other.
    None if Q_L <= Q_S.

    Source: Gatekeeper (2502.19335), on the exact curve; the authors publish no code, and a
    reproduction reads 200 thresholds in [0, 1].
    """
    low, high = float(curve.quality[0]), float(curve.quality[-1])
    gap = high - low
    if gap <= metrics.REACHED:
        return None
    useful = high - gap**2 / 2 - metrics.audc_random(curve)
    return (metrics.audc(curve) - metrics.audc_random(curve)) / useful


def gatekeeper_overlap(
    score: Float[np.ndarray, " N"], correct: Bool[np.ndarray, " N"], bins: int = 100
) -> float | None:
    """s_o: how much the score densities of right and wrong small answers overlap, 0 to 1.

    ``sum_b min(share of right in bin b, share of wrong in bin b)``, lower is better; None if
    either class is absent. Source: Gatekeeper (2502.19335); equal bins over the range of the
    scores are our choice (the density estimate of the paper is not known), and the value grows
    with fewer bins, so compare only at equal bins.
    """
    right, wrong = score[correct], score[~correct]
    if not len(right) or not len(wrong):
        return None
    edges = (float(score.min()), float(score.max()))
    shares = [np.histogram(part, bins, edges)[0] / len(part) for part in (right, wrong)]
    return float(np.minimum(*shares).sum())


def uniroute_area(curve: Curve, share: float = 1.0) -> float | None:
    """Mean quality over a budget drawn evenly from [0, ``share`` of the dearer model's cost].

    Points that cost more without being better are dropped, the rest joined by straight lines
    and extended flat at both ends. The axis starts at 0, where ``metrics.aucfc`` starts at the
    small model. None if both models are free.

    Source: UniRoute (2502.08773), Area and Area (50%) with ``share`` 1 and 0.5.
    """
    dearest = max(curve.small_cost, curve.large_cost)
    if dearest <= 0:
        return None
    return metrics.aucfc(
        dataclasses.replace(_pareto(curve), small_cost=0.0, large_cost=share * dearest)
    )


def routerbench_aiq(curves: Mapping[str, Curve]) -> dict[str, float | None]:
    """AIQ of routers compared with each other: the common cost is the greatest peak of any hull.

    As ``metrics.aiq`` but for that end, so a router's figure depends on its company: a dearer
    one among them changes the others'. None if nothing costs anything.
    Source: RouterBench (2403.12031), evaluation/AIQ.py (total cost there, mean here: it cancels).
    """
    peaks = [metrics.flops_at_quality(c, float(c.quality.max())) for c in curves.values()]
    end = max((peak for peak in peaks if peak is not None), default=0.0)
    return {
        name: metrics.aiq(dataclasses.replace(curve, small_cost=0.0, large_cost=end))
        for name, curve in curves.items()
    }


def routerarena(accuracy: float, dollars: float) -> float:
    """``S = (1 + b) A C / (b A + C)``, ``C = (log2 200 - log2 c) / (log2 200 - log2 0.0044)``.

    Args:
        accuracy: mean quality A in [0, 1].
        dollars: mean dollars per query; c is a thousand times that, held in [0.0044, 200] so
            that C stays in [0, 1] (the reference's formula leaves it open).

    With b = 0.1 accuracy counts about ten times as much as cost; 0 for A = 0 or C = 0.
    Source: RouterArena, compute_arena_score.

    >>> round(routerarena(0.5, 0.0044e-3), 6), routerarena(0.5, 1.0)
    (0.52381, 0.0)
    """
    cost = min(max(1000 * dollars, ARENA_CHEAPEST), ARENA_DEAREST)
    spread = np.log2(ARENA_DEAREST) - np.log2(ARENA_CHEAPEST)
    cheap = float((np.log2(ARENA_DEAREST) - np.log2(cost)) / spread)
    below = ARENA_BETA * accuracy + cheap
    return (1 + ARENA_BETA) * accuracy * cheap / below if below > 0 else 0.0


def figures(
    convention: Convention,
    curves: Mapping[str, Curve],
    scores: Mapping[str, Float[np.ndarray, " N"]],
    outcomes: Outcomes,
    cost_unit: str,
) -> dict[str, dict[str, Any]]:
    """Each router's figures by convention, as JSON values: RouteLLM's, or ``all``.

    ``s_o`` counts a small answer as right from quality 0.5 on (our choice). ``routerarena`` is
    the best point of the curve, found on the test split and therefore optimistic; null unless
    costs are dollars.
    """
    found = {name: {"routellm": routellm(scores[name], outcomes)} for name in curves}
    if convention == "all":
        aiq, correct = routerbench_aiq(curves), np.asarray(outcomes.quality_small) >= 0.5
        for name, curve in curves.items():
            found[name] |= {
                "gupta": {"percent_over_random": percent_over_random(curve)},
                "gatekeeper": {
                    "s_d": gatekeeper_deferral(curve),
                    "s_o": gatekeeper_overlap(scores[name], correct),
                },
                "uniroute": {"area": uniroute_area(curve), "area_50": uniroute_area(curve, 0.5)},
                "routerbench": {"aiq": aiq[name]},
                "routerarena": _best_arena(curve) if cost_unit == "dollars" else None,
            }
    return found


def _best_arena(curve: Curve) -> dict[str, float]:
    """The point of the curve with the highest RouterArena score."""
    points = zip(curve.quality.tolist(), curve.cost.tolist(), strict=True)
    score_P = np.array([routerarena(quality, cost) for quality, cost in points])
    best = int(np.argmax(score_P))
    return {"score": float(score_P[best]), "deferral_rate": float(curve.deferral_rate[best])}


def _pareto(curve: Curve) -> Curve:
    """Only points that are better than every cheaper one, by rising cost."""
    order = np.lexsort((-curve.quality, curve.cost))
    quality_P = curve.quality[order]
    before = np.concatenate([[-np.inf], np.maximum.accumulate(quality_P)[:-1]])
    rows = order[quality_P > before]
    columns = {
        n: getattr(curve, n)[rows] for n in ("threshold", "deferral_rate", "quality", "cost")
    }
    return dataclasses.replace(curve, **columns)
