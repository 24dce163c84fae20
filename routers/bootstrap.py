"""Paired bootstrap over queries: intervals for metrics of curves.

A resample is a vector of weights (how often each query was drawn), so no curve is sorted
again. The weights of resample b depend only on (seed, b, N): curves evaluated apart, on the
same queries and seed, are still resampled jointly.

Letters: N queries, B resamples. Arms with several seeds: ``routers/paired.py``.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
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
    queries = same_queries(ranked.values())
    only_audc = all(metric is audc for metric in metrics.values())

    def work(part: range) -> list[list[list[float]]]:
        scratch = _Scratch.of(queries)

        def measure(r: Ranked, weights: np.ndarray) -> list[float]:
            if only_audc:
                return [_weighted_audc(r, weights, scratch)] * len(metrics)
            curve = r.curve(weights)
            return [number(metric(curve)) for metric in metrics.values()]

        return [
            [measure(r, weights) for r in ranked.values()] for weights in draws(queries, part, seed)
        ]

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


def draws(queries: int, part: range, seed: int) -> Iterator[np.ndarray]:
    """The weights of these resamples, each from a stream of its own."""
    for b in part:
        stream = np.random.SeedSequence(seed, spawn_key=(0, b))
        yield resample_weights(queries, np.random.default_rng(stream))


def _in_threads(work: Callable[[range], list[T]], resamples: int, queries: int) -> list[T]:
    """``work`` over all resamples in order, split among threads where that pays."""
    threads = THREADS if queries >= THREADED_FROM else 1
    edges = np.linspace(0, resamples, threads + 1).astype(int).tolist()
    parts = [range(a, b) for a, b in itertools.pairwise(edges)]
    with ThreadPoolExecutor(threads) as pool:
        return [row for rows in pool.map(work, parts) for row in rows]


def same_queries(ranked: Iterable[Ranked]) -> int:
    """The number of queries all rankings share, or InputError."""
    sizes = sorted({len(r) for r in ranked})
    if len(sizes) != 1:
        raise InputError(
            f"curves of {' and '.join(map(str, sizes)) or 'no'} queries cannot be resampled "
            "jointly; evaluate them on the same queries"
        )
    return sizes[0]


def number(value: float | None) -> float:
    """NaN for a metric that is not defined."""
    return math.nan if value is None else value
