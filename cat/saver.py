"""Writing checkpoints while training goes on: one at a time, from arrays nobody overwrites."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Coroutine, Mapping
from typing import Any, NamedTuple

import jax
from orbax.checkpoint import v1 as ocp

from cat.faults import stored
from cat.integrity import apart, named, state_sum, sums


class Kept(NamedTuple):
    """What a checkpoint holds besides the place in the data.

    ``best``: parameters like ``params``, or None. ``notes``: JSON values of the loop.
    ``damaged``: the steps of newer checkpoints that could not be read; not saved.
    """

    params: Any  # tree of arrays; kept apart so that ``load_params`` reads nothing else
    rest: Any  # any tree of arrays (optimiser state and step)
    notes: Mapping[str, Any] = {}
    best: Any = None
    damaged: tuple[int, ...] = ()


class Note:
    """JSON in a checkpoint, by Orbax's protocol ``StatefulCheckpointable``."""

    FILE = "note.json"

    def __init__(self, value: dict[str, Any]):
        self.value = value

    async def save(self, directory: Any) -> Coroutine[Any, Any, None]:
        """What writes the value as it is now, once the folder is there; one process does."""
        text = json.dumps(self.value, indent=1, allow_nan=False)

        async def write() -> None:
            place = await directory.await_creation()
            if jax.process_index() == 0:
                (place / self.FILE).write_text(text)

        return write()

    async def load(self, directory: Any) -> Coroutine[Any, Any, None]:
        """What reads the value."""

        async def read() -> None:
            self.value = json.loads((directory / self.FILE).read_text())

        return read()


class Place:
    """Where a Grain iterator is: the same in every process, so one file serves any number."""

    FILE = "process_0-of-1.json"

    def __init__(self, data: Any):
        self.data = data

    async def save(self, directory: Any) -> Coroutine[Any, Any, None]:
        """What writes the place as it is now; one process does."""
        text = json.dumps(self.data.get_state(), indent=4)

        async def write() -> None:
            place = await directory.await_creation()
            if jax.process_index() == 0:
                (place / self.FILE).write_text(text)

        return write()

    async def load(self, directory: Any) -> Coroutine[Any, Any, None]:
        """What moves the iterator there."""

        async def read() -> None:
            self.data.set_state(json.loads((directory / self.FILE).read_text()))

        return read()


class Saver:
    """Saves in the background, at most one checkpoint at a time."""

    def __init__(self, checkpointer: ocp.training.Checkpointer):
        self._checkpointer = checkpointer
        self._pending: tuple[int, Any] | None = None

    def save(self, step: int, kept: Kept, data: Any) -> None:
        """Begin to write all of it as ``step``; waits for the one before.

        On return the arrays may be overwritten (donated) and ``data``, a Grain iterator, moved.

        Raises:
            InputError: the checkpoint before could not be written.
        """
        self.wait()
        arrays = {"params": named(kept.params), "rest": named(kept.rest)}
        arrays |= {} if kept.best is None else {"best": named(kept.best)}
        about = {"notes": dict(kept.notes), "sums": sums(arrays), "data": place(data)}
        note = Note(about | {"sum": state_sum(about)})
        parts = apart(arrays) | {"about": note, "data": Place(data)}
        with stored(self._checkpointer.directory, f"checkpoint {step}", self._next()):
            response = self._checkpointer.save_checkpointables_async(step, parts, force=True)
        self._pending = (step, response)

    def wait(self) -> None:
        """Until the checkpoint in flight is on disk: now a killed process can count on it.

        Raises:
            InputError: it could not be written, e.g. the disk is full; those before are whole.
        """
        if self._pending is None:
            return
        (step, response), self._pending = self._pending, None
        with stored(self._checkpointer.directory, f"checkpoint {step}", self._next(step)):
            try:
                self._checkpointer.wait()
            finally:
                with contextlib.suppress(Exception):
                    response.result()  # ends its thread; what it raises was raised above

    def check(self) -> None:
        """Raise what ``wait`` would if the save in flight has ended; does not wait."""
        if self._pending is not None and not self._checkpointer.is_saving_in_progress():
            self.wait()

    def _next(self, failed: int = -1) -> str:
        """What a run does that begins again."""
        steps = [found.step for found in self._checkpointer.checkpoints if found.step != failed]
        return f"it continues from checkpoint {steps[-1]}" if steps else "it begins anew"


def place(data: Any) -> int:
    """The sum of an iterator's state."""
    return state_sum(data.get_state())
