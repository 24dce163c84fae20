"""Tables that strangers wrote: CSV, TSV, JSON Lines and Parquet as columns of plain values."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from routers import schema
from routers.errors import InputError, did_you_mean
from routers.importers.sources import check_file, number, objects, read_text

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_TEXTS = ("prompt", "reference", "response")


@dataclasses.dataclass(frozen=True)
class Rows:
    """One file: its name, its columns' names, and either columns (table) or objects (JSON)."""

    where: str
    names: list[str]
    table: pa.Table | None = None
    items: tuple[dict[str, Any], ...] = ()

    def __len__(self) -> int:
        return len(self.items) if self.table is None else len(self.table)


def load(path: Path) -> Rows:
    """A file by its suffix (``.gz`` after it is unpacked); every CSV cell stays text.

    Raises:
        InputError: an unknown suffix, or a file that is not what its suffix says.
    """
    kinds = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    kind = kinds[-1] if kinds else ""
    check_file(path)
    if kind in _DELIMITERS:
        return _csv(path, _DELIMITERS[kind])
    if kind == ".parquet":
        return _parquet(path)
    if kind in (".jsonl", ".ndjson", ".json"):
        items = tuple(item for _, item in objects(path))
        if not items:
            raise InputError(f"{path.name}: no rows; is this the right file?")
        return Rows(
            path.name, list(dict.fromkeys(key for item in items for key in item)), None, items
        )
    raise InputError(
        f"{path.name}: cannot tell its format; name it .csv, .tsv, .jsonl, .json or .parquet"
    )


def cells(rows: Rows, theirs: str, ours: str) -> list[Any]:
    """One value per row of their column, converted for our column; None where it is absent.

    In JSON a dotted path leads into objects and lists: ``grades.exact``, ``choices.0.text``.

    Raises:
        InputError: a value that our column cannot hold, with its row.
    """
    what = f"column '{theirs}'" + (f" for '{ours}'" if theirs != ours else "")
    found = []
    for i, value in enumerate(_raw(rows, theirs)):
        try:
            found.append(convert(value, ours, what))
        except InputError as error:
            raise InputError(f"{rows.where}: row {i}, {error}") from None
    return found


def convert(value: Any, ours: str, where: str) -> Any:
    """One cell as our column holds it: text, a number, a count, or a list as it is."""
    kind = pa.float64() if ours.startswith(schema.SCORE) else schema.COLUMNS[ours]
    if value is None or pa.types.is_list(kind):
        return value
    if pa.types.is_string(kind):
        return _text(value, ours, where)
    found = number(value, where)
    if found is not None and pa.types.is_integer(kind):
        if found != int(found) or not 0 <= found < 2**31:
            raise InputError(f"{where} is {value!r:.40}; give a count of tokens")
        return int(found)
    return found


def pick(item: Any, path: str) -> Any:
    """The value at a dotted path; None where the path ends early.

    >>> pick({"a": [{"b": 3}]}, "a.0.b"), pick({"a.b": 4}, "a.b"), pick({}, "a.b")
    (3, 4, None)
    """
    if isinstance(item, dict) and path in item:
        return item[path]
    for key in path.split("."):
        if isinstance(item, dict):
            item = item.get(key)
        elif isinstance(item, list) and key.isascii() and key.isdigit() and int(key) < len(item):
            item = item[int(key)]
        else:
            return None
    return item


def require(rows: Rows, theirs: str, ours: str) -> None:
    """Refuse a mapping to a column that is nowhere, with the nearest name."""
    found = theirs in rows.names
    if not found and rows.table is None:
        found = any(pick(item, theirs) is not None for item in rows.items)
    if not found:
        raise InputError(
            f"{rows.where}: no column '{theirs}' (mapped to {ours}); "
            f"{did_you_mean(theirs, rows.names)}"
        )


def _raw(rows: Rows, theirs: str) -> list[Any]:
    if rows.table is None:
        return [pick(item, theirs) for item in rows.items]
    if theirs not in rows.names:
        return [None] * len(rows)
    return rows.table[theirs].to_pylist()


def _text(value: Any, ours: str, where: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if ours in _TEXTS:  # for people only, e.g. a list of chat messages
        return json.dumps(value, ensure_ascii=False, default=str)
    raise InputError(f"{where} is {type(value).__name__} {value!r:.40}; give text or an integer")


def _csv(path: Path, delimiter: str) -> Rows:
    text = read_text(path)
    # Cut inside a quoted last cell, a file reads as a whole one. (5" alone is no open quote.)
    if text.count('"') % 2 and not text.endswith("\n"):
        raise InputError(f"{path.name}: ends inside a quoted cell; is the file whole?")
    names = _header(text, path, delimiter)
    data = text.encode()
    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(data),
            read_options=pyarrow.csv.ReadOptions(
                use_threads=False, block_size=min(max(len(data), 2**20), 2**30)
            ),
            parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                # Ids like 007 and texts like "null" must stay as they are.
                column_types={name: pa.string() for name in names},
            ),
        )
    except (pa.ArrowException, ValueError, KeyError) as error:
        reason = str(error).partition("\n")[0][:160]
        raise InputError(f"{path.name}: broken CSV ({reason}); repair or drop the row") from None
    return Rows(path.name, names, table)


def _header(text: str, path: Path, delimiter: str) -> list[str]:
    try:
        names = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), [])
    except csv.Error as error:
        raise InputError(f"{path.name}: no CSV header ({error}); is this the right file?") from None
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(f"{path.name}: two columns named '{twice[0]}'; rename one")
    if not names:
        raise InputError(f"{path.name}: empty; is this the right file?")
    return names


def _parquet(path: Path) -> Rows:
    try:
        table = pq.ParquetFile(path).read()
    except (pa.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0][:160]
        raise InputError(f"{path.name}: not a readable Parquet file ({reason})") from None
    twice = [name for name in table.column_names if table.column_names.count(name) > 1]
    if twice:
        raise InputError(f"{path.name}: two columns named '{twice[0]}'; rename one")
    return Rows(path.name, table.column_names, table)
