"""Time of the exact curve and of its bootstrap against the number of queries.

    python benchmarks/curves.py            n = 1e4 .. 1e7, about a minute on 2 cores
    python benchmarks/curves.py 10000      chosen sizes only

``curve / sort``: time of the exact deferral curve over that of ``np.sort`` on the same scores
in the same run. The curve sorts once, so it grows as n log n: ``growth`` is the time over that
of the size before, beside what n log n predicts. ``1000 resamples``: percentile bootstrap of
the area, with ``peak`` the greatest resident memory of the process so far.
"""

import resource
import sys
import time
from collections.abc import Callable

import numpy as np
from rich.console import Console
from rich.table import Table

from routers.base import Outcomes
from routers.bootstrap import replicates
from routers.curves import rank
from routers.metrics import audc

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
RESAMPLES, RESAMPLED_UP_TO = 1000, 1_000_000


def best_of(repeats: int, work: Callable[[], object]) -> float:
    """Seconds of the fastest run: other processes only ever add time."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def synthetic(queries: int) -> tuple[np.ndarray, Outcomes]:
    rng = np.random.default_rng(0)
    small, large = (rng.integers(0, 2, queries).astype(float) for _ in range(2))
    return rng.random(queries), Outcomes(small, large, rng.random(queries), 9 * rng.random(queries))


def measure(queries: int) -> tuple[float, float, float | None]:
    """Seconds of np.sort, of the curve, and of the bootstrap (None where n is too large)."""
    score, outcomes = synthetic(queries)
    repeats = 3 if queries > 1_000_000 else 7
    sort = best_of(repeats, lambda: np.sort(score))
    curve = best_of(repeats, lambda: rank(score, outcomes).curve())
    if queries > RESAMPLED_UP_TO:
        return sort, curve, None
    ranked = {"router": rank(score, outcomes)}
    areas = {"audc": audc}
    return sort, curve, best_of(1, lambda: replicates(ranked, areas, resamples=RESAMPLES))


def main(sizes: tuple[int, ...]) -> None:
    table = Table("n", "np.sort s", "curve s", "curve / sort", "growth (n log n)")
    table.add_column(f"{RESAMPLES} resamples s")
    table.add_column("peak GB")
    before: tuple[int, float] | None = None
    for queries in sizes:
        sort, curve, drawn = measure(queries)
        growth = ""
        if before is not None:
            expected = queries * np.log(queries) / (before[0] * np.log(before[0]))
            growth = f"{curve / before[1]:.1f} ({expected:.1f})"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        bootstrap = "" if drawn is None else f"{drawn:.2f}"
        seconds = (f"{sort:.4f}", f"{curve:.4f}", f"{curve / sort:.1f}")
        table.add_row(f"{queries:,}", *seconds, growth, bootstrap, f"{peak:.2f}")
        before = queries, curve
    Console().print(table)


if __name__ == "__main__":
    main(tuple(int(size) for size in sys.argv[1:]) or SIZES)
