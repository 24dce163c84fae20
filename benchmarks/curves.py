"""Time of the exact curve and of its bootstrap against the number of queries.

    python benchmarks/curves.py            n = 1e4 .. 1e7, about a minute on 2 cores
    python benchmarks/curves.py 10000      chosen sizes only

Seconds are of the processor, the wall clock beside them in brackets: on a busy machine only the
former says what the code costs. ``curve / sort``: the exact deferral curve over ``np.sort`` on
the same scores in the same run; ``argsort`` is what the curve would spend on its order alone
with NumPy's. The curve sorts once, so it grows as n log n: ``growth`` is the time over that of
the size before, beside what n log n predicts. ``1000 resamples``: percentile bootstrap of the
area, on two threads, with ``peak`` the greatest resident memory of the process so far.
"""

import resource
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from routers.base import Outcomes
from routers.bootstrap import replicates
from routers.curves import rank
from routers.metrics import audc

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
RESAMPLES, RESAMPLED_UP_TO = 1000, 1_000_000


class Seconds(NamedTuple):
    processor: float
    wall: float

    def __str__(self) -> str:
        return f"{self.processor:.4f} ({self.wall:.4f})"


def best_of(repeats: int, work: Callable[[], object]) -> Seconds:
    """The fastest run: other processes only ever add time."""
    times = []
    for _ in range(repeats):
        begun = time.process_time(), time.perf_counter()
        work()
        times.append(Seconds(time.process_time() - begun[0], time.perf_counter() - begun[1]))
    return min(times)


def synthetic(queries: int) -> tuple[np.ndarray, Outcomes]:
    rng = np.random.default_rng(0)
    small, large = (rng.integers(0, 2, queries).astype(float) for _ in range(2))
    return rng.random(queries), Outcomes(small, large, rng.random(queries), 9 * rng.random(queries))


def measure(queries: int) -> tuple[Seconds, Seconds, Seconds, Seconds | None]:
    """np.sort, np.argsort, the curve, and the bootstrap (None where n is too large)."""
    score, outcomes = synthetic(queries)
    repeats = 5 if queries > 1_000_000 else 9
    sort = best_of(repeats, lambda: np.sort(score))
    argsort = best_of(repeats, lambda: np.argsort(score))
    curve = best_of(repeats, lambda: rank(score, outcomes).curve())
    if queries > RESAMPLED_UP_TO:
        return sort, argsort, curve, None
    ranked = {"router": rank(score, outcomes)}
    areas = {"audc": audc}
    drawn = best_of(1, lambda: replicates(ranked, areas, resamples=RESAMPLES))
    return sort, argsort, curve, drawn


def main(sizes: tuple[int, ...]) -> None:
    table = Table("n", "np.sort s", "np.argsort s", "curve s", "curve / sort", "growth (n log n)")
    table.add_column(f"{RESAMPLES} resamples s")
    table.add_column("peak GB")
    before: tuple[int, float] | None = None
    for queries in sizes:
        sort, argsort, curve, drawn = measure(queries)
        growth = ""
        if before is not None:
            expected = queries * np.log(queries) / (before[0] * np.log(before[0]))
            growth = f"{curve.processor / before[1]:.1f} ({expected:.1f})"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        ratio = f"{curve.processor / sort.processor:.1f}"
        seconds = (str(sort), str(argsort), str(curve), ratio)
        bootstrap = "" if drawn is None else f"{drawn.processor:.1f} ({drawn.wall:.1f})"
        table.add_row(f"{queries:,}", *seconds, growth, bootstrap, f"{peak:.2f}")
        before = queries, curve.processor
    console = Console()
    console.width = max(console.width, 130)
    console.print(table)


if __name__ == "__main__":
    main(tuple(int(size) for size in sys.argv[1:]) or SIZES)
