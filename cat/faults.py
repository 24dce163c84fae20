"""What goes wrong while training, as something a person can act on.

A full disk is one line, a loss that is not a number leaves its batch behind, and a signal waits
for the end of a dispatch.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cat.integrity import named
from cat.types import Batch
from routers.errors import InputError
from routers.files import written

SKIPS = 20
"""Steps in a row that ``on_nan="skip"`` leaves out before the run stops."""


@contextmanager
def stored(place: PathLike[str], what: str, then: str) -> Iterator[None]:
    """Turn a failure of the disk inside the block into an InputError of one line.

    Args:
        place: the folder written to.
        what: what is being written.
        then: what a run does that begins again.

    >>> with stored(Path("run"), "the log", "it continues from checkpoint 3"):
    ...     raise OSError(28, "No space left on device")
    Traceback (most recent call last):
    ...
    routers.errors.InputError: run: the log could not be written (No space left on device); make \
room and run again: it continues from checkpoint 3
    """
    try:
        yield
    except Exception as error:
        # TensorStore reports what the system said as a ValueError whose text ends in the code.
        if not isinstance(error, OSError) and "os_error_code=" not in str(error):
            raise
        raise InputError(
            f"{place}: {what} could not be written ({_reason(error)}); make room and run again: "
            f"{then}"
        ) from error


def _reason(error: Exception) -> str:
    """What the system said."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error).partition(" [")[0].rpartition(": ")[2]


def keep_batch(folder: Path, step: int, batch: Batch) -> Path:
    """Write one step's batch [B, T] to ``bad_step_<step>.npz``: ``tokens``, ``teacher.hit``, ...

    Where a run has several processes, each writes its own rows, its number in the name.
    """
    whose = f"_process_{jax.process_index()}" if jax.process_count() > 1 else ""
    path = folder / f"bad_step_{step}{whose}.npz"
    with written(path) as temporary, temporary.open("wb") as file:
        columns: dict[str, Any] = named(batch)
        np.savez_compressed(file, **columns)
    return path


class NotFinite(InputError):
    """A step whose loss or gradient is not a finite number ended a run."""


def refuse_step(folder: Path, line: dict[str, Any], batch: Batch, why: str) -> NotFinite:
    """The error of a step whose loss or gradient is not finite; its batch [B, T] is kept."""
    path = keep_batch(folder, line["step"], batch)
    loss, norm = ("not finite" if line[k] is None else line[k] for k in ("loss", "grad_norm"))
    return NotFinite(
        f"step {line['step']}: loss {loss}, gradient norm {norm}{why}; lower the learning rate or "
        f"raise warmup_steps (the step's batch is in {path})"
    )


@contextmanager
def deferred_signals() -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM are noted and left to the caller; a second one acts at once.

    An exception in the middle of a dispatch would lose the state, whose buffers it reuses.
    """
    seen: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield seen
        return

    def note(number: int, frame: Any) -> None:
        seen.append(number)
        signal.signal(number, before[number])

    before: dict[int, Any] = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, note)
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
