"""The router laboratory's report: many routers on one pair of models, as one HTML file.

Made from records alone. Tables and text are plain HTML and need no script; charts do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from experiments import lab_sections as sections
from experiments import lab_text as text
from experiments import report_style as style
from experiments.lab_data import Judged, Lab, Panel
from experiments.lab_points import Groups, Points
from experiments.offline_page import document, finite
from experiments.rundir import write_text

FOLDER = Path(__file__).with_name("lab_page")
SCRIPTS = [FOLDER / "charts.js", FOLDER / "controls.js"]
CURVE = ("threshold", "deferral_rate", "quality", "quality_lo", "quality_hi", "cost")
OPERATE = (
    *CURVE[1:],
    *("change", "change_lo", "change_hi"),
    *("small_cost", "router_cost", "large_cost"),
)


def write(lab: Lab, out: Path) -> None:
    """Write the page, whole or not at all."""
    write_text(out, page(lab))


def page(lab: Lab) -> str:
    """The whole document as text."""
    title = f"{lab.summary['small']} → {lab.summary['large']} · cascade routers"
    css = (FOLDER / "lab.css").read_text("utf-8")
    return document(title, sections.body(lab), payload(lab), SCRIPTS, css)


def payload(lab: Lab) -> dict[str, Any]:
    """What the charts draw, as JSON values; numbers that are not finite become None."""
    large_cost = lab.summary["flops"]["large"]
    return {
        "quality": lab.summary["quality"],
        "small_cost": lab.summary["flops"]["small"],
        "large_cost": large_cost,
        "unit": lab.summary["cost_unit"],
        "unit_name": text.UNITS[lab.summary["cost_unit"]],
        "log_axis": lab.log_axis,
        "sweep_only": not lab.transfer,
        "shown": sections.shown(lab),
        "routers": [_router(lab, place, router) for place, router in enumerate(lab.routers)],
        "random": _columns(lab.random, CURVE),
        "oracle": _columns(lab.oracle, CURVE),
        "oracle_groups": _groups(lab.oracle_groups),
        "panels": [_panel(panel) for panel in lab.panels],
    }


def _router(lab: Lab, place: int, router: Judged) -> dict[str, Any]:
    hue, turn = place % len(style.HUES), place // len(style.HUES)
    dashes = style.DASHES[turn % len(style.DASHES)]
    steps = vars(router.gap)
    return {
        "name": router.name,
        "light": style.HUES[hue],
        "dark": style.HUES_DARK[hue],
        "dash": ",".join(f"{1.6 * length:g}px" for length in dashes) or "solid",
        "peeks": router.peeks,
        "sweep": _columns(router.sweep, CURVE),
        "operate": _operate(router.operate),
        "command": text.command(lab, router),
        "groups": _groups(router.groups),
        "audc": router.entry["audc"],
        "gap": {name: [s.value, s.low, s.high] for name, s in steps.items()},
    }


def _groups(groups: Groups) -> dict[str, Any]:
    return {name: finite(column) for name, column in vars(groups).items()}


def _panel(panel: Panel) -> dict[str, Any]:
    columns = ("deferral_rate", "quality", "cost")
    return {
        "task": panel.task,
        "random": _columns(panel.random, columns),
        "curves": {name: _columns(curve, columns, 5) for name, curve in panel.curves.items()},
    }


def _operate(points: Points | None) -> dict[str, Any] | None:
    """The slider's columns; thresholds in full, as a rule compares with ``>=``."""
    if points is None:
        return None
    threshold = [repr(value) for value in points.threshold.tolist()]
    return {"threshold": threshold, **_columns(points, OPERATE)}


def _columns(points: Points, names: tuple[str, ...], digits: int = 7) -> dict[str, Any]:
    return {name: finite(np.asarray(getattr(points, name)), digits) for name in names}
