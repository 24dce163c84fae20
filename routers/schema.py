"""The columns of Records and every check on them; each fault is one line that says what to do."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
import pyarrow as pa

from routers.arrow import pc
from routers.errors import InputError, did_you_mean

VERSION = 1
SPLITS = ("train", "validation", "test")
SCORE = "score:"  # prefix of ready-made deferral scores

_FLOATS, _ROWS = pa.list_(pa.float32()), pa.list_(pa.list_(pa.float32()))
COLUMNS: dict[str, pa.DataType] = {
    "query_id": pa.string(),
    "task": pa.string(),
    "split": pa.string(),
    "model": pa.string(),
    "prompt": pa.string(),
    "reference": pa.string(),
    "response": pa.string(),
    "sampled_responses": pa.list_(pa.string()),
    "quality": pa.float32(),
    "prompt_tokens": pa.int32(),
    "response_tokens": pa.int32(),
    "flops": pa.float64(),
    "latency_s": pa.float64(),
    "dollars": pa.float64(),
    "token_logprob": _FLOATS,
    "token_entropy": _FLOATS,
    "topk_logprob": _ROWS,
    "prompt_embedding": _FLOATS,
    "response_embedding": _FLOATS,
    "forced_logprob": _FLOATS,
    "forced_hit": pa.list_(pa.bool_()),
    "forced_topk_logprob": _ROWS,
}
REQUIRED = ("query_id", "model", "quality")
PER_TOKEN = ("token_logprob", "token_entropy", "topk_logprob")
FORCED = ("forced_logprob", "forced_hit", "forced_topk_logprob")


def normalise(table: pa.Table, where: str) -> pa.Table:
    """The table with canonical types and defaults, or InputError naming the first fault.

    Defaults: ``task`` is "all" and ``split`` is "test" where the column is absent. Columns
    outside the schema are kept untouched.
    """
    missing = [name for name in REQUIRED if name not in table.column_names]
    if missing:
        hint = did_you_mean(missing[0], table.column_names)
        raise InputError(
            f"{where}: no column '{missing[0]}'; a log needs query_id, model, quality and "
            f"flops or dollars ({hint})"
        )
    for name, value in (("task", "all"), ("split", "test")):
        if name not in table.column_names:
            table = table.append_column(name, pa.array([value] * len(table), pa.string()))
    for i, name in enumerate(table.column_names):
        wanted = pa.float64() if name.startswith(SCORE) else COLUMNS.get(name)
        if wanted is not None:
            table = table.set_column(i, name, _cast(table[name], wanted, name, where))
    if len(table) == 0:
        raise InputError(f"{where}: no rows; write one row per query and model")
    _check(table, where)
    return table


def cost_column(table: pa.Table) -> str:
    """The column that costs are read from: ``flops`` where present, else ``dollars``."""
    for name in ("flops", "dollars"):
        if name in table.column_names and table[name].null_count < len(table):
            return name
    raise InputError("no column 'flops' or 'dollars' with values; add what each answer cost")


def _cast(column: pa.ChunkedArray, wanted: pa.DataType, name: str, where: str) -> pa.ChunkedArray:
    if column.type == wanted:
        return column
    text = pa.types.is_string(wanted)
    if text and not (pa.types.is_large_string(column.type) or _dictionary(column.type)):
        if column.null_count < len(column):
            _wrong_type(where, name, column.type, wanted)
    elif not text and pa.types.is_string(column.type):
        _wrong_type(where, name, column.type, wanted)
    try:
        return column.cast(wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        _wrong_type(where, name, column.type, wanted)


def _dictionary(kind: pa.DataType) -> bool:
    return pa.types.is_dictionary(kind) and (
        pa.types.is_string(kind.value_type) or pa.types.is_large_string(kind.value_type)
    )


def _wrong_type(where: str, name: str, found: Any, wanted: Any) -> NoReturn:
    raise InputError(f"{where}: column '{name}' is {found}; cast it to {wanted}")


def _check(table: pa.Table, where: str) -> None:
    for name in ("query_id", "task", "split", "model", "quality"):
        _no(pc.is_null(table[name]), table, where, name, "is null", "fill it in or drop the row")
    _check_values(table, where)
    _check_duplicates(table, where)
    _check_lengths(table, where)


def _check_values(table: pa.Table, where: str) -> None:
    quality = table["quality"]
    _no(pc.is_nan(quality), table, where, "quality", "is NaN", "score the row or drop it")
    outside = pc.or_(pc.less(quality, 0), pc.greater(quality, 1))
    _no(outside, table, where, "quality", "is outside [0, 1]", "rescale it")
    known = pc.is_in(table["split"], value_set=pa.array(SPLITS))
    _no(pc.invert(known), table, where, "split", "is unknown", f"use {', '.join(SPLITS)}")
    for name in ("flops", "dollars", "latency_s", "prompt_tokens", "response_tokens"):
        if name in table.column_names:
            column = pc.cast(table[name], pa.float64())
            bad = pc.or_(pc.less(column, 0), pc.invert(pc.is_finite(column)))
            _no(bad, table, where, name, "is negative or not finite", "repair the log")
    for name in ("flops", "dollars"):
        if name in table.column_names and 0 < table[name].null_count < len(table):
            todo = "fill every row or none (drop the column)"
            _no(pc.is_null(table[name]), table, where, name, "is null in some rows", todo)
    for name in ("token_logprob", "token_entropy", "forced_logprob"):
        if name in table.column_names:
            _check_tokens(table, where, name)


def _check_tokens(table: pa.Table, where: str, name: str) -> None:
    """Log-probabilities are at most 0 and entropies at least 0, up to float32 rounding."""
    for chunk, first in _chunks(table[name]):
        values = chunk.flatten().to_numpy(zero_copy_only=False)
        wrong = values < -1e-3 if name == "token_entropy" else values > 1e-3
        bad = np.flatnonzero(wrong | np.isnan(values))
        if len(bad):
            lengths = pc.list_value_length(chunk).fill_null(0).to_numpy(zero_copy_only=False)
            row = first + int(np.searchsorted(np.cumsum(lengths), bad[0], side="right"))
            sign = "negative" if name == "token_entropy" else "above 0"
            todo = "store nats: natural logarithms, not probabilities or bits"
            _fail(table, where, name, row, f"holds {values[bad[0]]:.4g} ({sign} or NaN)", todo)


def _check_duplicates(table: pa.Table, where: str) -> None:
    keys = table.select(["model", "query_id"])
    count = keys.group_by(["model", "query_id"]).aggregate([([], "count_all")])
    again = count.filter(pc.greater(count["count_all"], 1))
    if len(again):
        first = again.slice(0, 1).to_pylist()[0]
        raise InputError(
            f"{where}: {len(again)} duplicate (query_id, model) pairs, first query_id "
            f"'{first['query_id']}' of model '{first['model']}' ({first['count_all']} rows); "
            "keep one row per query and model"
        )


def _check_lengths(table: pa.Table, where: str) -> None:
    """Per-token columns have one value per response token; forced ones agree among themselves."""
    names = [name for name in PER_TOKEN if name in table.column_names]
    if "response_tokens" in table.column_names:
        for name in names:
            _same_length(table, where, name, table["response_tokens"], "response_tokens")
    forced = [name for name in FORCED if name in table.column_names]
    for name in forced[1:]:
        first = pc.list_value_length(table[forced[0]])
        _same_length(table, where, name, first, f"the length of {forced[0]}")


def _same_length(
    table: pa.Table, where: str, name: str, wanted: pa.ChunkedArray, what: str
) -> None:
    length = pc.list_value_length(table[name])
    differ = pc.not_equal(length, wanted).fill_null(False)
    row = pc.index(differ, True).as_py()
    if row >= 0:
        problem = f"has {length[row]} values where {what} is {wanted[row]}"
        _fail(table, where, name, row, problem, "store one value per token, EOS included")


def _no(bad: pa.ChunkedArray, table: pa.Table, where: str, name: str, what: str, todo: str) -> None:
    """Raise for the first row where ``bad`` is true."""
    row = pc.index(bad, True).as_py()
    if row >= 0:
        value = table[name][row].as_py()
        shown = "" if value is None else f" ({value!r})"
        _fail(table, where, name, row, f"{what}{shown}", todo)


def _fail(table: pa.Table, where: str, name: str, row: int, problem: str, todo: str) -> NoReturn:
    query = table["query_id"][row].as_py()
    raise InputError(f"{where}: row {row} (query_id '{query}'): '{name}' {problem}; {todo}")


def _chunks(column: pa.ChunkedArray) -> list[tuple[Any, int]]:
    """Each chunk with the row it starts at."""
    starts = np.cumsum([0, *(len(chunk) for chunk in column.chunks)]).tolist()
    return list(zip(column.chunks, starts[:-1], strict=True))
