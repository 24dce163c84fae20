"""Everything the router laboratory's report shows, gathered from one evaluation of records.

Nothing is trained here but the learned routers' second fit: the operating points are those that
``cascade calibrate`` would deploy, and it fits them on one half of the fit split.
Letters: N queries, K points.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import report_style as style
from experiments.lab_points import Groups, Points, at_thresholds, by_score, of_router, thinned
from routers import thresholds
from routers.base import Router
from routers.column import PREFIX, Column
from routers.curves import oracle_score, rank
from routers.diagnosis import OracleGap, oracle_gap
from routers.evaluate import Evaluation
from routers.measure import Split
from routers.operating_point import halves
from routers.paired import Difference, difference, measured
from routers.records import Records, pair

SWEEP_POINTS = 1_000  # of a curve in the page
TASK_POINTS = 60  # of a curve in a small panel
RATES = tuple(k / 100 for k in range(101))
"""Target deferral rates of the slider; k / 100 is what its command line says."""


@dataclasses.dataclass(frozen=True)
class Judged:
    """One router: its numbers in the summary, its curve, its operating points, its diagnosis."""

    name: str
    entry: dict[str, Any]
    spec: str  # what --router takes: its name, or score:<name> for a ready-made column
    learned: bool
    sweep: Points  # thresholds of the test queries
    operate: Points | None  # thresholds chosen as ``cascade calibrate`` does; None if it peeks
    groups: Groups
    gap: OracleGap
    behind: Difference | None  # the leader's area minus this one; None for leader and references

    @property
    def peeks(self) -> bool:
        """Whether it sees outcomes: a line to compare with, not a router to deploy."""
        return bool(self.entry["peeks"])


@dataclasses.dataclass(frozen=True)
class Panel:
    """One task: its curves and what the leading router's ranking adds to the area there."""

    task: str
    n: int
    effect: float
    curves: dict[str, Points]
    random: Points


@dataclasses.dataclass(frozen=True)
class Lab:
    """The report's data. ``routers`` by falling area, those that peek last."""

    summary: dict[str, Any]
    routers: list[Judged]
    random: Points
    oracle: Points
    oracle_groups: Groups
    panels: list[Panel]  # the largest effect first; empty without ``by_task``
    sources: list[Path]
    fit_split: str
    test_split: str
    transfer: bool  # False: no fit split, so operating points are read off the test split
    intervals: bool  # False: the evaluation drew no resamples

    @property
    def log_axis(self) -> bool:
        """Whether the span of costs asks for a logarithmic axis."""
        least = min(float(router.sweep.cost.min()) for router in self.routers)
        return 0 < least * style.LOG_SPAN < self.summary["flops"]["large"]

    @property
    def deployable(self) -> list[Judged]:
        """The routers that do not peek, the largest area first."""
        return [router for router in self.routers if not router.peeks]


def gather(
    done: Evaluation,
    records: Records,
    sources: Sequence[Path],
    *,
    fit_split: str,
    test_split: str,
    bootstrap: int,
    seed: int,
) -> Lab:
    """The report's data from ``evaluate`` of these records with these settings.

    Raises:
        InputError: fit queries too few to calibrate a learned router on half of them.
    """
    flops = records.cost_unit == "flops"
    small, large = done.summary["small"], done.summary["large"]
    test = Split(done.inputs, done.outcomes, flops)
    transfer = fit_split in records.splits
    fit = Split(*pair(records, small, large, fit_split), flops) if transfer else test
    gaps = oracle_gap(done.ranked, done.outcomes, resamples=bootstrap, seed=seed)
    behind = _behind(done, bootstrap, seed)
    routers = [
        Judged(
            name=name,
            entry=done.summary["routers"][name],
            spec=f"{PREFIX}:{name}" if isinstance(router, Column) else name,
            learned=router.learned,
            sweep=_sweep(router, done.scores[name], test, SWEEP_POINTS),
            operate=None if router.peeks else _operate(router, name, fit, test, fit_split),
            groups=by_score(done.scores[name], done.outcomes),
            gap=gaps[name],
            behind=behind.get(name),
        )
        for name, router in done.routers.items()
    ]
    routers.sort(key=lambda r: (r.peeks, -r.entry["audc"], r.name))
    return Lab(
        summary=done.summary,
        routers=routers,
        random=_random(test),
        oracle=_oracle(test),
        oracle_groups=by_score(oracle_score(done.outcomes), done.outcomes),
        panels=_panels(done, test, routers[0].name),
        sources=list(sources),
        fit_split=fit_split,
        test_split=test_split,
        transfer=transfer,
        intervals=bootstrap > 0,
    )


def _operate(router: Router, name: str, fit: Split, test: Split, split: str) -> Points:
    """Test points of the thresholds that ``operating_point.calibrate`` chooses for each rate."""
    if router.learned:
        fits, rest = halves(fit.inputs, split)
        router = router.fit(fit.seen_by(router).take(fits), fit.outcomes.take(fits))
        fit = Split(fit.inputs.take(rest), fit.outcomes.take(rest), fit.flops)
    chosen_from = np.sort(fit.score(router, name))
    chosen = np.array([thresholds.for_deferral_rate(chosen_from, rate) for rate in RATES])
    return of_router(chosen, router, test.score(router, name), test)


def _behind(done: Evaluation, bootstrap: int, seed: int) -> dict[str, Difference]:
    """How far each deployable router's area lies below the largest, on shared resamples."""
    names = [name for name, router in done.routers.items() if not router.peeks]
    if not names:
        return {}
    groups = [[done.ranked[name]] for name in names]
    made = dict(zip(names, measured(groups, resamples=bootstrap, seed=seed), strict=True))
    entries = done.summary["routers"]
    leader = min(names, key=lambda name: (-entries[name]["audc"], name))
    return {n: difference(made[leader], made[n]) for n in names if n != leader}


def _panels(done: Evaluation, test: Split, leader: str) -> list[Panel]:
    panels = []
    for task, entry in done.summary.get("tasks", {}).items():
        rows = np.flatnonzero(test.inputs.task == task)
        part = Split(test.inputs.take(rows), test.outcomes.take(rows), test.flops)
        curves = {
            name: _sweep(router, done.scores[name][rows], part, TASK_POINTS)
            for name, router in done.routers.items()
        }
        numbers = entry["routers"][leader]
        effect = numbers["audc"] - numbers["audc_random"]
        panels.append(Panel(task, len(rows), effect, curves, _random(part)))
    return sorted(panels, key=lambda panel: (-panel.effect, panel.task))


def _sweep(router: Router, score_N: np.ndarray, split: Split, most: int) -> Points:
    """The exact curve at no more than ``most`` of its points."""
    curve = rank(score_N, split.outcomes).curve()
    return of_router(curve.threshold[thinned(curve.deferral_rate, most)], router, score_N, split)


def _random(split: Split) -> Points:
    """Both ends of the chord: nobody sent on, everybody."""
    both = np.array([np.inf, 0.0])
    return at_thresholds(both, np.zeros(len(split.outcomes)), split.outcomes)


def _oracle(split: Split) -> Points:
    gain = oracle_score(split.outcomes)
    curve = rank(gain, split.outcomes).curve()
    keep = thinned(curve.deferral_rate, SWEEP_POINTS)
    return at_thresholds(curve.threshold[keep], gain, split.outcomes)
