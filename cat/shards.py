"""One file of rows of different lengths: Arrow on disk, memory-mapped, with its own checksum.

A shard is an Arrow IPC stream (``pyarrow.ipc.open_stream`` reads it) and four more bytes, the
CRC-32 of all before them: a list column ``tokens`` of structs, one value per token and name, and
columns with one value per row. Any rows are read without reading the others: on one core 3
million rows of 20 tokens a second, where ArrayRecord (group size 1) gives 0.1 million and needs
twice the bytes. Bits are bits.

Letters: N rows, M tokens of all rows, C values a token.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from routers.files import written

_TOKENS = "tokens"
_CHECKSUM_BYTES = 4


class Damaged(Exception):
    """A shard that is absent, truncated or changed since it was written."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """An open shard. ``offsets[n]:offsets[n + 1]`` are row n's places in every token column."""

    offsets: Int[np.ndarray, " N1"]
    tokens: dict[str, np.ndarray]  # by name: [M] or [M, C], views of the file; bits still packed
    rows: dict[str, np.ndarray]  # by name: [N]
    about: dict[str, str]
    bits: frozenset[str] = frozenset()  # names of columns of bits

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Int[np.ndarray, " N"]:
        """Tokens of each row."""
        return np.diff(self.offsets)


Part = tuple[Shard, np.ndarray]
"""A shard and some of its rows."""


def take(
    parts: Sequence[Part], names: Iterable[str]
) -> tuple[Int[np.ndarray, " B"], dict[str, np.ndarray]]:
    """Tokens of each row, and the columns of these names, row after row and part after part."""
    start_B = np.concatenate([shard.offsets[rows] for shard, rows in parts]).astype(np.int64)
    end_B = np.concatenate([shard.offsets[rows + 1] for shard, rows in parts])
    length_B = end_B - start_B
    places_P = _ranges(start_B, length_B)
    counts = np.add.reduceat(length_B, np.cumsum([0, *(len(rows) for _, rows in parts[:-1])]))
    cuts = np.cumsum(counts)[:-1]

    def gather(name: str, places: np.ndarray) -> np.ndarray:
        pieces = zip(parts, np.split(places, cuts), strict=True)
        return np.concatenate([shard.tokens[name][here] for (shard, _), here in pieces])

    found = {}
    for name in names:
        if name in parts[0][0].bits:
            found[name] = (gather(name, places_P >> 3) >> (places_P & 7).astype(np.uint8)) & 1 > 0
        else:
            found[name] = gather(name, places_P)
    return length_B, found


def spans(offsets: Int[np.ndarray, " N1"], rows: Int[np.ndarray, " B"]) -> Int[np.ndarray, " P"]:
    """``offsets[n], offsets[n] + 1 .. offsets[n + 1] - 1`` of each row n, one after another.

    >>> spans(np.array([0, 2, 5]), np.array([1, 0])).tolist()
    [2, 3, 4, 0, 1]
    """
    start_B = offsets[rows].astype(np.int64)
    return _ranges(start_B, offsets[rows + 1] - start_B)


def _ranges(start_B: np.ndarray, length_B: np.ndarray) -> np.ndarray:
    """``start .. start + length - 1`` of each, one after another."""
    before_B = np.cumsum(length_B) - length_B
    return np.arange(length_B.sum()) + np.repeat(start_B - before_B, length_B)


def write(
    path: Path,
    lengths: Int[np.ndarray, " N"],
    tokens: dict[str, np.ndarray],
    *,
    rows: dict[str, np.ndarray] | None = None,
    about: dict[str, str] | None = None,
) -> None:
    """Write one shard, whole or not at all.

    Args:
        lengths: tokens of each row; their sum is M.
        tokens: columns [M] or [M, C]; booleans take a bit each.
        rows: columns [N].
        about: kept with the file and given back.
    """
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    arrays = {name: _arrow(column) for name, column in tokens.items()}
    struct = pa.StructArray.from_arrays(list(arrays.values()), names=list(arrays))
    columns: dict[str, pa.Array] = {_TOKENS: pa.ListArray.from_arrays(pa.array(offsets), struct)}
    columns |= {name: pa.array(column) for name, column in (rows or {}).items()}
    table = pa.table(columns)
    table = table.replace_schema_metadata(about or {})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    stream = sink.getvalue()
    with written(path) as temporary, temporary.open("wb") as file:
        file.write(stream)
        file.write(zlib.crc32(stream).to_bytes(_CHECKSUM_BYTES, "little"))


def read(path: Path) -> Shard:
    """The shard of a file, checked against its checksum; nothing is copied.

    Raises:
        Damaged: no file, a truncated one, or one whose contents are not what was written.
    """
    try:
        with pa.memory_map(str(path)) as file:  # closed at once: the views keep the mapping
            whole = file.read_buffer()
    except OSError as error:
        raise Damaged(f"{path}: {error.strerror}") from error
    end = max(whole.size - _CHECKSUM_BYTES, 0)
    stream = whole.slice(0, end)
    # Before anything is parsed: Arrow trusts the sizes and places that a file names.
    found = zlib.crc32(stream).to_bytes(_CHECKSUM_BYTES, "little")
    if not end or found != whole.slice(end).to_pybytes():
        raise Damaged(f"{path}: its checksum is not that of its contents")
    return _views(pa.ipc.open_stream(stream).read_all())


def _arrow(column: np.ndarray) -> pa.Array:
    if column.ndim == 1:
        return pa.array(column)
    return pa.FixedSizeListArray.from_arrays(pa.array(column.reshape(-1)), column.shape[1])


def _views(table: pa.Table) -> Shard:
    """NumPy views of the one batch of a shard's table."""
    columns = {name: table.column(name).chunk(0) for name in table.column_names}
    lists = columns.pop(_TOKENS)
    struct = lists.values
    names = [struct.type.field(i).name for i in range(struct.type.num_fields)]
    return Shard(
        lists.offsets.to_numpy(),
        {name: _view(struct.field(name)) for name in names},
        {name: column.to_numpy() for name, column in columns.items()},
        {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()},
        frozenset(name for name in names if pa.types.is_boolean(struct.field(name).type)),
    )


def _view(column: pa.Array) -> np.ndarray:
    if pa.types.is_fixed_size_list(column.type):
        return column.values.to_numpy().reshape(-1, column.type.list_size)
    if pa.types.is_boolean(column.type):
        return np.frombuffer(column.buffers()[1], np.uint8)[: -(-len(column) // 8)]
    return column.to_numpy()
