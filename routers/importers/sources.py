"""Reading files that strangers wrote: bounded, UTF-8, no pickle; each fault is one line.

Every function raises InputError with the file's name (and line) for what it cannot read.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from routers.errors import InputError

MOST_LINE = 64 * 2**20  # bytes; one logged answer with its log-probabilities is well below
MOST_UNPACKED = 8 * 2**30  # bytes that a compressed file may unpack to
MOST_RATIO = 200  # unpacked to packed; JSON logs reach 5 to 30
FREE = 16 * 2**20  # bytes below which the ratio does not matter

Opened = io.BufferedReader | gzip.GzipFile

_PICKLED = {".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib", ".dill"}
_GZIP, _ZIP = b"\x1f\x8b", b"PK\x03\x04"
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def check_file(path: Path) -> None:
    """Refuse what is not there, what is no file, and pickles: loading one runs its code."""
    if not path.is_file():
        what = "a folder; name the file" if path.is_dir() else "no such file; check the path"
        raise InputError(f"{path}: {what}")
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise InputError(f"{path.name}: {error.strerror}; check the permissions") from None
    pickled = len(start) > 1 and start[0] == 0x80 and start[1] <= 5
    if pickled or (path.suffix.lower() in _PICKLED and start[:4] != b"PAR1"):
        raise InputError(
            f"{path.name}: a pickle, and loading one runs whatever code is in it; "
            "save it as CSV, JSONL or Parquet (pandas: to_parquet) where it was made"
        )


def read_bytes(path: Path) -> bytes:
    """The whole file, unpacked where it is gzip."""
    with _opened(path) as file:
        parts = list(_pieces(file, path))
    return b"".join(parts)


def read_text(path: Path) -> str:
    """The whole file as UTF-8; a byte order mark is dropped."""
    return _decode(read_bytes(path), path.name).removeprefix("\ufeff")


def read_json(path: Path) -> Any:
    """The whole file as one JSON value."""
    return _parse(read_text(path), path.name)


def objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, object) of every line of a JSON Lines file, or of every item of a JSON array.

    ``where`` is "file: line 3", for messages. Blank lines are skipped.
    """
    if _first_byte(path) == b"[":
        values = ((f"{path.name}: item {i}", value) for i, value in enumerate(read_json(path)))
    else:
        values = ((where, _parse(line, where)) for where, line in _lines(path))
    for where, value in values:
        if not isinstance(value, dict):
            raise InputError(f"{where}: not a JSON object; write one {{...}} a line")
        yield where, value


def text_files(sources: Sequence[Path], pattern: str) -> list[Path]:
    """The sources, with every folder replaced by the files in and below it of that pattern."""
    found: list[Path] = []
    for source in sources:
        inside = sorted(source.rglob(pattern)) if source.is_dir() else [source]
        if not inside:
            raise InputError(f"{source}: no file {pattern} in this folder; check the path")
        found += inside
    if not found:
        raise InputError("no source given; name at least one file")
    return found


def provenance(files: Sequence[Path]) -> str:
    """Name and SHA-256 of each file, for the records' metadata."""
    return "; ".join(f"{path.name} sha256:{digest(path)}" for path in files)


def digest(path: Path) -> str:
    """SHA-256 of the file as it lies there, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def number(value: Any, where: str) -> float | None:
    """A finite number from a JSON or CSV cell; None from null and from an empty cell.

    >>> number(" 0.5 ", "here"), number(True, "here"), number("", "here")
    (0.5, 1.0, None)
    >>> number("1_000", "a.csv: row 2, column 'quality'")
    Traceback (most recent call last):
    ...
    routers.errors.InputError: a.csv: row 2, column 'quality' is '1_000'; give a finite number
    """
    if isinstance(value, str):
        text = value.strip()
        if not text:
            return None
        if text.lower() in ("true", "false"):
            return float(text.lower() == "true")
        value = float(text) if _NUMBER.fullmatch(text) else None
        shown: Any = text[:40]
    else:
        if value is None:
            return None
        shown = f"{value!r:.40}" if isinstance(value, int | float) else type(value).__name__
    try:
        found = float(value) if isinstance(value, int | float) else float("nan")
    except OverflowError:  # an integer beyond float64
        found = float("inf")
    if found - found != 0:  # NaN and the infinities
        quoted = repr(shown) if isinstance(shown, str) else shown
        raise InputError(f"{where} is {quoted}; give a finite number")
    return found


def _first_byte(path: Path) -> bytes:
    with _opened(path) as file:
        return _guarded_read(file, path, 64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]


def _opened(path: Path) -> Opened:
    check_file(path)
    with path.open("rb") as file:
        start = file.read(4)
    if start == _ZIP:
        raise InputError(f"{path.name}: a zip archive; unpack it first")
    return gzip.open(path) if start[:2] == _GZIP else path.open("rb")


def _pieces(file: Opened, path: Path) -> Iterator[bytes]:
    """The content in blocks, within the limits on unpacking."""
    total = 0
    while block := _guarded_read(file, path, 2**20):
        total += len(block)
        _bound(total, file, path)
        yield block


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    total = 0
    with _opened(path) as file:
        for count in range(1, 2**62):
            line = _guarded_read(file, path, MOST_LINE + 1, line=True)
            if not line:
                return
            where = f"{path.name}: line {count}"
            if len(line) > MOST_LINE:
                raise InputError(f"{where}: longer than {MOST_LINE:,} bytes; is it JSON Lines?")
            total += len(line)
            _bound(total, file, path)
            text = _decode(line, where).removeprefix("\ufeff" if count == 1 else "")
            if text.strip():
                yield where, text


def _guarded_read(file: Opened, path: Path, size: int, line: bool = False) -> bytes:
    try:
        return file.readline(size) if line else file.read(size)
    except (OSError, EOFError, zlib.error) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"{path.name}: cannot be read to its end ({reason}); copy it again"
        ) from None


def _bound(total: int, file: Opened, path: Path) -> None:
    if isinstance(file, gzip.GzipFile) and total > FREE:
        packed = path.stat().st_size
        if total > MOST_UNPACKED or total > MOST_RATIO * packed:
            raise InputError(
                f"{path.name}: {packed:,} bytes unpack to more than {total:,}; "
                "unpack it yourself if you trust it"
            )


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{where}: not UTF-8 (byte 0x{data[error.start]:02x} at {error.start}); "
            "save it as UTF-8"
        ) from None


def _no_number(where: str, name: str) -> NoReturn:
    raise InputError(f"{where}: {name} is no JSON number; write null or drop the row")


def _parse(text: str, where: str) -> Any:
    try:
        value = json.loads(text, parse_constant=functools.partial(_no_number, where))
        if "\\u" in text:  # half a surrogate pair is legal JSON and no text
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise InputError(f"{where}: nested too deeply to be a log; drop it") from None
    except json.JSONDecodeError as error:
        place = f"column {error.pos + 1}"
        raise InputError(
            f"{where}: broken JSON ({error.msg} at {place}); repair or drop it"
        ) from None
    except UnicodeEncodeError:
        raise InputError(
            f"{where}: holds half a surrogate pair (\\ud8..); write valid text"
        ) from None
    except InputError:
        raise
    except ValueError as error:  # integers of more digits than Python converts
        raise InputError(f"{where}: {str(error).partition(';')[0]}; repair or drop it") from None
    return value
