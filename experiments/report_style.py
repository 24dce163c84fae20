"""What arms, routers and tasks look like, the same in the static figures and in the report."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.report_data import MAIN_ROUTER, Run
from experiments.report_text import fixed

INK, QUIET = "#1a1a1a", "#6b6b6b"

HUES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255")
"""Okabe-Ito without black and yellow, plus Tol's wine: safe for colour-blind eyes.

Source: Okabe and Ito, "Color Universal Design"; the order (baseline blue, CAT vermillion) and
the seventh hue are our choice.
"""

HUES_DARK = ("#4DA6E0", "#F08040", "#22B88E", "#D98FB8", "#F0B030", "#8CCBF2", "#C4608F")
"""The same hues, lighter where a thin line would sink into a dark page; our choice."""

DASHES: tuple[tuple[float, ...], ...] = (
    (),
    (6.0, 2.0),
    (6.0, 2.0, 1.5, 2.0),
    (3.0, 1.5),
    (9.0, 3.0),
    (9.0, 2.0, 1.5, 2.0, 1.5, 2.0),
    (1.5, 1.5),
    (4.0, 4.0),
    (12.0, 2.0),
    (3.0, 4.0, 1.0, 4.0),
    (12.0, 2.0, 3.0, 2.0),
    (1.0, 3.0),
)
"""On and off lengths in points, one pattern per router; the first is solid."""

PLOTLY_MARKERS = {"o": "circle", "x": "x", "^": "triangle-up", "s": "square"}

LOG_SPAN = 100
"""Small-only below 1/100 of large-only: a linear axis would hide the left half."""

CELL_COLORS = {
    "both hit": "#35506b",
    "small only": "#7f9fbd",
    "large only": "#dcc57c",
    "neither": "#bdbdbd",
}
"""The four kinds of training tokens, in the order of ``report_data.CELLS``; no arm's hue."""


@dataclasses.dataclass(frozen=True)
class Panel:
    """One task: its curves per arm under one router, and the effect it is ordered by."""

    task: str
    router: str
    effect: float | None  # AUDC, CAT arm minus baseline
    curves: dict[str, dict[str, np.ndarray]]  # arm -> deferral_rate, quality, flops

    @property
    def title(self) -> str:
        """``copy  +0.031``; the task alone when nothing is compared."""
        if self.effect is None:
            return self.task
        return f"{self.task}  {fixed(self.effect, sign='+')} AUDC"


def arm_index(run: Run, arm: str) -> int:
    """0 for the baseline, 1 for the first CAT arm, then the others as they come."""
    return list(dict.fromkeys([run.baseline, lead_arm(run), *run.arms])).index(arm)


def hue(run: Run, arm: str) -> int:
    """Which of HUES an arm has."""
    return arm_index(run, arm) % len(HUES)


def arm_style(run: Run, arm: str) -> dict[str, Any]:
    """Line properties of an arm: its hue, and dots on the line once hues repeat."""
    turn = arm_index(run, arm) // len(HUES)
    look: dict[str, Any] = {"color": HUES[hue(run, arm)], "linewidth": 1.8}
    if turn:
        look |= {"marker": "ox^s"[(turn - 1) % 4], "markevery": 15, "markersize": 4}
    return look


def lead_arm(run: Run) -> str:
    """The arm the run is about: the first CAT arm, or else the first."""
    return next((arm for arm in run.arms if arm.startswith("cat")), run.arms[0])


def needs_log(run: Run) -> bool:
    """Whether the span of FLOPs asks for a logarithmic axis."""
    lows = [curve.flops.min() for curves in run.curves.values() for curve in curves.values()]
    return bool(lows) and run.large_flops > LOG_SPAN * float(min(lows))


def hue_variables(hues: Sequence[str]) -> str:
    """The hues as CSS custom properties.

    >>> hue_variables(["#000", "#111"])
    '--hue-0: #000; --hue-1: #111;'
    """
    return " ".join(f"--hue-{i}: {color};" for i, color in enumerate(hues))


def plotly_dash(router: str, order: Sequence[str]) -> str:
    """The same dash pattern in plotly's words."""
    return ",".join(f"{1.6 * length:g}px" for length in router_dash(router, order)) or "solid"


def router_dash(router: str, order: Sequence[str]) -> tuple[float, ...]:
    """The dash pattern of a router by its place in ``order``; the first is solid."""
    return DASHES[order.index(router) % len(DASHES)]


def line_style(run: Run, arm: str, router: str, order: Sequence[str]) -> dict[str, Any]:
    """Line properties of an arm under a router, one of ``order``."""
    dash = router_dash(router, order)
    return arm_style(run, arm) | ({"dashes": dash} if dash else {})


def quality_label(run: Run) -> str:
    """The y axis, in the task's own unit."""
    unit = run.summary.get("quality_unit")
    return f"quality ({unit})" if unit else "quality"


def task_panels(run: Run) -> list[Panel]:
    """Tasks that have curves, the largest effect first; ties and no effect by name."""
    panels = []
    for task, entry in (run.summary.get("tasks") or {}).items():
        curves = entry.get("curves") or {}
        named = [router for arm in curves.values() for router in arm]
        router = MAIN_ROUTER if MAIN_ROUTER in named else next(iter(named), "")
        drawn = {
            arm: {name: np.asarray(column, float) for name, column in by_router[router].items()}
            for arm, by_router in curves.items()
            if router in by_router
        }
        if drawn:
            panels.append(Panel(task, router, _effect(run, drawn), drawn))
    return sorted(panels, key=lambda p: (-(p.effect if p.effect is not None else 0.0), p.task))


def _effect(run: Run, curves: dict[str, dict[str, np.ndarray]]) -> float | None:
    cat = [arm for arm in run.arms if arm.startswith("cat") and arm in curves]
    if not cat or run.baseline not in curves or cat[0] == run.baseline:
        return None
    areas = [
        float(np.trapezoid(curves[arm]["quality"], curves[arm]["deferral_rate"]))
        for arm in (cat[0], run.baseline)
    ]
    return areas[0] - areas[1]
