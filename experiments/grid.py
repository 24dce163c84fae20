"""Curves at common deferral rates, averaged over seeds: the CSV files and the panels per task.

Letters: B resamples, P points of the common deferral-rate grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.rundir import write_text
from routers.curves import Curve, Ranked
from routers.paired import joint_draws

GRID = np.linspace(0.0, 1.0, 101)
CURVE_RESAMPLES = 200  # where a whole curve is needed for each, not only its area


def on_grid(curve: Curve) -> dict[str, np.ndarray]:
    """A curve at the common deferral rates."""
    last = np.append(np.diff(curve.deferral_rate) > 0, True)  # zero-weight points repeat a rate
    rate = curve.deferral_rate[last]
    columns = {"quality": curve.quality[last], "flops": curve.cost[last]}
    at = np.minimum(np.searchsorted(rate, GRID), len(rate) - 1)
    made = {name: np.interp(GRID, rate, column) for name, column in columns.items()}
    return made | {"threshold": curve.threshold[last][at]}


def mean_curve(curves: Sequence[Curve]) -> dict[str, list[float]]:
    """Mean curve over seeds at the common deferral rates."""
    seeds = [on_grid(curve) for curve in curves]
    quality, flops = (np.mean([s[name] for s in seeds], axis=0) for name in ("quality", "flops"))
    return {
        "deferral_rate": GRID.tolist(),
        "quality": quality.tolist(),
        "flops": flops.tolist(),
    }


def write_curve(path: Path, ranked: Sequence[Ranked], resamples: int, seed: int) -> None:
    """The mean curve over seeds with a pointwise 95 % band over queries and seeds.

    Columns: deferral_rate, quality, quality_lo, quality_hi, flops, threshold (mean over seeds).
    The band is NaN without resamples.
    """
    draws_BP = _curve_draws(ranked, resamples, seed)
    mean = mean_curve([r.curve() for r in ranked])
    threshold_P = np.mean([on_grid(r.curve())["threshold"] for r in ranked], axis=0)
    band = np.full((2, len(GRID)), np.nan)
    if resamples:
        band = np.percentile(draws_BP, [2.5, 97.5], axis=0)
    columns = [mean["deferral_rate"], mean["quality"], *band, mean["flops"], threshold_P]
    lines = ["deferral_rate,quality,quality_lo,quality_hi,flops,threshold"]
    lines += [",".join(f"{value:.9g}" for value in row) for row in zip(*columns, strict=True)]
    write_text(path, "\n".join(lines) + "\n")


def _curve_draws(ranked: Sequence[Ranked], resamples: int, seed: int) -> np.ndarray:
    """[B, P] quality on the grid, queries and seeds resampled."""
    draws = []
    for weights, times in joint_draws(len(ranked[0]), len(ranked), resamples=resamples, seed=seed):
        drawn = {
            k: on_grid(ranked[k].curve(weights))["quality"] for k in np.flatnonzero(times).tolist()
        }
        draws.append(sum(times[k] * quality for k, quality in drawn.items()) / len(ranked))
    return np.array(draws)
