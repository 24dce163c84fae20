"""One self-contained HTML report of a run: report.html opens anywhere, without a network.

plotly.js, styles, scripts and data are written into the file, and its content policy forbids
loading anything else. Tables and text are plain HTML and need no script; charts do.
"""

from __future__ import annotations

import html
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from experiments import report_sections as sections
from experiments import report_style as style
from experiments.report_data import Curve, Run, read
from experiments.report_finding import finding
from experiments.rundir import write_text

PAGE = Path(__file__).with_name("report_page")
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
FAILURE = """addEventListener("error", (event) => {
  const note = document.getElementById("failure");
  note.hidden = false;
  note.textContent = "A chart could not be drawn; the tables are complete. " + event.message;
});"""


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
    from plotly.offline import get_plotlyjs

    title = html.escape(f"{run.name} · cascade report")
    charts, controls = ((PAGE / name).read_text("utf-8") for name in ("charts.js", "controls.js"))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{title}</title>
<style>{styles()}</style>
</head>
<body>
<main>
<p id="failure" role="alert" hidden></p>
<noscript><p class="missing">Charts need JavaScript; the tables below are complete.</p></noscript>
{sections.body(run)}
</main>
<script type="application/json" id="data">{embed(payload(run))}</script>
<script>{FAILURE}</script>
<script>{get_plotlyjs()}</script>
<script>{charts}
{controls}</script>
</body>
</html>
"""


def styles() -> str:
    """The style sheet, with the arms' hues for light and for dark pages."""
    light, dark = style.hue_variables(style.HUES), style.hue_variables(style.HUES_DARK)
    dark = f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}"
    return f":root {{ {light} }}\n{dark}\n{(PAGE / 'page.css').read_text('utf-8')}"


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


def embed(value: Any) -> str:
    """JSON that cannot end a script element, whatever the strings in it say.

    >>> embed("</script>")
    '"\\\\u003c/script\\\\u003e"'
    """
    text = json.dumps(value, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


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
    return {name: _finite(np.asarray(column).tolist()) for name, column in columns.items()}


def _finite(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return float(f"{value:.7g}") if math.isfinite(value) else None
