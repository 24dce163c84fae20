"""Your own examples from JSON lines: a .jsonl[.gz] file or a folder of them (--data.path).

One object a line: ``{"task", "split", "inputs", "targets", "id"?, "choices"?, "references"?}``;
other keys are ignored. Every line of every file is checked before anything is returned.
See docs/data.md.
"""

from __future__ import annotations

import functools
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cat.config import DataConfig
from cat.example import Example
from routers.errors import InputError, did_you_mean

_SPLITS = ["train", "validation", "test"]
_REQUIRED = ("task", "split", "inputs", "targets")


def examples(config: DataConfig, split: str) -> list[Example]:
    """The rows of that split, in the order of the files; all files are checked first.

    Raises:
        InputError: nothing at ``config.path``, or a bad line: file, line number and reason.
    """
    if not config.path:
        raise InputError("task 'jsonl' needs data.path: a .jsonl[.gz] file or a folder of them")
    files = _files(Path(config.path))
    stamp = tuple((str(f), f.stat().st_mtime_ns, f.stat().st_size) for f in files)
    return _read(config.path, stamp)[split]


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise InputError(f"data.path '{path}' does not exist; give a .jsonl[.gz] file or a folder")
    found = [path] if path.is_file() else sorted(path.rglob("*"))
    files = [f for f in found if f.is_file() and f.name.endswith((".jsonl", ".jsonl.gz"))]
    if not files:
        raise InputError(f"data.path '{path}' holds no .jsonl or .jsonl.gz file; convert the data")
    return files


@functools.lru_cache(maxsize=1)  # the three splits are asked for one after another
def _read(path: str, stamp: tuple[tuple[str, int, int], ...]) -> dict[str, list[Example]]:
    """Every split of these files, which ``stamp`` names together with their times and sizes."""
    splits: dict[str, list[Example]] = {split: [] for split in _SPLITS}
    first_seen: dict[str, str] = {}
    for file in (Path(name) for name, _, _ in stamp):
        label = file.relative_to(path).as_posix() if Path(path).is_dir() else file.name
        for number, line in _lines(file):
            where = f"{file}:{number}"
            row = _parse(line, where)
            example = _example(row, str(row.get("id", f"{label}:{number}")))
            earlier = first_seen.setdefault(example.id, where)
            if earlier != where:
                raise InputError(
                    f"{where}: id '{example.id}' occurs already at {earlier}; make ids unique"
                )
            splits[row["split"]].append(example)
    return splits


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """(line number, text) of every line that is not blank."""
    number = 0
    try:
        opener = gzip.open if file.suffix == ".gz" else open
        with opener(file, "rt", encoding="utf-8") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield number, line
    except UnicodeDecodeError as error:
        raise InputError(
            f"{file}: not UTF-8 after line {number} ({error.reason}); save as UTF-8"
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"{file}: cannot be read after line {number} ({error}); is the file whole?"
        ) from None


def _parse(line: str, where: str) -> dict[str, Any]:
    """The object of one line, checked."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{where}: invalid JSON ({error.msg} at column {error.colno}); one object a line"
        ) from None
    if not isinstance(row, dict):
        raise InputError(f"{where}: a {type(row).__name__} where an object belongs; use {{...}}")
    for key in _REQUIRED:
        if key not in row:
            raise InputError(f"{where}: key '{key}' is missing; add it")
        if not isinstance(row[key], str):
            raise InputError(f"{where}: '{key}' is {_kind(row[key])}; make it a string")
    for key in ("choices", "references"):
        if not _is_list_of_strings(row.get(key, [])):
            raise InputError(f"{where}: '{key}' is {_kind(row[key])}; make it a list of strings")
    if not isinstance(row.get("id", ""), str | int):
        raise InputError(f"{where}: 'id' is {_kind(row['id'])}; make it a string or an integer")
    if not row["targets"].strip():
        raise InputError(f"{where}: 'targets' is empty; give the expected answer or drop the line")
    if row["split"] not in _SPLITS:
        raise InputError(
            f"{where}: split '{row['split']}' is unknown; {did_you_mean(row['split'], _SPLITS)}"
        )
    return row


def _example(row: dict[str, Any], name: str) -> Example:
    references = tuple(row.get("references", ()))
    if references and row["targets"] not in references:
        references = (row["targets"], *references)
    choices = tuple(row.get("choices", ()))
    return Example(name, row["task"], row["inputs"], row["targets"], choices, references)


def _is_list_of_strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", bool: "a boolean", type(None): "null"}
    names |= {int: "a number", float: "a number", str: "a string"}
    return names[type(value)]
