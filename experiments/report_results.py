"""The report's tables of numbers: routers, comparisons, transfer points, tasks."""

from __future__ import annotations

from typing import Any

from experiments.report_data import MAIN_ROUTER, Run
from experiments.report_finding import covers_zero, percent
from experiments.report_html import Cell, Column, mark_best, missing, table, terms
from experiments.report_text import Number, fixed, interval, short

SAVINGS = ("0.5", "0.9", "1.0")
NAMES = (Column("arm", text=True), Column("router", text=True))


def routers(run: Run) -> str:
    """Arms by routers: areas and savings, the best of each column marked."""
    rows = [(a, r, run.result(a, r)) for a in run.arms for r in run.routers if run.result(a, r)]
    title = "<section><h2>Every arm and router</h2>"
    if not rows:
        return title + missing("router results") + "</section>"
    rows.sort(key=lambda row: -((row[2].get("audc") or {}).get("mean") or 0))
    measures = [_area(rows), _normalised(rows), *(_saving(rows, x) for x in SAVINGS)]
    columns = [Column("AUDC"), Column("normalised AUDC")]
    columns += [Column(f"saving at {x}") for x in SAVINGS]
    measures = [mark_best(cells) for cells in measures]
    for key, name in (("auroc_deferral", "AUROC"), ("spearman_length", "ρ with length")):
        cells = [_number(entry.get(key)) for _, _, entry in rows]
        measures.append(mark_best(cells) if key == "auroc_deferral" else cells)
        columns.append(Column(name))
    lines = [
        [Cell(a), Cell(r), *cells]
        for (a, r, _), cells in zip(rows, zip(*measures, strict=True), strict=True)
    ]
    shown = table("arms by routers", [*NAMES, *columns], lines)
    explained = terms("AUDC", "normalised AUDC", "saving", "AUROC", "ρ with length")
    note = '<p class="caption">Best of a column shaded; – = never reached.</p>'
    return f"{title}{explained}{shown}{note}</section>"


def comparisons(run: Run) -> str:
    """Paired differences with their intervals and what they allow to say."""
    title = "<section><h2>Is the difference real?</h2>"
    known = sorted(run.summary.get("comparisons") or [], key=_first)
    if not known:
        return title + missing("paired comparisons of arms") + "</section>"
    columns = [Column("arm", text=True), Column("against", text=True), Column("router", text=True)]
    columns += [Column("measure", text=True), Column("difference"), Column("95 % interval")]
    columns += [Column("verdict", text=True)]
    shown = table("paired comparisons", columns, [_comparison(c) for c in known])
    return f"{title}{terms('paired interval')}{shown}</section>"


def transfer(run: Run) -> str:
    """Thresholds chosen on validation and used once on test; apart from the sweep."""
    title = "<section><h2>Thresholds carried over from validation (transfer)</h2>"
    rows = [
        (a, r, point)
        for a in run.arms
        for r in run.routers
        for point in run.result(a, r).get("transfer") or []
    ]
    if not rows:
        return title + missing("transfer points") + "</section>"
    names = ("target rate", "achieved rate", "threshold", "quality", "FLOPs / large")
    columns = [*NAMES, *map(Column, names)]
    lines = [[Cell(a), Cell(r), *_point(run, point)] for a, r, point in rows]
    shown = table("transfer points", columns, lines)
    return f"{title}{terms('transfer', 'sweep')}{shown}</section>"


def tasks(run: Run) -> str:
    """Per task: small and large alone, and the area per arm under one router."""
    named = [r for by_arm in (run.summary.get("macro") or {}).values() for r in by_arm]
    router = MAIN_ROUTER if MAIN_ROUTER in [*run.routers, *named] else next(iter(run.routers), "")
    columns = [Column("task", text=True), Column("n"), Column("large alone")]
    columns += [Column(f"small, {arm}") for arm in run.arms]
    columns += [Column(f"AUDC, {arm}") for arm in run.arms]
    rows = [
        _task(run, task, entry, router) for task, entry in (run.summary.get("tasks") or {}).items()
    ]
    macro = run.summary.get("macro") or {}
    areas = [_number(_mean((macro.get(a, {}).get(router) or {}).get("audc"))) for a in run.arms]
    foot = [Cell("macro average"), *[Cell("")] * (2 + len(run.arms)), *areas] if macro else None
    return table(f"tasks, router {router}", columns, rows, foot=foot)


def _task(run: Run, task: str, entry: dict[str, Any], router: str) -> list[Cell]:
    small = entry.get("small_quality") or {}
    by_arm = entry.get("routers") or {}
    n, areas = entry.get("n"), [(by_arm.get(arm, {}).get(router) or {}) for arm in run.arms]
    return [
        Cell(task),
        Cell("–" if n is None else f"{n:,}", n),
        _number(_mean(entry.get("large_quality"))),
        *(_number(_mean(small.get(arm))) for arm in run.arms),
        *(_number(_mean(area.get("audc"))) for area in areas),
    ]


def _area(rows: list[tuple[str, str, dict[str, Any]]]) -> list[Cell]:
    areas = [entry.get("audc") for _, _, entry in rows]
    return [Cell(interval(area), (area or {}).get("mean")) for area in areas]


def _normalised(rows: list[tuple[str, str, dict[str, Any]]]) -> list[Cell]:
    return [_number(_mean(entry.get("audc_normalised"))) for _, _, entry in rows]


def _saving(rows: list[tuple[str, str, dict[str, Any]]], at: str) -> list[Cell]:
    entries = [(entry.get("flops_saving_at_quality") or {}).get(at) for _, _, entry in rows]
    return [_percent(entry) for entry in entries]


def _percent(entry: dict[str, Any] | None) -> Cell:
    if not entry or entry.get("mean") is None:
        return Cell("–")
    span = entry.get("ci")
    tail = f" [{percent(span[0], '-')}, {percent(span[1], '-')}]" if span else ""
    return Cell(f"{percent(entry['mean'], '-')} %{tail}", entry["mean"])


def _first(entry: dict[str, Any]) -> tuple[bool, bool]:
    """FLOPs at equal quality first, then comparisons under the main router."""
    return entry["metric"] != "flops_at_equal_quality", entry.get("router") != MAIN_ROUTER


def _comparison(entry: dict[str, Any]) -> list[Cell]:
    gain = entry.get("difference")
    flops = entry["metric"] == "flops_at_equal_quality"
    at = f" ({entry['at_quality']:.3f})" if entry.get("at_quality") is not None else ""
    measure = f"FLOPs at equal quality{at}" if flops else entry["metric"].replace("audc", "AUDC")
    write = (lambda x: f"{percent(x)} %") if flops else fixed
    span, verdict = Cell("–"), "–"
    if entry.get("ci"):
        low, high = entry["ci"]
        span = Cell(f"{write(low)} to {write(high)}", low)
        verdict = "no difference found" if covers_zero(entry) else "differs"
    return [
        Cell(entry["arm"]),
        Cell(" with ".join(filter(None, (entry["against"], entry.get("against_router"))))),
        Cell(entry.get("router") or "–"),
        Cell(measure),
        Cell("–" if gain is None else write(gain), gain),
        span,
        Cell(verdict),
    ]


def _point(run: Run, point: dict[str, Any]) -> list[Cell]:
    flops = point.get("flops")
    share = None if flops is None else flops / run.large_flops
    shown = "–" if share is None else f"{fixed(share)} ({short(flops)})"
    names = ("target_rate", "deferral_rate", "threshold", "quality")
    return [*(_number(point.get(name)) for name in names), Cell(shown, share)]


def _number(value: Number | None) -> Cell:
    return Cell(fixed(value), value)


def _mean(entry: Any) -> Number | None:
    """A plain number, or the mean of an entry with an interval."""
    return entry.get("mean") if isinstance(entry, dict) else entry
