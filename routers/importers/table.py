"""any CSV, TSV, JSONL or Parquet, its columns named with --map

Long form, a row per query and model: ``--map quality=correct --map model=engine``. Wide form,
a row per query: ``--map quality[gpt-4]=gpt4_correct --map quality[mixtral]=mixtral_correct``;
the models are those in brackets. Columns that already have our names need no mapping, and
``score:<name>`` columns pass through.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from routers import schema
from routers.errors import InputError, did_you_mean
from routers.importers.complete import complete
from routers.importers.options import Options
from routers.importers.sources import text_files
from routers.importers.tabular import Rows, cells, load, require
from routers.records import Records

_TARGET = re.compile(r"([^\[\]]+)(?:\[(.+)\])?")
_OF_A_QUERY = ("query_id", "task", "split", "prompt", "reference")


def read(sources: Sequence[Path], options: Options) -> Records:
    """Records of tables, in long form or (when a target has a model in brackets) wide form.

    Raises:
        InputError: a mapping to or from a column that does not exist, or a fault in the rows.
    """
    options.refuse("table", "metric")
    targets = {ours: target(ours) for ours in options.columns}
    models = list(dict.fromkeys(model for _, model in targets.values() if model))
    files = text_files(sources, "*")
    parts = [_columns(load(path), options, models) for path in files]
    names = list(dict.fromkeys(name for part in parts for name in part))
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for part in parts:
        length = len(part["query_id"])
        for name in names:
            columns[name] += part.get(name, [None] * length)
    return complete(columns, "table", files, options)


def target(ours: str) -> tuple[str, str]:
    """Column and model of the left side of a mapping: ``quality[gpt-4]`` is quality of gpt-4.

    >>> target("quality[gpt-4]"), target("task")
    (('quality', 'gpt-4'), ('task', ''))
    """
    found = _TARGET.fullmatch(ours)
    column, model = (found[1], found[2] or "") if found else (ours, "")
    if column not in schema.COLUMNS and not column.startswith(schema.SCORE):
        known = [*schema.COLUMNS, f"{schema.SCORE}NAME"]
        raise InputError(f"--map {ours}=...: no column '{column}'; {did_you_mean(column, known)}")
    if model and column in (*_OF_A_QUERY, "model"):
        raise InputError(f"--map {ours}=...: '{column}' is the same for every model; no brackets")
    return column, model


def _columns(rows: Rows, options: Options, models: list[str]) -> dict[str, list[Any]]:
    """The columns of one file, its rows once per model of the brackets (long form: once)."""
    shared: dict[str, str] = {
        name: name for name in rows.names if name in schema.COLUMNS or name.startswith(schema.SCORE)
    }
    own: dict[str, dict[str, str]] = {model: {} for model in models}
    for ours, theirs in options.columns.items():
        require(rows, theirs, ours)
        column, model = target(ours)
        (own[model] if model else shared)[column] = theirs
    _check(rows, shared, own)
    columns: dict[str, list[Any]] = {}
    for mapping in own.values() or [{}]:
        _extend(columns, rows, shared | mapping)
    if models:
        columns["model"] = [model for model in models for _ in range(len(rows))]
    return columns


def _check(rows: Rows, shared: Mapping[str, str], own: Mapping[str, Mapping[str, str]]) -> None:
    if "query_id" not in shared:
        raise InputError(
            f"{rows.where}: which column identifies the query? give --map query_id=COLUMN; "
            f"it has {', '.join(rows.names[:20])}"
        )
    if own and "model" in shared:
        raise InputError(
            f"{rows.where}: models in brackets and a column 'model' too; "
            "a table is a row per query and model, or a row per query"
        )
    for column in {column for mapping in own.values() for column in mapping}:
        missing = [model for model, mapping in own.items() if column not in mapping]
        if column == "quality" and missing:
            raise InputError(f"--map {column}[{missing[0]}]=...: missing; every model needs one")


def _extend(columns: dict[str, list[Any]], rows: Rows, mapping: Mapping[str, str]) -> None:
    """Append every row of a file; columns that one of the parts lacks are None there."""
    before = len(next(iter(columns.values()), []))
    for name in {**dict.fromkeys(columns), **dict.fromkeys(mapping)}:
        column = columns.setdefault(name, [None] * before)
        theirs = mapping.get(name)
        column += cells(rows, theirs, name) if theirs else [None] * len(rows)
