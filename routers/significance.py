"""Whether two routers differ: permutation and bootstrap p-values, corrected for many pairs.

The paired bootstrap interval (``routers/paired.py``) is the main statement: it says how large a
difference is. The p-values here say how surprising it would be if there were none.

Letters: N queries, P = N + 1 places to stop, B resamples or permutations, C comparisons.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from routers.bootstrap import same_queries
from routers.curves import Ranked
from routers.errors import InputError
from routers.paired import Difference, Measured, difference, measured

SIGNS_AT_ONCE = 2**21  # signs drawn together: 16 MiB as float64
ROUNDING = 1e-9  # relative; permuted values this close to the observed one count as equal


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Router ``first`` against ``second``: areas under the deferral curve, first minus second.

    ``difference`` has the paired 95 % interval over queries; ``per_query`` is the standard
    deviation of one query's share in the difference (``routers/power.py``). ``p_holm`` is
    ``p_permutation`` corrected for all comparisons made together.
    """

    first: str
    second: str
    difference: Difference
    per_query: float
    p_bootstrap: float
    p_permutation: float
    p_holm: float


def compare(
    ranked: Mapping[str, Ranked],
    *,
    resamples: int = 1000,
    permutations: int = 10_000,
    seed: int = 0,
) -> tuple[dict[str, Measured], list[Comparison]]:
    """Every pair of routers, the larger area first; all on the same resamples and sign flips.

    Returns the areas by name, largest first, and the pairs in that order.

    Raises:
        InputError: fewer than two routers, rankings of different queries or outcomes, fewer
            than 100 resamples, or so few permutations that no corrected p could reach .05.
    """
    _check_counts(len(ranked), resamples, permutations)
    made = measured([[r] for r in ranked.values()], resamples=resamples, seed=seed)
    order = sorted(zip(ranked, made, strict=True), key=lambda named: -named[1].value)
    areas = dict(order)  # sorted is stable: equal areas keep the order they were given in
    pairs = list(itertools.combinations(areas, 2))
    terms = [swap_terms(ranked[a], ranked[b]) for a, b in pairs]
    p_permutation = sign_flip_p(np.stack(terms), permutations=permutations, seed=seed).tolist()
    p_holm = holm(np.array(p_permutation)).tolist()
    found = []
    for (a, b), terms_N, *p in zip(pairs, terms, p_permutation, p_holm, strict=True):
        # The same ranking, summed in another order, differs by rounding in every resample.
        against = areas[b] if terms_N.any() else areas[a]
        drawn_B = areas[a].drawn - against.drawn
        spread = float(drawn_B.std(ddof=1)) * len(terms_N) ** 0.5
        gap = difference(areas[a], against)
        found.append(Comparison(a, b, gap, spread, bootstrap_p(drawn_B), *p))
    return areas, found


def permutation_p(
    first: Ranked, second: Ranked, *, permutations: int = 10_000, seed: int = 0
) -> float:
    """Two-sided p-value of "these two rankings are interchangeable", by areas.

    Each score is replaced by its percentile within its router, so that routers of different
    scales can be mixed; tied scores are spread evenly over the percentiles they share. A
    permutation swaps, with probability 1/2 for each query, that query's two percentiles; both new
    columns are *ranked again* (a swap changes everybody's rank), and the areas under their
    deferral curves are subtracted. ``p = (1 + #{|T*| >= |T|}) / (B + 1)``.

    The null hypothesis is that percentiles are exchangeable given the outcomes: which router a
    percentile came from says nothing. That is more than equal areas, and percentiles are estimated
    from the same queries, so the size is exact only in the limit. At 200 queries and level .05,
    4,000 simulations reject in .04 to .055 where the hypothesis holds (two noisy scores, tied or
    not; a constant and a coin), and in .065 where areas are equal but one router ranks well among
    the best queries and the other among the worst. The bootstrap interval assumes none of this.

    Source: paired permutation test, Fisher (1935); the +1s, Phipson and Smyth (2010). Percentiles
    and ranking again are our choice.
    """
    terms = swap_terms(first, second)[None]
    return float(sign_flip_p(terms, permutations=permutations, seed=seed)[0])


def swap_terms(first: Ranked, second: Ranked) -> Float[np.ndarray, " N"]:
    """h with ``mean(h)`` the difference of areas, and ``mean(z h)`` that after the swaps z = -1.

    An area is linear in ranks: ``Q_S + (1/N) sum_i gain_i U_i``, U_i the share of scores below
    (equal ones half). After swaps U_i counts the entries of either router that landed in the same
    column; written out with signs that is a sum over queries::

        h_i = gain_i (U_i1 - U_i2) + c(i1) - c(i2)

    c(i1) is the gain captured, per query, by sending on what ranks above query i in router 1:
    the mean of both routers' deferral curves there, averaged over i's tied places. So ranking
    again, for every permutation, costs one inner product.

    Raises:
        InputError: rankings of different queries or outcomes.

    Source: our derivation.
    """
    same_queries([first, second])
    gain_N, other_N = (_in_query_order(r, r.gain_sorted) for r in (first, second))
    if not np.array_equal(gain_N, other_N):
        raise InputError("rankings of different outcomes; rank the same queries by both scores")
    captured_P = (_captured(first) + _captured(second)) / 2
    below_N, above_N = _places(first, captured_P)
    below_other_N, above_other_N = _places(second, captured_P)
    return gain_N * (below_N - below_other_N) + (above_N - above_other_N)


def sign_flip_p(
    terms: Float[np.ndarray, "C N"], *, permutations: int = 10_000, seed: int = 0
) -> Float[np.ndarray, " C"]:
    """``(1 + #{|mean(z h)| >= |mean(h)|}) / (B + 1)`` over random signs z, shared by all rows."""
    terms_NC = terms.T
    total_C, scale_C = terms_NC.sum(axis=0), np.abs(terms_NC).sum(axis=0)
    least_C = np.abs(total_C) - ROUNDING * scale_C
    queries = len(terms_NC)
    at_once = max(1, SIGNS_AT_ONCE // queries)
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(2,)))
    reached_C = np.ones(len(terms))
    for begin in range(0, permutations, at_once):
        block = min(at_once, permutations - begin)
        words = rng.integers(0, 2**64, (block, -(-queries // 64)), dtype=np.uint64)
        kept = np.unpackbits(words.view(np.uint8), axis=1, count=queries)
        flipped_BC = 2 * (kept.astype(np.float64) @ terms_NC) - total_C
        reached_C += (np.abs(flipped_BC) >= least_C).sum(axis=0)
    return reached_C / (permutations + 1)


def bootstrap_p(drawn: Float[np.ndarray, " B"]) -> float:
    """Two-sided p-value of "no difference" from resampled differences: where 0 lies among them.

    ``2 (1 + min(#{d <= 0}, #{d >= 0})) / (B + 1)``, at most 1: the smallest level at which the
    percentile interval leaves out 0. A resample where the difference is not defined (NaN)
    counts on both sides. Source: Davison and Hinkley (1997), inverted percentile interval.

    >>> bootstrap_p(np.array([-0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]))
    0.4
    """
    sides = int(np.count_nonzero(~(drawn > 0))), int(np.count_nonzero(~(drawn < 0)))
    return min(1.0, 2 * (1 + min(sides)) / (len(drawn) + 1))


def holm(p: Float[np.ndarray, " C"]) -> Float[np.ndarray, " C"]:
    """p-values corrected so that the chance of any false rejection among C is at most the level.

    In rising order, ``p_(k) (C - k + 1)``, never below the one before, at most 1. Holds
    whatever the dependence between the tests. Source: Holm (1979).

    >>> holm(np.array([0.01, 0.04, 0.03])).tolist()
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(stepped)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def _captured(ranked: Ranked) -> Float[np.ndarray, " P"]:
    """Gain per query from sending on the first 0, 1, ..., N; ties joined by a straight line."""
    gain_G = np.cumsum(ranked.gain_sorted)[ranked.end - 1]
    places = np.arange(len(ranked) + 1)
    return np.interp(places, np.append(0, ranked.end), np.append(0.0, gain_G)) / len(ranked)


def _places(ranked: Ranked, captured_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each query the share of scores below, and the mean of a curve over its tied places."""
    area_P = np.append(0.0, np.cumsum((captured_P[1:] + captured_P[:-1]) / 2))
    start_G = np.append(0, ranked.end[:-1])
    size_G = ranked.end - start_G
    below_G = 1 - (start_G + ranked.end) / (2 * len(ranked))
    above_G = (area_P[ranked.end] - area_P[start_G]) / size_G
    below_N, above_N = (_in_query_order(ranked, np.repeat(v, size_G)) for v in (below_G, above_G))
    return below_N, above_N


def _in_query_order(ranked: Ranked, values: np.ndarray) -> np.ndarray:
    """Values in the order of the ranking, back in that of the queries."""
    back = np.empty_like(values)
    back[ranked.order] = values
    return back


def _check_counts(routers: int, resamples: int, permutations: int) -> None:
    if routers < 2:
        raise InputError(f"{routers} router to compare; name two or more")
    if resamples < 100:
        raise InputError(f"{resamples} resamples cannot bound a 95 % interval; take 100 or more")
    least = 20 * routers * (routers - 1) // 2
    if permutations < least:
        raise InputError(
            f"{permutations} permutations cannot reach p = 0.05 over "
            f"{routers * (routers - 1) // 2} comparisons; take {least} or more"
        )
