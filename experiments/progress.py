"""Progress bars with throughput and time left, the same for every stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

Advance = Callable[[int, str], None]
"""``advance(n, note)``: n more units are done; ``note`` is shown beside the bar."""


class Rate(ProgressColumn):
    """Units per second since the bar began."""

    def render(self, task: Task) -> Text:
        """E.g. ``312 steps/s``."""
        speed = task.finished_speed or task.speed
        text = "" if not speed else f"{speed:,.0f} {task.fields['unit']}/s"
        return Text(text.rjust(15), style="cyan")


def _console() -> Console:
    """Standard error; wide enough for a line where it is a file and has no width."""
    console = Console(stderr=True)
    return console if console.is_terminal else Console(stderr=True, width=110)


@contextmanager
def bar(label: str, total: int, unit: str) -> Iterator[Advance]:
    """A bar on stderr, live in a terminal, one final line elsewhere."""
    note = Column(no_wrap=True, overflow="ellipsis", ratio=1)
    columns = (
        TextColumn("{task.description:<27}", markup=False, table_column=Column(no_wrap=True)),
        BarColumn(bar_width=8),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        Rate(table_column=Column(no_wrap=True)),
        TimeRemainingColumn(elapsed_when_finished=True, table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[note]}", style="dim", markup=False, table_column=note),
    )
    with Progress(*columns, console=_console(), expand=True) as progress:
        task = progress.add_task(label, total=total, unit=unit, note="")

        def advance(count: int, note: str = "") -> None:
            progress.update(task, advance=count, note=note)

        yield advance
