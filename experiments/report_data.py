"""Reads a run directory for the plots and the report; the one place that knows its files.

Letters: K points of a curve, T points of a training log.
"""

import csv
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from routers.errors import InputError, did_you_mean

BASELINE = "xent"
MAIN_ROUTER = "chow_average"
REFERENCES = ("random", "oracle")
"""Lines to compare with, not routers to deploy: the chord, and the best order there is."""

CELLS = ("n11", "n10", "n01", "n00")
"""Counts of training tokens: small model hits or not, then large model hits or not."""

CURVE_COLUMNS = ("deferral_rate", "quality", "quality_lo", "quality_hi", "flops", "threshold")
LOG_POINTS = 120


@dataclasses.dataclass(frozen=True)
class Curve:
    """Quality and mean FLOPs per query along the deferral rate, mean over seeds."""

    deferral_rate: Float[np.ndarray, "K"]
    quality: Float[np.ndarray, "K"]
    quality_lo: Float[np.ndarray, "K"]  # 95 % interval; NaN where none was computed
    quality_hi: Float[np.ndarray, "K"]
    flops: Float[np.ndarray, "K"]
    threshold: Float[np.ndarray, "K"]  # infinite at the ends, where nobody or everybody is sent

    @property
    def audc(self) -> float:
        """Area under quality against deferral rate (trapezoids)."""
        return float(np.trapezoid(self.quality, self.deferral_rate))


@dataclasses.dataclass(frozen=True)
class TrainingLog:
    """One arm's training, mean over seeds, in at most ``LOG_POINTS`` bins of steps."""

    step: Float[np.ndarray, "T"]
    keep_rate: Float[np.ndarray, "T"]  # share of response tokens the mask keeps
    shares: Float[np.ndarray, "4 T"]  # of CELLS; NaN when not recorded


@dataclasses.dataclass(frozen=True)
class Run:
    """What a finished run left behind. ``curves[arm][router]``; absent parts are empty."""

    name: str
    summary: dict[str, Any]
    config: dict[str, Any]
    curves: dict[str, dict[str, Curve]]
    training: dict[str, TrainingLog]

    @property
    def arms(self) -> list[str]:
        """Arms in the summary's order."""
        return list(self.summary["arms"])

    @property
    def routers(self) -> list[str]:
        """Routers of any arm, reference lines left out: Chow-Average, then as they come."""
        named = [r for arm in self.summary["arms"].values() for r in arm.get("routers", {})]
        drawn = [r for curves in self.curves.values() for r in curves]
        known = [r for r in dict.fromkeys(named + drawn) if r not in REFERENCES]
        return sorted(known, key=lambda router: router != MAIN_ROUTER)

    @property
    def baseline(self) -> str:
        """The arm the others are compared with: plain cross-entropy, or else the first."""
        return BASELINE if BASELINE in self.arms else self.arms[0]

    @property
    def large_flops(self) -> float:
        """Mean forward FLOPs per query of the large model alone: the unit of the x axis."""
        return float(self.summary["large"]["flops"])

    @property
    def large_quality(self) -> float:
        """Mean quality of the large model alone."""
        return float(self.summary["large"]["quality"]["mean"])

    def result(self, arm: str, router: str) -> dict[str, Any]:
        """The summary's numbers of one arm and router; empty when it has none."""
        return self.summary["arms"][arm].get("routers", {}).get(router) or {}

    def points(self, arm: str) -> tuple[float, float] | None:
        """The small model alone: mean FLOPs per query and quality; None when not recorded."""
        entry = self.summary["arms"][arm]
        if entry.get("small_flops") is None or not entry.get("small_quality"):
            return None
        return float(entry["small_flops"]), float(entry["small_quality"]["mean"])


def read(folder: Path) -> Run:
    """Everything the plots and the report need. Raises InputError naming the file at fault."""
    summary = _json(folder / "summary.json", "run `cascade run` to the end first")
    for part in ("name", "arms", "large"):
        if not summary.get(part):
            raise InputError(f"{folder / 'summary.json'}: no '{part}'; redo the summary stage")
    large = summary["large"]
    if large.get("flops") is None or (large.get("quality") or {}).get("mean") is None:
        raise InputError(
            f"{folder / 'summary.json'}: 'large' needs quality.mean and flops; redo it"
        )
    path = folder / "config.json"
    return Run(
        name=str(summary["name"]),
        summary=summary,
        config=_json(path, "") if path.exists() else {},
        curves={
            arm: _curves(folder / "curves" / arm, list(entry.get("routers") or {}))
            for arm, entry in summary["arms"].items()
        },
        training=_training(folder / "arms", list(summary["arms"])),
    )


def choose(
    run: Run, arms: Sequence[str] | None = None, routers: Sequence[str] | None = None
) -> list[tuple[str, str]]:
    """(arm, router) pairs to draw: those asked for, or a default small enough to read.

    The default is Chow-Average for every arm and the best learned router on the baseline.
    Raises InputError for an unknown name, or when no curve is left.
    """
    for wanted, known in ((arms, run.arms), (routers, run.routers)):
        for name in wanted or ():
            if name not in known:
                raise InputError(
                    f"{run.name}: no '{name}' in this run; {did_you_mean(name, known)}"
                )
    main = run.routers[:1]
    pairs = [(arm, router) for arm in arms or run.arms for router in routers or main]
    if arms is None and routers is None:
        pairs += [(run.baseline, router) for router in _best_learned(run) if router not in main]
    pairs = [(arm, router) for arm, router in pairs if router in run.curves[arm]]
    if not pairs:
        raise InputError(f"{run.name}: no curves/<arm>/<router>.csv to draw; run evaluation first")
    return pairs


def flops_at_quality(curve: Curve, quality: float | int) -> float | None:
    """Least FLOPs at which the piecewise-linear curve reaches ``quality``; None if never.

    FLOPs(Q*) = min {C : Q(C) >= Q*}. Never extrapolates.
    Source: cascade metrics, FLOPs at equal quality; the first crossing is our choice.
    """
    above = np.flatnonzero(curve.quality >= quality)
    if not len(above):
        return None
    k = int(above[0])
    if k == 0:
        return float(curve.flops[0])
    part = (quality - curve.quality[k - 1]) / (curve.quality[k] - curve.quality[k - 1])
    return float(curve.flops[k - 1] + part * (curve.flops[k] - curve.flops[k - 1]))


def _best_learned(run: Run) -> list[str]:
    """The learned router with the largest area on the baseline arm, or nothing."""
    from routers import build

    names = set(build.names())
    drawn = {r: c for r, c in run.curves[run.baseline].items() if r not in REFERENCES}
    family = {router: router.partition(":")[0] for router in drawn}
    learned = [r for r, name in family.items() if name in names and build.describe(name)[1]]
    return sorted(learned, key=lambda router: drawn[router].audc)[-1:]


def _json(path: Path, advice: str) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path}: not found; {advice}") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not JSON (line {error.lineno}); redo its stage") from None


def _curves(folder: Path, routers: list[str]) -> dict[str, Curve]:
    """Curves by router; a file's name has '-' where the router's has ':'."""
    names = {router.replace(":", "-"): router for router in routers}
    paths = sorted(folder.glob("*.csv"))
    return {names.get(path.stem, path.stem): _curve(path) for path in paths}


def _curve(path: Path) -> Curve:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    absent = [name for name in CURVE_COLUMNS if not rows or name not in rows[0]]
    if absent:
        raise InputError(f"{path}: no column {', '.join(absent)}; redo the evaluation stage")
    try:
        columns = {n: np.array([float(row[n] or "nan") for row in rows]) for n in CURVE_COLUMNS}
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: {error}; redo the evaluation stage") from None
    return Curve(**columns)


def _training(folder: Path, arms: list[str]) -> dict[str, TrainingLog]:
    logs = {arm: sorted((folder / arm).glob("seed*/metrics.jsonl")) for arm in arms}
    return {arm: _log([_steps(path) for path in paths]) for arm, paths in logs.items() if paths}


def _steps(path: Path) -> dict[int, dict[str, Any]]:
    """Rows by step; a step written twice (a resumed run) keeps its last row."""
    rows = {}
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            row = json.loads(line)
            rows[int(row["step"])] = row
        except (json.JSONDecodeError, KeyError, TypeError):
            raise InputError(f"{path}: line {number} is no step; delete that line") from None
    return rows


def _log(seeds: list[dict[int, dict[str, Any]]]) -> TrainingLog:
    """Mean over seeds and bins of steps; shares are summed counts over summed totals."""
    rows = sorted(((step, row) for seed in seeds for step, row in seed.items()), key=lambda r: r[0])
    names = ("keep_rate", *CELLS)
    values = np.array([[s, *(row.get(n, np.nan) for n in names)] for s, row in rows], dtype=float)
    steps = np.unique(values[:, 0]) if len(values) else np.zeros(0)
    bins = np.array_split(steps, min(len(steps), LOG_POINTS)) if len(steps) else []
    parts = [values[(values[:, 0] >= b[0]) & (values[:, 0] <= b[-1])] for b in bins]
    counts = np.array([part[:, 2:].sum(0) for part in parts]).reshape(-1, len(CELLS)).T
    totals = counts.sum(0, keepdims=True)
    return TrainingLog(
        step=np.array([b.mean() for b in bins]),
        keep_rate=np.array([part[:, 1].mean() for part in parts]),
        shares=np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0),
    )
