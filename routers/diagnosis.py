"""Why a router ranks as it does: what it finds, whether it reads length, where the area is lost.

Every interval is the paired bootstrap of ``routers/paired.py``: statistics made here with the
same queries, resamples and seed can be subtracted from one another.

Letters: N queries, B resamples, G groups of equal score, M bins.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int, Num, Shaped

from routers.base import Outcomes
from routers.bootstrap import number, same_queries
from routers.curves import Ranked, check_score, oracle_score, rank
from routers.errors import InputError
from routers.metrics import REACHED, spearman
from routers.paired import Difference, Measured, difference, joint_draws, measured

RIGHT = 0.5  # a graded answer counts as right from this quality on (our choice)


def detection(
    scores: Mapping[str, Float[np.ndarray, " N"]],
    outcomes: Outcomes,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, dict[str, Measured]]:
    """AUROC of every score for two targets; ``result[router][target]``, NaN where undefined.

    ``wrong``: the small model's answer is wrong (quality below 1/2), whatever the large one
    says. ``helped``: the large model's answer is better; for 0/1 quality, small wrong and large
    right. A confidence that finds ``wrong`` but not ``helped`` sends on what nobody can answer.

    Raises:
        InputError: no queries, or a score that is not one finite number each.
    """
    wrong_N = np.asarray(outcomes.quality_small) < RIGHT
    targets = {"wrong": wrong_N, "helped": oracle_score(outcomes) > 0}
    flat = {"": np.zeros(len(outcomes))}  # its area is half the share of positives
    ranked = {
        (name, target): _rank_against(score, hit, name)
        for target, hit in targets.items()
        for name, score in (flat | dict(scores)).items()
    }
    made = measured([[r] for r in ranked.values()], resamples=resamples, seed=seed)
    areas = dict(zip(ranked, made, strict=True))
    return {name: {t: _auroc_of(areas[name, t], areas["", t]) for t in targets} for name in scores}


def auroc_of_area(
    area: Float[np.ndarray, "*B"], share: Float[np.ndarray, "*B"]
) -> Float[np.ndarray, "*B"]:
    """The AUROC of a score from the area under its deferral curve, the "gain" a 0/1 target.

    That area is ``E[U 1(positive)]``, U the share of scores below; taking away the positives
    among those leaves ``(area - p^2 / 2) / (p (1 - p))``, p the share of positives. So bootstrap
    weights need no pass of their own. NaN where one class is absent. Source: our derivation.

    >>> auroc_of_area(np.array([0.34375]), np.array([0.5])).tolist()
    [0.875]
    """
    both = (share > REACHED) & (share < 1 - REACHED)
    undefined = np.full_like(area, np.nan)
    found = np.divide(area - share**2 / 2, share * (1 - share), out=undefined, where=both)
    return np.clip(found, 0.0, 1.0)  # rounding may pass either end


def length_bias(
    scores: Mapping[str, Float[np.ndarray, " N"]],
    length: Num[np.ndarray, " N"],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Measured]:
    """Spearman correlation of every score with length, by name; NaN where one is constant.

    Read it beside the same figure for ``oracle_score(outcomes)``: a router may follow length as
    far as the gain itself does. Mid-ranks are taken anew on every resample.

    Raises:
        InputError: no queries, or a score or length that is not one finite number each.
    """
    flat = np.zeros(len(length))  # a name may be "length" itself, so no dict of all
    ranked = [_rank_against(np.asarray(length, np.float64), flat, "length")]
    ranked += [_rank_against(score, flat, name) for name, score in scores.items()]
    queries = same_queries(ranked)
    draws = joint_draws(queries, 1, resamples=resamples, seed=seed)
    drawn_BS = np.array([_correlations(ranked, weights) for weights, _ in draws])
    drawn_BS = drawn_BS.reshape(resamples, len(scores))
    whole = [np.array([number(spearman(score, length))]) for score in scores.values()]
    made = zip(scores, whole, drawn_BS.T, strict=True)
    return {name: Measured(value, drawn) for name, value, drawn in made}


@dataclasses.dataclass(frozen=True)
class Reliability:
    """A reliability diagram: for each bin of confidence, how often it was right.

    ``confidence`` and ``accuracy`` are means over the bin, NaN-free because empty bins are left
    out; ``low`` and ``high`` are the bin's edges, ``count`` its queries.
    """

    low: Float[np.ndarray, " M"]
    high: Float[np.ndarray, " M"]
    count: Int[np.ndarray, " M"]
    confidence: Float[np.ndarray, " M"]
    accuracy: Float[np.ndarray, " M"]
    ece: float  # sum of |accuracy - confidence| weighted by the share of queries
    chance: float  # about the ece of a perfectly calibrated confidence on as many queries


def reliability(
    confidence: Float[np.ndarray, " N"], quality: Float[np.ndarray, " N"], bins: int = 10
) -> Reliability:
    """Reliability diagram and expected calibration error over equal bins ``(low, high]``.

    Args:
        confidence: a probability of being right, e.g. ``exp(-chow_average)``, in [0, 1].
        quality: of the small model's answer, in [0, 1].

    ``chance`` is ``sum_m sqrt(2/pi sum c (1 - c)) / N``, the mean of |normal noise|, for 0/1
    quality: an ece near it is no evidence of miscalibration, however large (our addition).

    Raises:
        InputError: no queries, or a value outside [0, 1].

    Source: Naeini et al. (2015); Guo et al. (1706.04599), equations 2 and 3.
    """
    _check_unit("confidence", confidence)
    _check_unit("quality", quality)
    edges = np.linspace(0, 1, bins + 1)
    bin_N = np.searchsorted(edges[1:-1], confidence)
    sums = (
        np.bincount(bin_N, values, bins)
        for values in (confidence, quality, confidence * (1 - confidence))
    )
    count = np.bincount(bin_N, minlength=bins)
    seen = count > 0
    surest, right, variance = (column[seen] for column in sums)
    count, total = count[seen], len(confidence)
    return Reliability(
        low=edges[:-1][seen],
        high=edges[1:][seen],
        count=count,
        confidence=surest / count,
        accuracy=right / count,
        ece=float(np.abs(right - surest).sum()) / total,
        chance=float(np.sqrt(2 / np.pi * variance).sum()) / total,
    )


@dataclasses.dataclass(frozen=True)
class OracleGap:
    """The way from deferring at random to a perfect area of 1, in four steps with intervals.

    ``earned``: what the router's ranking brings over random. ``ranking``: what a perfect ranking
    of the same two models would add. ``small_model``: what it would add on top if the small model
    itself answered as well as the better of the two, so that nothing needed sending.
    ``both_models``: the rest, where both fall short.
    """

    earned: Difference
    ranking: Difference
    small_model: Difference
    both_models: Difference


def oracle_gap(
    ranked: Mapping[str, Ranked], outcomes: Outcomes, *, resamples: int = 1000, seed: int = 0
) -> dict[str, OracleGap]:
    """Every router's area against the ladder random, router, oracle, ceiling, 1.

    The ceiling is ``mean(max(q_S, q_L))``. For 0/1 quality, b = P(S wrong, L right) and
    c = P(S right, L wrong), it lies ``(b^2 + c^2) / 2`` above the oracle. Source: our choice.
    """
    lines = _ladder(outcomes)
    groups = [[r] for r in (*lines, *ranked.values())]
    random, oracle, ceiling, perfect, *made = measured(groups, resamples=resamples, seed=seed)
    small_model, both_models = difference(ceiling, oracle), difference(perfect, ceiling)
    return {
        name: OracleGap(
            difference(area, random), difference(oracle, area), small_model, both_models
        )
        for name, area in zip(ranked, made, strict=True)
    }


def _ladder(outcomes: Outcomes) -> list[Ranked]:
    """Rankings whose areas are random, the oracle's, the better answer's everywhere, and 1."""
    small, large = (
        np.asarray(q, np.float64) for q in (outcomes.quality_small, outcomes.quality_large)
    )
    flat, better = np.zeros(len(outcomes)), np.maximum(small, large)
    ceiling, perfect = (
        dataclasses.replace(outcomes, quality_small=q, quality_large=q) for q in (better, 1 + flat)
    )
    oracle = rank(oracle_score(outcomes), outcomes)
    return [rank(flat, outcomes), oracle, rank(flat, ceiling), rank(flat, perfect)]


def _rank_against(score: np.ndarray, target: np.ndarray, name: str) -> Ranked:
    """The score as a ranking whose gain is the target; cost plays no part."""
    none = np.zeros(len(target))
    return rank(score, Outcomes(none, np.asarray(target, np.float64), none, none), name=name)


def _auroc_of(area: Measured, half_share: Measured) -> Measured:
    pairs = zip((area.per_seed, area.drawn), (half_share.per_seed, half_share.drawn), strict=True)
    return Measured(*(auroc_of_area(a, 2 * h) for a, h in pairs))


def _correlations(ranked: list[Ranked], weights: np.ndarray) -> list[float]:
    """Weighted Spearman of the first ranking with each of the others."""
    length_N, *scores = (_centred_midrank(r, weights) for r in ranked)
    weighted_N = weights * length_N
    own = float(np.dot(weighted_N, length_N))
    found = []
    for score_N in scores:
        norm = (own * float(np.dot(weights * score_N, score_N))) ** 0.5
        found.append(float(np.dot(weighted_N, score_N)) / norm if norm > 0 else np.nan)
    return found


def _centred_midrank(ranked: Ranked, weights: np.ndarray) -> Shaped[np.ndarray, " N"]:
    """Mid-ranks (falling) of the queries repeated ``weights`` times, less their mean."""
    count_G = np.cumsum(weights[ranked.order])[ranked.end - 1]
    place_G = count_G - np.diff(count_G, prepend=0) / 2 - count_G[-1] / 2
    place_N = np.empty(len(ranked))
    place_N[ranked.order] = np.repeat(place_G, np.diff(ranked.end, prepend=0))
    return place_N


def _check_unit(what: str, values: np.ndarray) -> None:
    """Raise InputError unless all values are finite and lie in [0, 1]."""
    check_score(np.asarray(values), len(values), what)
    if values.min() < 0 or values.max() > 1:
        raise InputError(
            f"{what} runs from {values.min():.4g} to {values.max():.4g}; it must lie in [0, 1]"
        )
