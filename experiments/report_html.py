"""The report's HTML building blocks: tables, terms, what is missing. Text is escaped here."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Sequence

from experiments.report_text import GLOSSARY, Number


@dataclasses.dataclass(frozen=True)
class Cell:
    """One cell: what is shown, what it is sorted by, and whether it is its column's best."""

    text: str
    value: Number | None = None
    best: bool = False


@dataclasses.dataclass(frozen=True)
class Column:
    """A heading; ``text`` columns are set left, numbers right."""

    name: str
    text: bool = False


def table(
    caption: str,
    columns: Sequence[Column],
    rows: Sequence[Sequence[Cell]],
    foot: Sequence[Cell] | None = None,
) -> str:
    """A sortable table that scrolls in its own box, so the page never scrolls sideways.

    ``foot`` stays below whatever the order.
    """
    escaped = html.escape(caption)
    head = "".join(map(_head, columns))
    body = "".join(f"<tr>{_row(columns, row)}</tr>" for row in rows)
    end = f"<tfoot><tr>{_row(columns, foot)}</tr></tfoot>" if foot else ""
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escaped}"><table>'
        f'<caption class="hidden">{escaped}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody>{end}</table></div>"
    )


def mark_best(cells: Sequence[Cell]) -> list[Cell]:
    """The same cells with the largest value marked: several when they tie, none when all do.

    >>> [cell.best for cell in mark_best([Cell("a", 1.0), Cell("–"), Cell("b", 2.0)])]
    [False, False, True]
    """
    values = {cell.value for cell in cells}
    best = max((value for value in values if value is not None), default=None)
    marked = best is not None and len(values) > 1
    return [dataclasses.replace(cell, best=marked and cell.value == best) for cell in cells]


def _head(column: Column) -> str:
    kind = ' class="text"' if column.text else ""
    name = html.escape(column.name)
    return f'<th scope="col"{kind} aria-sort="none"><button type="button">{name}</button></th>'


def _row(columns: Sequence[Column], row: Sequence[Cell]) -> str:
    return "".join(_cell(column, cell) for column, cell in zip(columns, row, strict=True))


def _cell(column: Column, cell: Cell) -> str:
    kinds = [kind for kind, on in (("text", column.text), ("best", cell.best)) if on]
    kind = f' class="{" ".join(kinds)}"' if kinds else ""
    shown = html.escape(cell.text)
    key = shown if column.text else "" if cell.value is None else repr(cell.value)
    note = '<span class="hidden"> (best)</span>' if cell.best else ""
    return f'<td{kind} data-sort="{key}">{shown}{note}</td>'


def terms(*names: str) -> str:
    """One line of explanation per term, where it is first used."""
    lines = (f"<dfn>{html.escape(n)}</dfn> {html.escape(GLOSSARY[n])}" for n in names)
    return f'<p class="terms">{"".join(f"<span>{line}</span>" for line in lines)}</p>'


def missing(what: str) -> str:
    """Says plainly that a part was not recorded."""
    return f'<p class="missing">Not in this run: {html.escape(what)}.</p>'
