"""One query as text: what a task gives, and what answers are graded against."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Example:
    """One query as text. ``references`` are all acceptable targets (``target`` among them)."""

    id: str
    task: str
    prompt: str
    target: str
    choices: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
