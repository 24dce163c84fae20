"""What people watch: a line per step in ``metrics.jsonl``, and the note beside the progress bar."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from cat.mfu import utilisation
from cat.types import Batch
from routers.files import written

LOG = "metrics.jsonl"
TIMES = ("tokens_per_s", "step_s", "data_wait_s", "mfu")
"""What differs between two runs of the same bits."""

Line = dict[str, Any]
Sink = Callable[[Line], None]
"""Takes every log line as it is made; ``cat.sinks`` has those of other programs."""


class Spent(NamedTuple):
    """Seconds of one dispatch by the wall clock, and what it computed."""

    seconds: float  # waiting included
    waited: float  # of them, for the data iterator
    flops: float  # of the model, ``cat.mfu.training_flops``


def lines(
    done: int,
    metrics: Mapping[str, Any],
    batch: Batch,
    spent: Spent,
    families: tuple[str, ...] = (),
) -> list[Line]:
    """One line per step of a dispatch, the first with step ``done`` + 1; null = not a number.

    ``batch`` is this process's; where there are several, their tokens are taken to be as many.
    What is known of each family gets its name, e.g. ``keep_rates: {"add2": 0.5}``.
    """
    columns = {name: np.asarray(column).tolist() for name, column in metrics.items()}
    count = len(columns["loss"])
    tokens = np.count_nonzero(batch.segments) * jax.process_count()
    shared = {
        "tokens_per_s": round(tokens / spent.seconds),
        "step_s": spent.seconds / count,
        "data_wait_s": spent.waited / count,
        "mfu": utilisation(spent.flops, spent.seconds),
    }
    unknown = dict.fromkeys(("n11", "n10", "n01", "n00"))
    return [
        {"step": done + i + 1, **unknown}
        | dict(_named(name, column[i], families) for name, column in columns.items())
        | shared
        for i in range(count)
    ]


def _named(name: str, value: Any, families: tuple[str, ...]) -> tuple[str, Any]:
    """A number as it is; the values of all families by their names."""
    if not isinstance(value, list):
        return name, number(value)
    told = {family: number(x) for family, x in zip(families, value, strict=True)}
    return name.removesuffix("_F") + "s", told


def number(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def append(log: Path, lines: list[Line]) -> None:
    """Add lines to the log."""
    with log.open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def settle(log: Path) -> None:
    """Put the log on the disk itself: before a checkpoint that includes its lines."""
    with log.open("a") as file:
        os.fsync(file.fileno())


def cut(log: Path, step: int) -> None:
    """Drop the lines after a checkpoint's step: the resumed run writes them again."""
    if not log.exists():
        return
    kept = log.read_text().splitlines(keepends=True)[:step]
    with written(log) as temporary:
        temporary.write_text("".join(kept))


def note(line: Line) -> str:
    """A step in a few words; what is not known is left out.

    >>> note({"loss": 1.25, "keep_rate": 0.5, "tokens_per_s": 45_120, "mfu": None})
    'loss 1.250 keep 0.50 45.1k tokens/s'
    """
    loss = "none" if line["loss"] is None else f"{line['loss']:.3f}"
    keep = "none" if line["keep_rate"] is None else f"{line['keep_rate']:.2f}"
    said = f"loss {loss} keep {keep} {_short(line['tokens_per_s'])} tokens/s"
    return said if line["mfu"] is None else f"{said} MFU {line['mfu']:.0%}"


def _short(count: int) -> str:
    """Three digits: 312, 45.1k, 3.20M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}{letter}"
    return f"{count:.0f}"
