"""Typed command lines: tyro parses, and what it refuses becomes one line."""

from __future__ import annotations

import contextlib
import difflib
import io
import json
import os
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

    tyro draws boxes in ASCII where stdout is not UTF-8.

    >>> one_line("╭─ Unrecognized ─╮\\n│ Unrecognized options: --x │\\n│ ─── │\\n╰──╯")
    'Unrecognized options: --x'
    """
    frame = "│╭╮╰╯─|+- \n"
    inside = [line.strip("│| \n") for line in box.splitlines() if line.strip(frame)][1:]
    message = inside[0].rstrip(".") if inside else "bad command line"
    known = [line.split()[0].rstrip(",") for line in inside[1:] if line.startswith("--")]
    if "Perhaps you meant:" not in inside or not known:
        return message
    wrong = next((word for word in message.split() if word.startswith("--")), "").rstrip(",")
    near = difflib.get_close_matches(wrong, known, n=1, cutoff=0)
    return f"{message}; did you mean {near[0]}?"


def print_json(value: Any) -> None:
    """Pretty JSON on stdout; NaN is refused (ValueError): what has no value is null."""
    print(json.dumps(value, indent=2, allow_nan=False))


def existing(path: Path, what: str) -> Path:
    """The path, or InputError when there is nothing there."""
    if not path.exists():
        raise InputError(f"{path}: no such {what}; check the path")
    return path
