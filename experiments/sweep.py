"""The learning rate of every arm by one rule: least validation loss, same grid, same seeds.

The rule is ``cat.selection``'s, the mean cross-entropy of response tokens, whatever the arm's own
loss: no arm is tuned harder than another, and none on the test split.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cat.config import OptimizerConfig
from cat.faults import NotFinite
from cat.watch import LOG, number
from experiments.pipeline import Pipeline, seeded
from experiments.rundir import write_json
from routers.errors import InputError

FILE = "sweep.json"


@dataclasses.dataclass(frozen=True)
class Tuned:
    """One arm over the grid."""

    arm: str
    rates: tuple[float, ...]  # ascending
    losses: tuple[float, ...]  # validation, mean over seeds, nats per token; NaN = diverged

    @property
    def best(self) -> int:
        """Index of the least loss; the smaller rate where two are equal.

        >>> Tuned("xent", (1e-3, 2e-3, 4e-3), (2.0, 1.5, float("nan"))).best
        1
        """
        return int(np.nanargmin(self.losses))

    def as_json(self) -> dict[str, Any]:
        """Plain values; null = diverged."""
        return dataclasses.asdict(self) | {"losses": [number(loss) for loss in self.losses]}

    @property
    def at_edge(self) -> bool:
        """Whether the best rate is the first or last of the grid, so a wider one may beat it."""
        return len(self.rates) > 1 and self.best in (0, len(self.rates) - 1)


def sweep(pipeline: Pipeline, rates: Sequence[float]) -> list[Tuned]:
    """Train every arm at every rate on every seed; resumable; written to ``sweep.json``.

    Raises:
        InputError: a rate that is no positive number or there twice; an arm that diverged at all.
    """
    sound = rates and all(0 < rate < math.inf for rate in rates)
    if not sound or len(set(rates)) != len(rates):
        raise InputError(f"--rates {' '.join(map(str, rates))}; give positive numbers, each once")
    grid = tuple(sorted(rates))
    pipeline.train_shared()
    found = []
    for arm in pipeline.config.arms:
        losses = [_mean_loss(pipeline, arm, rate) for rate in grid]
        if np.isnan(losses).all():
            raise InputError(f"arm '{arm}' diverged at every rate of {list(grid)}; give lower ones")
        found.append(Tuned(arm, grid, tuple(losses)))
        write_json(pipeline.run.folder / FILE, [tuned.as_json() for tuned in found])
    return found


def _mean_loss(pipeline: Pipeline, arm: str, rate: float) -> float:
    """Over the seeds; NaN where one diverged."""
    return float(np.mean([_loss(pipeline, arm, rate, seed) for seed in pipeline.config.seeds]))


def _loss(pipeline: Pipeline, arm: str, rate: float, seed: int) -> float:
    """The validation loss one run ends with; NaN where it diverged."""
    name = f"sweep/{arm}/{rate:g}/seed{seed}"
    optimizer = judged(dataclasses.replace(pipeline.config.arm_train, learning_rate=rate))
    key = pipeline.arm_key(arm, seed, optimizer)
    try:
        pipeline.fit(
            name,
            key,
            pipeline.small,
            seeded(optimizer, seed + 1_000),
            arm,
            f"base/seed{seed}",
        )
    except NotFinite:
        return float("nan")
    return final_loss(pipeline.run.folder / name, optimizer)


def judged(optimizer: OptimizerConfig) -> OptimizerConfig:
    """With a validation at the last step, where none was asked for."""
    every = optimizer.validate_every or optimizer.steps
    return dataclasses.replace(optimizer, validate_every=every)


def final_loss(folder: Path, optimizer: OptimizerConfig) -> float:
    """Validation loss of the parameters a run keeps: its last, or its least for ``best``.

    NaN where that is not a number: the last step of a run is always validated.
    """
    lines = map(json.loads, (folder / LOG).read_text().splitlines())
    losses = [line["validation_loss"] for line in lines]  # null: not due, or not a number
    known = [loss for loss in losses if loss is not None]
    kept = min(known, default=None) if optimizer.select == "best" else losses[-1]
    return math.nan if kept is None else kept
