"""Paired bootstrap over queries: intervals for metrics of curves and for their differences.

A resample is a vector of weights (how often each query was drawn), so no curve is sorted
again. The weights of resample b depend only on (seed, b, N): curves evaluated apart, on the
same queries and seed, are still resampled jointly.

Letters: N queries, B resamples, K seeds.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from jaxtyping import Float, Int

from routers.curves import Curve, Ranked
from routers.errors import InputError
from routers.metrics import audc

T = TypeVar("T")
Metric = Callable[[Curve], float | None]

BLOCK = 65_536  # rows drawn at once: the counts of one block stay in the processor's cache
THREADS = 2  # NumPy releases the interpreter lock in most of the work
THREADED_FROM = 50_000  # queries; below it threads cost more than they bring


def resample_weights(queries: int, rng: np.random.Generator) -> Int[np.ndarray, " N"]:
    """How often each query occurs in one resample of the same size: multinomial(N, 1/N).

    Drawn in two exact steps, the number per block of rows and then the rows within each.

    >>> resample_weights(5, np.random.default_rng(0)).sum()
    np.int64(5)
    """
    starts = np.arange(0, queries, BLOCK)
    sizes = np.minimum(BLOCK, queries - starts)
    weights = np.empty(queries, np.int32)
    for start, size, draws in zip(
        starts, sizes, rng.multinomial(queries, sizes / queries), strict=True
    ):
        rows = rng.integers(0, size, draws, dtype=np.uint16 if size > 256 else np.uint8)
        weights[start : start + size] = np.bincount(rows, minlength=size)
    return weights


def replicates(
    ranked: Mapping[str, Ranked],
    metrics: Mapping[str, Metric],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, dict[str, Float[np.ndarray, " B"]]]:
    """Every metric of every curve on every resample: ``result[curve][metric]`` is [B].

    All curves must be of the same queries in the same order and see the same resamples.
    NaN where a metric is not defined on a resample. The area under the deferral curve alone
    (``{"audc": audc}``) takes a path without the curve, about 20 ms of processor time per million
    queries.

    Source: percentile bootstrap, Efron and Tibshirani (1993), chapter 13.
    """
    queries = _same_queries(ranked.values())
    only_audc = all(metric is audc for metric in metrics.values())

    def work(part: range) -> list[list[list[float]]]:
        scratch = _Scratch.of(queries)

        def measure(r: Ranked, weights: np.ndarray) -> list[float]:
            if only_audc:
                return [_weighted_audc(r, weights, scratch)] * len(metrics)
            curve = r.curve(weights)
            return [_number(metric(curve)) for metric in metrics.values()]

        draws = _draws(queries, part, seed)
        return [[measure(r, weights) for r in ranked.values()] for weights in draws]

    measured = np.array(_in_threads(work, resamples, queries))
    values_BRM = measured.reshape(resamples, len(ranked), len(metrics))  # also without resamples
    return {
        name: {metric: values_BRM[:, r, m] for m, metric in enumerate(metrics)}
        for r, name in enumerate(ranked)
    }


def interval(
    values: Float[np.ndarray, " B"], level: float = 0.95
) -> tuple[float, float] | tuple[None, None]:
    """Percentile interval, as order statistics.

    Undefined resamples (NaN) are counted at both extremes, so they can only widen it; None
    where they are too many for a bound to exist.

    >>> interval(np.arange(1000.0))
    (25.0, 974.0)
    """
    skip = math.floor(len(values) * (1 - level) / 2 + 1e-9)  # .1 * 1000 / 2 is 50, not 49
    unknown = np.isnan(values)
    if len(values) == 0 or unknown.sum() > skip:
        return None, None
    low = np.sort(np.where(unknown, -np.inf, values))[skip]
    high = np.sort(np.where(unknown, np.inf, values))[len(values) - 1 - skip]
    return float(low), float(high)


@dataclasses.dataclass(frozen=True)
class Difference:
    """Arm minus baseline with its paired 95 % interval; None where not defined.

    With ``relative`` the values are ``arm / baseline - 1``. ``per_seed`` holds K values.
    """

    value: float | None
    low: float | None
    high: float | None
    per_seed: tuple[float | None, ...]

    @property
    def significant(self) -> bool:
        """Whether the interval exists and does not cover zero."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


def hierarchical_difference(
    arm: Sequence[Ranked],
    baseline: Sequence[Ranked],
    metric: Metric = audc,
    *,
    relative: bool = False,
    resamples: int = 1000,
    seed: int = 0,
) -> Difference:
    """Arm against baseline over K seeds and N queries, both resampled, shared by both arms.

    Each resample draws K seeds and N queries with replacement; the statistic is the mean of
    the metric over the drawn seeds, arm minus baseline (or their ratio minus 1). With one seed
    this is the paired bootstrap over queries. Few seeds bound their own spread poorly: the
    percentile interval over K seeds is too narrow by about ``sqrt((K - 1) / K)``.

    Args:
        arm, baseline: one ranking per seed, ``rank(score, outcomes)``, seed k of one arm
            belonging with seed k of the other; all on the same queries in the same order.
        metric: of one curve, e.g. ``audc`` or ``lambda c: flops_at_quality(c, 0.8)``.
        relative: report ``mean(arm) / mean(baseline) - 1``.

    Raises:
        InputError: arms with different numbers of seeds or of queries.
    """
    if len(arm) != len(baseline) or not arm:
        raise InputError(
            f"arms have {len(arm)} and {len(baseline)} seeds; compare the same seeds of both arms"
        )
    _same_queries([*arm, *baseline])
    arms = {f"{side} {k}": r for side, s in (("a", arm), ("b", baseline)) for k, r in enumerate(s)}
    whole_2K = np.array([_number(metric(r.curve())) for r in arms.values()]).reshape(2, -1)
    drawn = replicates(arms, {"value": metric}, resamples=resamples, seed=seed)
    drawn_2BK = np.stack([drawn[name]["value"] for name in arms], 1).reshape(-1, 2, len(arm))
    drawn_2BK = drawn_2BK.transpose(1, 0, 2)
    mean_2B = np.mean(drawn_2BK * _seed_weights(len(arm), resamples, seed), axis=2)
    low, high = interval(_compare(mean_2B, relative))
    per_seed = _compare(whole_2K, relative)
    value = _compare(whole_2K.mean(axis=1, keepdims=True), relative)[0]
    return Difference(_defined(value), low, high, tuple(_defined(v) for v in per_seed))


@dataclasses.dataclass(frozen=True)
class _Scratch:
    """Arrays a thread reuses for every resample: fresh pages cost more than the sums."""

    weight: np.ndarray  # [N] int32, in the order of the ranking
    running: np.ndarray  # [N] int32, queries drawn so far
    change: np.ndarray  # [N]

    @classmethod
    def of(cls, queries: int) -> _Scratch:
        return cls(np.empty(queries, np.int32), np.empty(queries, np.int32), np.empty(queries))


def _weighted_audc(ranked: Ranked, weights: np.ndarray, scratch: _Scratch) -> float:
    """``audc(ranked.curve(weights))`` in one running sum of integers.

    Summing ``sum_g w_g (Q_{g-1} + Q_g) / 2`` by parts leaves, for each group g of equal score,
    its weighted gain times the weight below it plus half its own:
    ``Q_S + sum_g gain_g (W - C_g + w_g / 2) / W^2``, with C the running sum of weights.
    """
    total = float(len(weights))
    quality = float(np.multiply(weights, ranked.quality_small, out=scratch.change).sum()) / total
    weight = np.take(weights, ranked.order, out=scratch.weight, mode="clip")
    running = np.cumsum(weight, dtype=np.int32, out=scratch.running)
    gain = np.multiply(weight, ranked.gain_sorted, out=scratch.change)
    if len(ranked.end) == len(weights):
        own: np.ndarray = weight
    else:
        running = running[ranked.end - 1]
        own = np.diff(running, prepend=0)
        gain = np.add.reduceat(gain, np.append(0, ranked.end[:-1]))
    area = total * float(gain.sum()) - _dot(gain, running) + _dot(gain, own) / 2
    return quality + area / total**2


def _dot(a: np.ndarray, b: np.ndarray) -> float:
    """Inner product outside BLAS, whose own threads would compete with ours."""
    return float(np.einsum("i,i->", a, b))


def _draws(queries: int, part: range, seed: int) -> Iterator[np.ndarray]:
    """The weights of these resamples, each from a stream of its own."""
    for b in part:
        stream = np.random.SeedSequence(seed, spawn_key=(0, b))
        yield resample_weights(queries, np.random.default_rng(stream))


def _seed_weights(seeds: int, resamples: int, seed: int) -> np.ndarray:
    """[B, K] how often each seed occurs in each resample."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))
    return rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples)


def _in_threads(work: Callable[[range], list[T]], resamples: int, queries: int) -> list[T]:
    """``work`` over all resamples in order, split among threads where that pays."""
    threads = THREADS if queries >= THREADED_FROM else 1
    edges = np.linspace(0, resamples, threads + 1).astype(int).tolist()
    parts = [range(a, b) for a, b in itertools.pairwise(edges)]
    with ThreadPoolExecutor(threads) as pool:
        return [row for rows in pool.map(work, parts) for row in rows]


def _same_queries(ranked: Iterable[Ranked]) -> int:
    """The number of queries all rankings share, or InputError."""
    sizes = sorted({len(r) for r in ranked})
    if len(sizes) != 1:
        raise InputError(
            f"curves of {' and '.join(map(str, sizes)) or 'no'} queries cannot be resampled "
            "jointly; evaluate them on the same queries"
        )
    return sizes[0]


def _compare(arm_and_baseline: np.ndarray, relative: bool) -> np.ndarray:
    """Difference or relative difference of two rows, NaN where it is not defined."""
    arm, baseline = arm_and_baseline
    if not relative:
        return arm - baseline
    empty = np.full_like(arm, np.nan)
    return np.divide(arm, baseline, out=empty, where=baseline != 0) - 1


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
