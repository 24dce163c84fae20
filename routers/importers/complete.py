"""The last step of every importer: grades, task, split and cost, then the schema's checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from routers import schema
from routers.arrow import pc, strings
from routers.errors import InputError
from routers.features import stable_hash
from routers.importers.cost import add_cost
from routers.importers.grades import add_grades
from routers.importers.options import Options
from routers.importers.sources import provenance
from routers.records import Records

VALIDATION_SHARE = 0.3  # of the query ids, when a log has no splits
_TEXTS = ("prompt", "reference", "response")


def complete(
    columns: Mapping[str, Sequence[Any] | pa.Array | pa.ChunkedArray],
    name: str,
    files: Sequence[Path],
    options: Options,
    **notes: str,
) -> Records:
    """Checked Records from one value per row and column, as a log has them.

    Adds ``quality`` from ``options.quality`` where the log holds none, ``task``, ``split``
    and the cost columns. ``columns`` are named as in the schema; columns that are None
    throughout are dropped. The metadata says the format ``name``, the files with their
    SHA-256, the rules of cost and split, and ``notes``.

    Raises:
        InputError: no rows, no quality, no cost, or any fault the schema finds.
    """
    where = " + ".join(dict.fromkeys(path.name for path in files))
    table = to_table(columns, where)
    if len(table) == 0:
        raise InputError(f"{where}: no rows; is this the right file?")
    table = _named(table, where, options)
    _check_keys(table, where)
    table, grades = add_grades(table, where, options)
    _check_scale(table, where)
    table, split_rule = _split(table, options)
    table, cost_rule = add_cost(table, options)
    table, counts = _count_logged_tokens(table)
    table = schema.normalise(table, where)
    _all_or_none(table, where)
    metadata = {"format": name, "sources": provenance(files), "split_rule": split_rule}
    metadata |= {"cost_rule": cost_rule} | grades | counts | notes
    return Records(table, metadata)


def to_table(columns: Mapping[str, Any], where: str) -> pa.Table:
    """An Arrow table with the schema's types; columns that hold nothing are left out."""
    arrays = {}
    for name, values in columns.items():
        kind = pa.float64() if name.startswith(schema.SCORE) else schema.COLUMNS.get(name)
        array = values
        if not isinstance(values, pa.Array | pa.ChunkedArray):
            array = _array(values, kind, name, where)
        if array.null_count < len(array) or name in schema.REQUIRED:
            arrays[name] = array
    return pa.table(arrays)


def _array(values: Sequence[Any], kind: pa.DataType | None, name: str, where: str) -> pa.Array:
    try:
        return pa.array(values, kind)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        reason = str(error).partition("\n")[0][:160]
        raise InputError(
            f"{where}: column '{name}' does not hold {kind or 'one kind of value'} ({reason}); "
            "repair the log"
        ) from None


def _named(table: pa.Table, where: str, options: Options) -> pa.Table:
    """``model`` and ``task`` from the options, for a log that has none."""
    for column, given in (("model", options.model), ("task", options.task)):
        known = column in table.column_names and table[column].null_count < len(table)
        if given and known:
            first = pc.drop_null(table[column])[0].as_py()
            raise InputError(
                f"{where}: the log names its own {column} ('{first}'); leave out --{column}"
            )
        if not known:
            if column in table.column_names:
                table = table.drop_columns([column])
            if given:
                table = table.append_column(column, pa.array([given] * len(table), pa.string()))
            elif column == "model":
                raise InputError(f"{where}: the log does not name its model; give --model NAME")
    return table


def _check_keys(table: pa.Table, where: str) -> None:
    """Joins and costs need every row's query and model."""
    for name in ("query_id", "model"):
        row = 0
        if name in table.column_names:
            blank = pc.equal(pc.fill_null(table[name], ""), "")
            row = pc.index(blank, True).as_py()
        if row >= 0:
            raise InputError(f"{where}: row {row} has no {name}; fill it in or drop the row")


def _split(table: pa.Table, options: Options) -> tuple[pa.Table, str]:
    logged = "split" in table.column_names
    if logged and not options.split:
        return table, "as in the log"
    if options.split in schema.SPLITS:
        values, rule = [options.split] * len(table), f"every row {options.split}, as asked"
    else:
        values = hashed_splits(strings(table, "query_id")).tolist()
        asked = "as asked" if options.split else "as the log has no splits"
        rule = (
            f"by hash of the query id, {VALIDATION_SHARE:.0%} to validation and the rest to "
            f"test, {asked}"
        )
    table = table.drop_columns(["split"]) if logged else table
    return table.append_column("split", pa.array(values, pa.string())), rule


def hashed_splits(query_id: np.ndarray) -> np.ndarray:
    """[N] "validation" or "test", the same for a query in every log, model and order.

    Validation iff the 64-bit BLAKE2 hash of the id is below 0.3 x 2^64. Our choice.

    >>> hashed_splits(np.array(["q1", "q2", "q3", "q4", "q5"])).tolist()
    ['test', 'test', 'test', 'validation', 'validation']
    """
    uniform = stable_hash(query_id) / np.float64(2**64)
    return np.where(uniform < VALIDATION_SHARE, "validation", "test")


def _check_scale(table: pa.Table, where: str) -> None:
    quality = table["quality"]
    highest = pc.max(pc.cast(quality, pa.float64())).as_py()
    lowest = pc.min(pc.cast(quality, pa.float64())).as_py()
    if highest is None or highest != highest or (lowest >= 0 and highest <= 1):
        return  # nulls and NaN are the schema's to name
    tops = [top for top in (5, 10, 100) if highest <= top] if lowest >= 0 else []
    todo = f"if its scale is 0 to {tops[0]}, divide by {tops[0]}" if tops else "rescale it"
    raise InputError(
        f"{where}: 'quality' runs from {lowest:g} to {highest:g} and must lie in [0, 1]; {todo}"
    )


def _count_logged_tokens(table: pa.Table) -> tuple[pa.Table, dict[str, str]]:
    """``response_tokens`` as the number of logged tokens, where it differs from what was billed.

    Hidden reasoning and an end token that is billed but not logged make the two differ; the
    cost is computed by then, and columns per token need the number of values they hold.
    """
    names = [name for name in schema.PER_TOKEN if name in table.column_names]
    if not names or "response_tokens" not in table.column_names:
        return table, {}
    billed = pc.cast(table["response_tokens"], pa.int32())
    logged = pc.coalesce(pc.list_value_length(table[names[0]]), billed)
    differ = pc.sum(pc.not_equal(logged, billed)).as_py()
    if not differ:
        return table, {}
    place = table.column_names.index("response_tokens")
    said = f"logged tokens; the cost uses the billed ones, other in {differ:,} rows"
    return table.set_column(place, "response_tokens", logged), {"response_tokens": said}


def _all_or_none(table: pa.Table, where: str) -> None:
    """A column is filled for every row of a model or for none (texts may have gaps)."""
    for name in table.column_names:
        null = pc.is_null(table[name])
        if name in _TEXTS or not table[name].null_count:
            continue
        for model in pc.unique(table["model"]).to_pylist():
            ours = pc.equal(table["model"], model)
            gaps = pc.and_(ours, null)
            count, rows = pc.sum(gaps).as_py(), pc.sum(ours).as_py()
            if 0 < count < rows:
                query = table["query_id"][pc.index(gaps, True).as_py()].as_py()
                raise InputError(
                    f"{where}: '{name}' is missing in {count:,} of {rows:,} rows of model "
                    f"'{model}' (e.g. query_id '{query}'); fill every row or leave it out"
                )
