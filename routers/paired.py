"""Arms compared over queries and seeds: both resampled, the same draws for every arm.

Letters: N queries, B resamples, K seeds.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float, Int

from routers.bootstrap import Metric, draws, interval, number, replicates, same_queries
from routers.curves import Ranked
from routers.errors import InputError
from routers.metrics import audc


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
    both = measured([arm, baseline], metric, resamples=resamples, seed=seed)
    return difference(both[0], both[1], relative=relative)


@dataclasses.dataclass(frozen=True)
class Measured:
    """One metric of K seeds: on all queries, and the mean over drawn seeds on each resample.

    NaN where it is not defined. Those made with the same queries, K, B and seed share resamples.
    """

    per_seed: Float[np.ndarray, " K"]
    drawn: Float[np.ndarray, " B"]

    @property
    def value(self) -> float:
        """Mean over seeds, on all queries."""
        return float(self.per_seed.mean())

    @property
    def interval(self) -> tuple[float, float] | tuple[None, None]:
        """95 % interval over queries and seeds."""
        return interval(self.drawn)


def measured(
    groups: Sequence[Sequence[Ranked]],
    metric: Metric = audc,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> list[Measured]:
    """The metric of every group of K rankings (one per seed), all on the same resamples.

    Raises:
        InputError: groups of different queries or numbers of seeds.
    """
    same_queries(r for group in groups for r in group)
    seeds = {len(group) for group in groups}
    if len(seeds) != 1:
        raise InputError(f"groups of {sorted(seeds)} seeds; compare the same seeds of each")
    named = {f"{g} {k}": r for g, group in enumerate(groups) for k, r in enumerate(group)}
    drawn = replicates(named, {"value": metric}, resamples=resamples, seed=seed)
    count_BK = _seed_weights(seeds.pop(), resamples, seed)
    made = []
    for g, group in enumerate(groups):
        whole_K = np.array([number(metric(r.curve())) for r in group])
        drawn_BK = np.stack([drawn[f"{g} {k}"]["value"] for k in range(len(group))], axis=1)
        made.append(Measured(whole_K, _seed_mean(drawn_BK, count_BK)))
    return made


def difference(arm: Measured, baseline: Measured, *, relative: bool = False) -> Difference:
    """Arm minus baseline, both from one call of ``measured`` or from calls with its settings."""
    low, high = interval(_compare(np.stack([arm.drawn, baseline.drawn]), relative))
    per_seed = _compare(np.stack([arm.per_seed, baseline.per_seed]), relative)
    value = _compare(np.array([[arm.value], [baseline.value]]), relative)[0]
    return Difference(_defined(value), low, high, tuple(_defined(v) for v in per_seed))


def joint_draws(
    queries: int, seeds: int, *, resamples: int = 1000, seed: int = 0
) -> Iterator[tuple[Int[np.ndarray, " N"], Int[np.ndarray, " K"]]]:
    """How often each query and each seed occurs, for every resample, as ``measured`` draws them.

    For statistics that are not one metric of one curve: relative costs, bands of whole curves.
    """
    count_BK = _seed_weights(seeds, resamples, seed)
    yield from zip(draws(queries, range(resamples), seed), count_BK, strict=True)


def _seed_weights(seeds: int, resamples: int, seed: int) -> np.ndarray:
    """[B, K] how often each seed occurs in each resample."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))
    return rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples)


def _seed_mean(values_BK: np.ndarray, count_BK: np.ndarray) -> np.ndarray:
    """[B] mean over the drawn seeds; a seed that was not drawn does not count, even if NaN."""
    return np.where(count_BK > 0, values_BK * count_BK, 0.0).sum(axis=1) / values_BK.shape[1]


def _compare(arm_and_baseline: np.ndarray, relative: bool) -> np.ndarray:
    """Difference or relative difference of two rows, NaN where it is not defined."""
    arm, baseline = arm_and_baseline
    if not relative:
        return arm - baseline
    empty = np.full_like(arm, np.nan)
    return np.divide(arm, baseline, out=empty, where=baseline != 0) - 1


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
