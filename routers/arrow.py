"""Arrow columns as the arrays routers read.

A column absent or null in every row is None; null in some rows only is an error, because a
router would then see different evidence for different queries.
Letters: N rows, M values in all, K values per token, E embedding width.
"""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute

from routers.errors import InputError
from routers.ragged import Ragged

pc: Any = pyarrow.compute  # its functions are made at import, where type checkers cannot see


def strings(table: pa.Table, name: str) -> np.ndarray:
    """[N] text."""
    return np.array(table[name].to_pylist(), dtype=str)


def floats(table: pa.Table, name: str, dtype: type = np.float64) -> np.ndarray | None:
    """[N] numbers, float64 unless asked otherwise."""
    column = _present(table, name)
    return None if column is None else column.to_numpy().astype(dtype)


def texts(table: pa.Table, name: str) -> np.ndarray | None:
    """[N] text as objects, so that one long answer does not widen every row."""
    column = _present(table, name)
    return None if column is None else column.to_numpy()


def matrix(table: pa.Table, name: str) -> np.ndarray | None:
    """[N, E] from a list column whose rows all have the same length."""
    rows = ragged(table, name)
    if rows is None:
        return None
    if (rows.lengths != rows.lengths[0]).any():
        widths = sorted(set(rows.lengths.tolist()))
        raise InputError(f"'{name}' has rows of {widths[0]} and {widths[-1]} values; use one width")
    return rows.values.reshape(len(rows), -1)


def ragged(table: pa.Table, name: str) -> Ragged | None:
    """[M] from a list column, [M, K] from a list of lists with K values in every token."""
    column = _present(table, name)
    if column is None:
        return None
    lengths = pc.list_value_length(column).to_numpy()
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    values = [_values(chunk.flatten(), name) for chunk in column.chunks if len(chunk.flatten())]
    if len({v.shape[1:] for v in values}) > 1:
        _ragged_topk(name)
    return Ragged(np.concatenate(values) if values else np.zeros(0, np.float32), offsets)


def _values(flat: pa.Array, name: str) -> np.ndarray:
    """The values of one chunk, [m] or [m, K]."""
    if flat.null_count:
        raise InputError(f"'{name}' holds null values inside its lists; fill them in")
    if not pa.types.is_list(flat.type):
        return flat.to_numpy(zero_copy_only=False)
    widths = pc.list_value_length(flat).to_numpy(zero_copy_only=False)
    if (widths != widths[0]).any():
        _ragged_topk(name)
    return _values(flat.flatten(), name).reshape(len(widths), -1)


def _ragged_topk(name: str) -> NoReturn:
    raise InputError(
        f"'{name}' has different numbers of values per token; store the same K for all"
    )


def _present(table: pa.Table, name: str) -> pa.ChunkedArray | None:
    """The column, or None where no row has it."""
    if name not in table.column_names or table[name].null_count == len(table):
        return None
    column = table[name]
    if column.null_count:
        row = pc.index(pc.is_null(column), True).as_py()
        raise InputError(
            f"'{name}' is null for {column.null_count} of {len(table)} rows of model "
            f"'{table['model'][row]}' (e.g. query_id '{table['query_id'][row]}'); "
            "fill every row of that model and split, or none"
        )
    return column
