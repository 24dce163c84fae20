"""A profiler trace of chosen steps, for TensorBoard's profile page, XProf or Perfetto."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import jax

from routers.errors import InputError

FOLDER = "profile"


def window(steps: str) -> tuple[int, int] | None:
    """The first and last step, from 1, of ``10:15``; None for "", which traces nothing.

    Raises:
        InputError: not two numbers in order.

    >>> window("10:15")
    (10, 15)
    """
    if not steps:
        return None
    found = re.fullmatch(r"(\d+):(\d+)", steps)
    first, last = map(int, found.groups()) if found else (0, 0)
    if not 1 <= first <= last:
        raise InputError(f"profile={steps!r}; give the first and last step, e.g. 10:15")
    return first, last


class Trace:
    """Traces the dispatches that contain the chosen steps into ``folder/profile``.

    A dispatch is one compiled call: it is traced whole. Compilation is not, unless the first
    dispatch is among them.
    """

    def __init__(self, steps: str, folder: Path, say: Callable[[int, str], None]):
        self._window, self._folder, self._say = window(steps), folder / FOLDER, say
        self._since = 0

    def before(self, first: int, last: int) -> None:
        """Begin if the dispatch of these steps has a chosen one."""
        if self._window is None or self._since:
            return
        if first <= self._window[1] and last >= self._window[0]:
            self._since = first
            jax.profiler.start_trace(self._folder)

    def after(self, last: int) -> None:
        """End with the dispatch that reaches the last chosen step."""
        if self._since and self._window is not None and last >= self._window[1]:
            self.close(last)

    def close(self, last: int) -> None:
        """End a trace that is running; training may stop inside the window."""
        if self._since:
            first, self._since, self._window = self._since, 0, None
            jax.profiler.stop_trace()
            self._say(0, f"steps {first} to {last} traced in {self._folder}")
