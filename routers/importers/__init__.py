"""Foreign logs as Records: one file per format, found by its name; no registry.

A file of this folder that defines ``read(sources, options) -> Records`` is a format of that
name, and the first line of its docstring is what lists show of it. Files without a ``read``
are helpers.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from routers.errors import InputError, did_you_mean
from routers.importers.options import Options

Reader = Callable[[Sequence[Path], Options], Any]  # to Records, which lists need not load

MOST_SHOWN = 1_000  # characters of a message


def formats() -> dict[str, str]:
    """Every format and the first line of its file, in alphabetical order; imports none of them.

    >>> "table" in formats()
    True
    """
    found = {}
    for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
        text = path.read_text(encoding="utf-8")  # parsing them all would take longer than help may
        if "\ndef read(" in text:
            found[path.stem] = text.removeprefix('"""').partition("\n")[0].removesuffix('"""')
    return found


def reader(name: str) -> Reader:
    """The ``read`` of a format; what it refuses is one line of bearable length.

    Raises:
        InputError: no such format, with the nearest name.

    >>> reader("tabel")
    Traceback (most recent call last):
    ...
    routers.errors.InputError: no format 'tabel'; did you mean 'table'? ...
    """
    known = list(formats())
    if name not in known:
        raise InputError(f"no format '{name}'; {did_you_mean(name, known)}")
    read = importlib.import_module(f"routers.importers.{name}").read

    @functools.wraps(read)
    def guarded(sources: Sequence[Path], options: Options) -> Any:
        try:
            return read(sources, options)
        except InputError as error:
            raise InputError(one_line(str(error))) from None

    return guarded


def one_line(message: str) -> str:
    """A message that quotes names from a log: control characters escaped, long ones cut.

    >>> one_line("query_id 'a\\nb' twice")
    "query_id 'a\\\\nb' twice"
    """
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in message)
    return shown if len(shown) <= MOST_SHOWN else f"{shown[:400]} [...] {shown[-200:]}"
