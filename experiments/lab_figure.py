"""The static twin of the router laboratory's report: one figure as PNG, SVG or PDF."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from experiments import lab_text as text
from experiments import plots
from experiments import report_style as style
from experiments.lab_data import Lab
from experiments.lab_points import Points
from experiments.lab_sections import shown
from experiments.report_text import fixed

COLUMNS = 4
LONGEST = 32  # characters of a name


def write(lab: Lab, out: Path) -> Any:
    """Quality against cost for the largest areas, one small panel per task; returns the figure.

    Lines are those the page shows at first, named at their right in the order of the areas. Tasks
    share axes, the largest effect first. Raises InputError for a format but PNG, SVG and PDF.
    """
    rows = -(-len(lab.panels) // COLUMNS)

    def draw(figure: Any) -> None:
        grid = figure.add_gridspec(1 + rows, COLUMNS, height_ratios=[2.4] + [1] * rows)
        _main(lab, figure.add_subplot(grid[0, :]))
        first = None
        for i, panel in enumerate(lab.panels):
            place = grid[1 + i // COLUMNS, i % COLUMNS]
            axes = figure.add_subplot(place, sharex=first, sharey=first)
            first = first or axes
            _lines(lab, axes, panel.curves, panel.random, width=1.2)
            title = f"{_plain(panel.task)}  {fixed(panel.effect, sign='+')}"
            axes.set_title(title, fontsize=8, loc="left")
            axes.tick_params(labelsize=7)
        plots.draw_caption(figure, _escaped(_caption(lab)))

    return plots.save(out, (7.2, 4.2 + 1.6 * rows), draw)


def _main(lab: Lab, axes: Any) -> None:
    """All queries: lines, band of the leader, references and both models alone."""
    _lines(lab, axes, {r.name: r.sweep for r in lab.routers}, lab.random, width=1.8)
    axes.plot(*_at(lab, lab.oracle), ":", color=style.QUIET, linewidth=1.2, gid="reference oracle")
    lead = lab.routers[0].sweep
    look = {"color": style.HUES[0], "alpha": 0.14, "linewidth": 0}
    axes.fill_between(_at(lab, lead)[0], lead.quality_lo, lead.quality_hi, **look)
    cost, quality = lab.summary["flops"], lab.summary["quality"]
    for tier, marker, name, shift in (("small", "o", "S-only", -12), ("large", "D", "L-only", 7)):
        x = cost[tier] / _unit(lab)
        axes.plot(x, quality[tier], marker, color=style.INK, markersize=5, zorder=5)
        place = {"xytext": (4, shift), "ha": "left" if tier == "small" else "center"}
        plots.note(axes, name, x, quality[tier], plots.STRONG | place)
    axes.set(xlabel=_cost_label(lab), ylabel="quality")
    axes.set_xscale("log" if lab.log_axis else "linear")
    names = shown(lab)
    for name, y in zip(names, 0.95 - 0.075 * np.arange(len(names)), strict=True):
        axes.plot([1.01, 1.07], [y, y], transform=axes.transAxes, clip_on=False, **_look(lab, name))
        label = {"transform": axes.transAxes, "va": "center", "fontsize": 8.5}
        axes.text(1.08, y, _plain(name), **label)


def _lines(lab: Lab, axes: Any, curves: dict[str, Points], random: Points, width: float) -> None:
    axes.plot(*_at(lab, random), "--", color=style.QUIET, linewidth=1, gid="reference random")
    for name in shown(lab):
        axes.plot(*_at(lab, curves[name]), **_look(lab, name) | {"linewidth": width}, gid=name)


def _at(lab: Lab, points: Points) -> tuple[np.ndarray, np.ndarray]:
    return points.cost / _unit(lab), points.quality


def _look(lab: Lab, name: str) -> dict[str, Any]:
    place = [router.name for router in lab.routers].index(name)
    return {"color": style.HUES[place % len(style.HUES)], "linewidth": 1.8}


def _plain(name: str) -> str:
    """A name as a label: short enough, and no formula whatever is in it."""
    return _escaped(name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…")


def _escaped(text: str) -> str:
    return text.replace("$", r"\$")


def _unit(lab: Lab) -> float:
    """The large model's mean cost, or 1 where it is free."""
    return lab.summary["flops"]["large"] or 1.0


def _cost_label(lab: Lab) -> str:
    if lab.summary["flops"]["large"]:
        return "mean cost per query / large-only"
    return f"mean {text.UNITS[lab.summary['cost_unit']]} per query"


def _caption(lab: Lab) -> str:
    leader = lab.routers[0].name
    by_task = f" Panels: AUDC that {leader} adds to random's." if lab.panels else ""
    return (
        f"{text.caption(lab, points=False)} Grey: random (dashed), oracle (dotted). "
        f"Band: 95 % intervals of {leader}.{by_task}"
    )
