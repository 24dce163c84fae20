"""Grades from a second file, joined by query id (and model), for logs that hold none."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from routers.arrow import pc
from routers.errors import InputError
from routers.importers.options import Options
from routers.importers.sources import digest
from routers.importers.tabular import cells, load

JOINED = ("quality", "task", "split")  # what a file of grades may hold beside its keys


def add_grades(table: pa.Table, where: str, options: Options) -> tuple[pa.Table, dict[str, str]]:
    """The table with ``quality`` (and ``task``, ``split``) of ``options.quality`` joined in.

    The file is CSV, TSV, JSONL or Parquet with query_id, quality and, when the log holds
    several models, model. A row of the log without a grade is a fault; a grade without a row
    is not.

    Raises:
        InputError: no grades anywhere, grades twice, or a row that stays without.
    """
    graded = "quality" in table.column_names and table["quality"].null_count < len(table)
    if options.quality is None:
        if not graded:
            raise InputError(
                f"{where}: no quality in this log; give --quality FILE, a CSV or JSONL of "
                "query_id, quality in [0, 1] (and model, where there are several)"
            )
        return table, {}
    if graded:
        raise InputError(f"{where}: the log has its own quality; leave out --quality")
    grades, by_model = _grades(options)
    models = pc.unique(table["model"]).to_pylist()
    if not by_model and len(models) > 1:
        raise InputError(
            f"{options.quality.name}: no column 'model', but the log holds {len(models)} models "
            f"({', '.join(sorted(models)[:5])}); add it"
        )
    keys = list(zip(table["query_id"].to_pylist(), table["model"].to_pylist(), strict=True))
    found = [grades.get((query, model if by_model else "")) for query, model in keys]
    if None in found:
        query, model = keys[found.index(None)]
        raise InputError(
            f"{options.quality.name}: no grade for query_id '{query}' of model '{model}' "
            f"({found.count(None):,} of {len(found):,} rows have none); add it or drop the row"
        )
    rows = [row for row in found if row is not None]
    said = f"{options.quality.name} sha256:{digest(options.quality)}"
    return _joined(table, rows, where), {"grades": said}


def _joined(table: pa.Table, rows: list[dict[str, Any]], where: str) -> pa.Table:
    for name in JOINED:
        values = [row[name] for row in rows]
        if all(value is None for value in values):
            continue
        if name in table.column_names:
            if table[name].null_count < len(table):
                raise InputError(f"{where}: both the log and the grades name the {name}; keep one")
            table = table.drop_columns([name])
        kind = pa.float32() if name == "quality" else pa.string()
        table = table.append_column(name, pa.array(values, kind))
    return table


def _grades(options: Options) -> tuple[dict[tuple[str, str], dict[str, Any]], bool]:
    """(query id, model or "") to its grade, and whether the file tells models apart."""
    path = options.quality
    assert path is not None
    rows = load(path)
    for name in ("query_id", "quality"):
        if name not in rows.names:
            raise InputError(f"{path.name}: no column '{name}'; it has {', '.join(rows.names)}")
    by_model = "model" in rows.names
    columns = {name: cells(rows, name, name) for name in ("query_id", "model", *JOINED)}
    grades: dict[tuple[str, str], dict[str, Any]] = {}
    for i, query in enumerate(columns["query_id"]):
        model = columns["model"][i] if by_model else ""
        if (query, model) in grades:
            raise InputError(f"{path.name}: query_id '{query}' is graded twice; keep one row")
        grades[query, model] = {name: columns[name][i] for name in JOINED}
        if columns["quality"][i] is None:
            raise InputError(f"{path.name}: query_id '{query}' has no quality; grade or drop it")
    return grades, by_model
