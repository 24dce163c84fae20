"""The static figures of a run; the only place that draws with matplotlib.

The suffix of the output file chooses the format (.png, .svg, .pdf). Figures are made without
pyplot, so no window system, no global state. Every function returns the figure it wrote.
"""

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from experiments import report_style as style
from experiments.report_data import REFERENCES, Curve, Run, choose, read
from experiments.report_finding import finding
from experiments.report_text import caption
from routers.errors import InputError
from routers.files import written

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

RC = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": style.QUIET,
    "axes.labelcolor": style.INK,
    "xtick.color": style.QUIET,
    "ytick.color": style.QUIET,
    "xtick.labelcolor": style.INK,
    "ytick.labelcolor": style.INK,
    "text.color": style.INK,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "savefig.dpi": 200,
    "svg.hashsalt": "cascade",  # the same data writes the same bytes
}
DIRECT_LABELS = 6
STRONG = {"fontsize": 8.5, "fontweight": "bold", "zorder": 7}
REFERENCE_LABELS = {  # how far along the line, and on which side: where data is rare
    "random": (0.42, {"xytext": (4, -4), "ha": "left", "va": "top"}),
    "oracle": (0.30, {"xytext": (-4, 4), "ha": "right", "va": "bottom"}),
}


def quality_flops(
    run: Path,
    out: Path,
    *,
    arms: Sequence[str] | None = None,
    routers: Sequence[str] | None = None,
) -> "matplotlib.figure.Figure":
    """Quality against FLOPs per query, as a fraction of the large model alone.

    By default Chow-Average for every arm and the best learned router on the baseline.
    Raises InputError for names the run does not have and for a run without curves.
    """
    data = read(run)
    pairs = choose(data, arms, routers)

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        _references(axes, data)
        order = list(dict.fromkeys(router for _, router in pairs))
        looks = {pair: style.line_style(data, *pair, order) for pair in pairs}
        for (arm, router), look in looks.items():
            _line(axes, data.large_flops, data.curves[arm][router], f"{arm}/{router}", look)
        _end_points(axes, data, list(dict.fromkeys(arm for arm, _ in pairs)))
        _axes_of_cost(axes, data)
        _finding_arrow(axes, data, pairs)
        _name_lines(figure, axes, data, looks)
        draw_caption(figure, caption(data))

    return save(out, (7.2, 4.6), draw)


def per_task(run: Path, out: Path) -> "matplotlib.figure.Figure":
    """One small panel per task on shared axes, the largest effect first.

    The effect is the area under the deferral curve, CAT arm minus baseline. FLOPs are in units
    of the large model's mean over all tasks, so panels compare.
    """
    data = read(run)
    panels = style.task_panels(data)
    if not panels:
        raise InputError(f"{run}: no per-task curves in summary.json; evaluate with tasks first")
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)

    def draw(figure: Any) -> None:
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes, panel in zip(grid.flat, panels, strict=False):
            for arm, points in panel.curves.items():
                look = style.arm_style(data, arm)
                axes.plot(points["flops"] / data.large_flops, points["quality"], **look)
            axes.set_title(panel.title, fontsize=9, loc="left")
            axes.set(xlim=(0, None), xticks=(0, 0.5, 1))
        for axes in list(grid.flat)[len(panels) :]:
            axes.set_visible(False)
        grid[-1, 0].set_xlabel("FLOPs / large-only, all tasks")
        grid[0, 0].set_ylabel(style.quality_label(data))
        _legend(figure, [(style.arm_style(data, a), a) for a in panels[0].curves])
        draw_caption(figure, f"Router {panels[0].router}. {caption(data, intervals=False)}")

    return save(out, (2.1 * columns + 0.8, 1.9 * rows + 1.3), draw)


def keep_rate(run: Path, out: Path) -> "matplotlib.figure.Figure":
    """Share of response tokens the mask keeps, and who hits them, over training, per arm."""
    data = read(run)
    if not data.training:
        raise InputError(f"{run}: no arms/*/seed*/metrics.jsonl; train the arms first")
    arms = list(data.training)

    def draw(figure: Any) -> None:
        grid = figure.subplots(1, 1 + len(arms), sharey=True, squeeze=False)[0]
        for arm, log in data.training.items():
            grid[0].plot(log.step, log.keep_rate, label=arm, **style.arm_style(data, arm))
        grid[0].set(ylim=(0, 1.02), xlabel="optimiser step", ylabel="share of response tokens")
        grid[0].set_title("kept by the mask", fontsize=9, loc="left")
        grid[0].legend(frameon=False, fontsize=8, loc="lower right")
        for axes, arm in zip(grid[1:], arms, strict=True):
            log = data.training[arm]
            colors = list(style.CELL_COLORS.values())
            axes.stackplot(log.step, log.shares, colors=colors, linewidth=0)
            axes.set_title(arm, fontsize=9, loc="left")
        _legend(figure, [({"color": c, "linewidth": 6}, n) for n, c in style.CELL_COLORS.items()])

    return save(out, (2.6 * (1 + len(arms)), 3.1), draw)


def spread(wanted_N: Float[np.ndarray, "N"], gap: float) -> Float[np.ndarray, "N"]:
    """Ascending positions at least ``gap`` apart, as near to ``wanted_N`` as can be.

    min Σ (z_i − w_i)² with z_{i+1} − z_i ≥ gap: isotonic regression of w_i − i·gap.

    >>> spread(np.array([0.0, 0.0, 9.0]), 1.0).tolist()
    [-0.5, 0.5, 9.0]
    """
    from scipy.optimize import isotonic_regression

    steps_N = gap * np.arange(len(wanted_N))
    return isotonic_regression(wanted_N - steps_N).x + steps_N


def save(
    out: Path, size: tuple[float, float], draw: Callable[[Any], None]
) -> "matplotlib.figure.Figure":
    """Draw on a fresh figure and write it, whole or not at all."""
    import matplotlib
    from matplotlib.figure import Figure

    suffix = out.suffix.lower()
    if suffix not in (".png", ".svg", ".pdf"):
        raise InputError(f"{out}: no image format '{suffix}'; end the name in .png, .svg or .pdf")
    with matplotlib.rc_context(RC):  # type: ignore[arg-type]
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        stamp = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(suffix, {})
        with written(out) as temporary:
            figure.savefig(temporary, format=suffix[1:], metadata=stamp)
    return figure


def _axes_of_cost(axes: "matplotlib.axes.Axes", run: Run) -> None:
    """x as a fraction of large-only below, in FLOPs above."""
    from matplotlib.ticker import EngFormatter

    if style.needs_log(run):
        axes.set_xscale("log")
    else:
        axes.set_xlim(left=0)
    axes.margins(y=0.08)
    axes.set_xlabel("mean FLOPs per query / large-only")
    axes.set_ylabel(style.quality_label(run))
    unit = run.large_flops
    functions: Any = (lambda x: x * unit, lambda x: x / unit)
    above = axes.secondary_xaxis("top", functions=functions)
    above.set_xlabel("FLOPs per query", fontsize=8)
    above.tick_params(labelsize=8)
    above.xaxis.set_major_formatter(EngFormatter())
    above.spines["top"].set_visible(True)


def _references(axes: "matplotlib.axes.Axes", run: Run) -> None:
    """The baseline arm's random chord and oracle, in grey."""
    for router, dash in zip(REFERENCES, ("--", ":"), strict=True):
        curve = run.curves[run.baseline].get(router)
        if curve is not None:
            x_K = curve.flops / run.large_flops
            axes.plot(x_K, curve.quality, dash, color=style.QUIET, linewidth=1.2, gid=router)
            part, place = REFERENCE_LABELS[router]
            k = int(part * len(x_K))
            look = {"fontsize": 8, "color": style.QUIET, **place}
            note(axes, f"{router} ({run.baseline})", x_K[k], curve.quality[k], look)


def _line(
    axes: "matplotlib.axes.Axes", unit: float, curve: Curve, name: str, look: dict[str, Any]
) -> None:
    axes.plot(curve.flops / unit, curve.quality, gid=name, **look)
    if np.isfinite(curve.quality_lo).all():
        band = {"color": look["color"], "alpha": 0.12, "linewidth": 0}
        axes.fill_between(curve.flops / unit, curve.quality_lo, curve.quality_hi, **band)


def _end_points(axes: "matplotlib.axes.Axes", run: Run, arms: list[str]) -> None:
    """Small-only, one dot per arm, and large-only; neither defers."""
    found = {arm: run.points(arm) for arm in arms}
    points = {arm: point for arm, point in found.items() if point is not None}
    for arm, (flops, quality) in points.items():
        color = style.arm_style(run, arm)["color"]
        axes.plot(flops / run.large_flops, quality, "o", color=color, markersize=5, zorder=4)
    if points:
        flops, quality = min(points.values(), key=lambda point: point[1])
        below = {"xytext": (5, -5), "va": "top", "ha": "left"}
        note(axes, "S-only", flops / run.large_flops, quality, STRONG | below)
    axes.plot(1, run.large_quality, "D", color=style.INK, markersize=5, zorder=5)
    above = {"xytext": (0, 6), "va": "bottom", "ha": "center"}
    note(axes, "L-only", 1.0, run.large_quality, STRONG | above)


def note(axes: "matplotlib.axes.Axes", text: str, x: float, y: float, look: Any) -> None:
    """Text at a data point, shifted by ``look["xytext"]`` points."""
    axes.annotate(text, (x, y), textcoords="offset points", **look)


def _finding_arrow(axes: "matplotlib.axes.Axes", run: Run, pairs: list[tuple[str, str]]) -> None:
    """The one annotation; nothing when the interval covers zero or its lines are not drawn."""
    found = finding(run)
    if found.arrow is None or not set(found.arrow.lines) <= set(pairs):
        return
    x_from, x_to = (f / run.large_flops for f in (found.arrow.flops_from, found.arrow.flops_to))
    y = found.arrow.quality
    shape = {"arrowstyle": "-|>", "color": style.INK, "linewidth": 1.3, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", (x_to, y), (x_from, y), arrowprops=shape, zorder=6)
    halo = {"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}
    beside = {"xytext": (6, 0), "va": "center", "bbox": halo}
    note(axes, found.arrow.label, max(x_from, x_to), y, STRONG | beside)


def _name_lines(
    figure: Any,
    axes: "matplotlib.axes.Axes",
    run: Run,
    looks: dict[tuple[str, str], dict[str, Any]],
) -> None:
    """Labels at the right ends while there are few lines, a legend beside otherwise.

    Curves of one cascade all end where everything is deferred, so the labels stand in the order
    of the areas, each with a sample of its line.
    """
    if len(looks) > DIRECT_LABELS:
        entries = [(look, " · ".join(pair)) for pair, look in looks.items()]
        _legend(figure, entries, "outside right upper", columns=1)
        return
    order = sorted(looks, key=lambda pair: run.curves[pair[0]][pair[1]].audc)
    low, high = axes.get_ylim()
    ends_N = np.sort([run.curves[arm][router].quality[-1] for arm, router in order])
    for pair, y in zip(order, spread((ends_N - low) / (high - low), 0.062), strict=True):
        sample = {"transform": axes.transAxes, "clip_on": False, **looks[pair]}
        axes.plot([1.01, 1.075], [y, y], **sample)
        place = {"transform": axes.transAxes, "va": "center", "fontsize": 8.5}
        axes.text(1.085, y, " · ".join(pair), color=style.INK, **place)


def _legend(
    figure: Any,
    entries: list[tuple[dict[str, Any], str]],
    place: str = "outside upper left",
    columns: int = 4,
) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], label=name, **look) for look, name in entries]
    figure.legend(handles=handles, loc=place, ncols=columns, frameon=False, fontsize=8.5)


def draw_caption(figure: Any, text: str) -> None:
    """Small print along the lower edge, wrapped to the figure's width."""
    lines = textwrap.fill(text, width=int(17 * figure.get_figwidth()))
    figure.supxlabel(lines, x=0.01, ha="left", fontsize=7.5, color=style.QUIET)
