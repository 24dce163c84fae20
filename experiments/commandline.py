"""Typed command lines: tyro parses, and what it refuses becomes one line."""

from __future__ import annotations

import contextlib
import difflib
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

from routers.errors import InputError

T = TypeVar("T")


def parse(target: Callable[..., T], arguments: Sequence[str], prog: str, **options: Any) -> T:
    """Build ``target`` (a dataclass) from arguments; a refusal is an InputError of one line."""
    complaint = io.StringIO()
    asks_help = not {"-h", "--help"}.isdisjoint(arguments)
    try:
        with contextlib.redirect_stderr(complaint), _columns("" if asks_help else "10000"):
            return tyro.cli(target, args=list(arguments), prog=prog, **options)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise InputError(f"{one_line(complaint.getvalue())}; see '{prog} --help'") from None


@contextlib.contextmanager
def _columns(width: str) -> Iterator[None]:
    """A terminal so wide that tyro breaks no line of a complaint; empty leaves it as it is."""
    before = os.environ.get("COLUMNS", "")
    os.environ["COLUMNS"] = width or before
    try:
        yield
    finally:
        os.environ["COLUMNS"] = before


def one_line(box: str) -> str:
    """The message inside tyro's box, with its nearest suggestion, on one line.

    Where stdout is not UTF-8 tyro draws no frame: a title, a rule of hyphens, the text.

    >>> one_line("╭─ Unrecognized ─╮\\n│ Unrecognized options: --x │\\n│ ─── │\\n╰──╯")
    'Unrecognized options: --x'
    """
    framed = box.startswith("╭")
    body = box.splitlines()[1:-1] if framed else box.splitlines()[2:]
    lines = [line[1:-1].rstrip() if framed else line[1:].rstrip() for line in body]
    rule = next((i for i, line in enumerate(lines) if not line.strip(" ─-")), len(lines))
    if not rule:
        return "bad command line"
    message, *missing = lines[:rule]
    message = message.strip().rstrip(".")
    if missing:  # "Missing from cascade evaluate:", then an option and its help per entry
        return f"{message} {'; '.join(_entries(missing))}"
    known = [line.split()[0].rstrip(",") for line in _entries(lines[rule:]) if line[0] == "-"]
    if not any("Perhaps you meant:" in line for line in lines) or not known:
        return message
    wrong = next((word for word in message.split() if word.startswith("--")), "").rstrip(",")
    near = difflib.get_close_matches(wrong, known, n=1, cutoff=0)
    return f"{message}; did you mean {near[0]}?"


def _entries(lines: list[str]) -> list[str]:
    """The options of a list: their lines are indented by four, their help by eight."""
    return [line.strip() for line in lines if re.match(r" {5}\S", line)]


def print_json(value: Any) -> None:
    """Pretty JSON on stdout; NaN is refused (ValueError): what has no value is null."""
    print(json.dumps(value, indent=2, allow_nan=False))


def existing(path: Path, what: str) -> Path:
    """The path, or InputError when there is nothing there."""
    if not path.exists():
        raise InputError(f"{path}: no such {what}; check the path")
    return path
