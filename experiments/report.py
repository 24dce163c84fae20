"""One self-contained HTML report of a run: report.html opens anywhere, without a network.

plotly.js, styles, scripts and data are written into the file, and its content policy forbids
loading anything else. Tables and text are plain HTML and need no script; charts do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from experiments import report_sections as sections
from experiments import report_style as style
from experiments.offline_page import PAGE, document, finite
from experiments.report_data import Curve, Run, read
from experiments.report_finding import finding
from experiments.rundir import write_text

SCRIPTS = [PAGE / "charts.js", PAGE / "controls.js"]


def write(run: Path) -> Path:
    """Write ``report.html`` into the run directory, whole or not at all; returns its path.

    Optional parts the run does not have are named as missing in the report. Raises InputError
    when there is no usable summary.json.
    """
    out = run / "report.html"
    write_text(out, page(read(run)))
    return out


def page(run: Run) -> str:
    """The whole document as text."""
    title = f"{run.name} · cascade report"
    return document(title, sections.body(run), payload(run), SCRIPTS)


def payload(run: Run) -> dict[str, Any]:
    """What the charts draw, as JSON values; numbers that are not finite become None."""
    arms, routers = sections.shown(run)
    found = finding(run).arrow
    return {
        "baseline": run.baseline,
        "large_flops": run.large_flops,
        "large_quality": run.large_quality,
        "log_axis": style.needs_log(run),
        "quality_label": style.quality_label(run),
        "arms": [_arm(run, arm) for arm in run.arms],
        "routers": [{"name": r, "dash": style.plotly_dash(r, run.routers)} for r in run.routers],
        "shown_arms": arms,
        "shown_routers": routers,
        "curves": {
            arm: {router: _columns(curve) for router, curve in curves.items()}
            for arm, curves in run.curves.items()
        },
        "arrow": vars(found) if found else None,
        "panels": [
            {"curves": {a: _plain(columns) for a, columns in panel.curves.items()}}
            for panel in style.task_panels(run)
        ],
        "training": {arm: _plain(vars(log)) for arm, log in run.training.items()},
        "cells": list(style.CELL_COLORS.items()),
    }


def _arm(run: Run, arm: str) -> dict[str, Any]:
    look = style.arm_style(run, arm)
    hue = style.hue(run, arm)
    return {
        "name": arm,
        "light": style.HUES[hue],
        "dark": style.HUES_DARK[hue],
        "marker": style.PLOTLY_MARKERS.get(look.get("marker", "")),
        "point": run.points(arm),
    }


def _columns(curve: Curve) -> dict[str, Any]:
    return _plain(vars(curve))


def _plain(columns: dict[str, np.ndarray]) -> dict[str, Any]:
    return {name: finite(np.asarray(column)) for name, column in columns.items()}
