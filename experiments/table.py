"""The table a run ends with."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from experiments.sweep import Tuned


def print_summary(folder: Path, report: Path) -> None:
    """Arms × routers from summary.json, then the path of the report."""
    summary = json.loads((folder / "summary.json").read_text())
    console = _console()
    console.print(summary_table(summary))
    for line in summary.get("findings", []):
        console.print(line, highlight=False)
    models = {**summary["arms"], "large": summary["large"]}
    told = {name: row.get("bits_per_character") for name, row in models.items()}
    said = ", ".join(f"{name} {bits:.3f}" for name, bits in told.items() if bits is not None)
    if said:
        console.print(f"bits per character of test passages: {said}", highlight=False)
    console.print(f"report: {report}", highlight=False, soft_wrap=True)


def summary_table(summary: dict[str, Any]) -> Table:
    """One row per arm and router: area under the curve, and FLOPs saved at equal quality."""
    large = summary["large"]["quality"]["mean"]
    title = (
        f"{summary['name']}: {summary['n_test']:,} test queries, {len(summary['seeds'])} seed(s); "
        f"large alone {large:.3f}"
    )
    table = _table(title, ("arm", "small", "router"), ("AUDC", "95 %", "of oracle", *_SAVED))
    for arm, row in summary["arms"].items():
        for i, (router, values) in enumerate(row["routers"].items()):
            small = f"{row['small_quality']['mean']:.3f}" if i == 0 else ""
            table.add_row(arm if i == 0 else "", small, router, *_numbers(values))
        table.add_section()
    return table


def print_sweep(found: Sequence[Tuned]) -> None:
    """Arms × learning rates: validation loss, the least of an arm marked."""
    title = "validation loss, nats per response token (* = the arm's least)"
    table = _table(title, ("arm",), tuple(f"{rate:g}" for rate in found[0].rates))
    for tuned in found:
        marks = ["*" if i == tuned.best else " " for i in range(len(tuned.rates))]
        said = ["diverged" if math.isnan(loss) else f"{loss:.4f}" for loss in tuned.losses]
        table.add_row(tuned.arm, *map("".join, zip(said, marks, strict=True)))
    _console().print(table)


_SAVED = ("saved at 90 %", "at 100 %")
"""FLOPs saved where the cascade reaches that share of the way from small to large quality."""


def _table(title: str, names: tuple[str, ...], numbers: tuple[str, ...]) -> Table:
    """Columns of names, which fold where the terminal is narrow, and of numbers, which do not."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=0)
    for column in names:
        table.add_column(column, overflow="fold")
    for column in numbers:
        table.add_column(column, justify="right", overflow="fold")
    return table


def _console() -> Console:
    """Names are shown as they are; a pipe or a file is as wide as the table."""
    console = Console(markup=False, emoji=False)
    if not console.is_terminal:
        console.width = max(console.width, 160)
    return console


def _numbers(values: dict[str, Any]) -> list[str]:
    audc, saved = values["audc"], values["flops_saving_at_quality"]
    interval = "–" if audc["ci"] is None else f"{audc['ci'][0]:.3f}–{audc['ci'][1]:.3f}"
    normalised = values["audc_normalised"]
    share = "–" if normalised is None else f"{normalised:.0%}"
    cells = [f"{audc['mean']:.3f}", interval, share]
    return cells + [_saving(saved.get(level)) for level in ("0.9", "1.0")]


def _saving(value: dict[str, Any] | None) -> str:
    return "never" if value is None else f"{value['mean']:.0%}"


def print_evaluation(summary: dict[str, Any], folder: Path | None) -> None:
    """The table of `cascade evaluate`: one row per router."""
    quality = summary["quality"]
    title = (
        f"{summary['small']} → {summary['large']}: {summary['n_test']:,} test queries; quality "
        f"{quality['small']:.4f} → {quality['large']:.4f}, better of both {quality['oracle']:.4f}"
    )
    numbers = ("AUDC", "95 %", "of oracle", "APGR", "AUROC", *_SAVED)
    table = _table(title, ("router",), numbers)
    for name, row in summary["routers"].items():
        saved = row["flops_saving_at_quality"]
        ci = row["audc_ci"]
        table.add_row(
            name,
            f"{row['audc']:.4f}",
            "–" if ci is None else f"{ci[0]:.4f}–{ci[1]:.4f}",
            *(_number(row[key], form) for key, form in _COLUMNS.items()),
            *(
                "never" if saved[level] is None else f"{saved[level]:.0%}"
                for level in ("0.9", "1.0")
            ),
        )
    console = _console()
    console.print(table)
    if folder:
        console.print(f"curves and evaluation.json: {folder}", highlight=False, soft_wrap=True)


_COLUMNS = {"audc_normalised": ".0%", "apgr": ".3f", "auroc_deferral": ".3f"}


def _number(value: float | None, form: str, absent: str = "–") -> str:
    return absent if value is None else format(value, form)
