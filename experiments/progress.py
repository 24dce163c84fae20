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
from rich.text import Text

Advance = Callable[[int, str], None]
"""``advance(n, note)``: n more units are done; ``note`` is shown beside the bar."""


class Rate(ProgressColumn):
    """Units per second since the bar began."""

    def render(self, task: Task) -> Text:
        """E.g. ``312 steps/s``."""
        speed = task.finished_speed or task.speed
        text = "" if not speed else f"{speed:,.0f} {task.fields['unit']}/s"
        return Text(text.rjust(18), style="cyan")


@contextmanager
def bar(label: str, total: int, unit: str) -> Iterator[Advance]:
    """A bar on stderr, live in a terminal, one final line elsewhere."""
    columns = (
        TextColumn("{task.description:<34}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[note]}", style="dim", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(label, total=total, unit=unit, note="")

        def advance(count: int, note: str = "") -> None:
            progress.update(task, advance=count, note=note)

        yield advance
