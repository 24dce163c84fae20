"""The loop around the compiled dispatch: log, validate, save, stop only between dispatches."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from cat import hosts, watch
from cat.config import OptimizerConfig
from cat.faults import SKIPS, deferred_signals, refuse_step, stored
from cat.mesh import shard_batch
from cat.profiling import Trace
from cat.saver import Kept, Saver
from cat.selection import Best
from cat.step import State
from cat.types import Batch
from cat.watch import Line, Sink, Spent

Progress = Callable[[int, str], None]


class At(NamedTuple):
    """Where a run is, between two dispatches."""

    state: State
    step: int  # optimiser steps done
    best: Best = Best()
    skipped: int = 0  # steps left out because they were not numbers
    streak: int = 0  # the last so many of them in a row

    def kept(self) -> Kept:
        """What a checkpoint of it holds."""
        best = self.best._replace(params=None)._asdict()
        notes = {"best": best, "skipped": self.skipped, "streak": self.streak}
        return Kept(self.state.params, self.state[1:], notes, self.best.params)

    @classmethod
    def of(cls, kept: Kept) -> At:
        """What a checkpoint held."""
        state, notes = State(kept.params, *kept.rest), dict(kept.notes)
        best = Best(**notes.pop("best", {}))._replace(params=kept.best)
        return cls(state, int(state.step), best, **notes)


@dataclasses.dataclass(frozen=True)
class Loop:
    """One training run, bound to what it reads and writes."""

    dispatch: Callable[[State, Batch], tuple[State, dict[str, Any]]]
    data: Iterator[Batch]
    optimizer: OptimizerConfig
    folder: Path
    saver: Saver
    flops: Callable[[Batch], float]  # of training on a batch
    judge: Callable[[Any], float] | None  # parameters to validation loss
    sinks: Sequence[Sink]
    trace: Trace
    progress: Progress
    families: tuple[str, ...] = ()

    def finished(self, at: At) -> bool:
        """Whether there is nothing left to do."""
        patience = self.optimizer.patience
        return at.step >= self.optimizer.steps or bool(patience and at.best.since >= patience)

    def run(self, at: At) -> At:
        """Dispatch until finished; the last checkpoint is on disk when this returns or raises."""
        saved = at.step
        with deferred_signals() as stopped:
            try:
                while not self.finished(at):
                    before, at, last = at.step, *self._dispatch(at)
                    if self._due(before, at, self.optimizer.checkpoint_every):
                        saved = self._save(at)
                    self.saver.check()
                    try:
                        self.progress(at.step - before, watch.note(last))
                        if hosts.any_says(bool(stopped)):
                            raise KeyboardInterrupt
                    except KeyboardInterrupt:
                        if saved != at.step:
                            self._save(at)
                        raise
            finally:
                self.trace.close(at.step)
                self.saver.wait()
            if hosts.any_says(bool(stopped)):  # a signal while the last checkpoint was written
                raise KeyboardInterrupt
        return at

    def _due(self, before: int, at: At, every: int) -> bool:
        """Whether a multiple of ``every`` was passed since ``before``, or this is the end."""
        return at.step // every > before // every or self.finished(at)

    def _save(self, at: At) -> int:
        if hosts.first():
            with stored(self.folder, watch.LOG, "it continues from its last checkpoint"):
                watch.settle(self.folder / watch.LOG)
        self.saver.save(at.step, at.kept(), self.data)
        return at.step

    def _dispatch(self, at: At) -> tuple[At, Line]:
        """One compiled call, and its last log line."""
        began, batch = time.perf_counter(), next(self.data)
        waited, count = time.perf_counter() - began, len(batch.tokens)
        self.trace.before(at.step + 1, at.step + count)
        state, metrics = self.dispatch(at.state, shard_batch(batch, axis=1))
        metrics = jax.device_get(metrics)
        spent = Spent(time.perf_counter() - began, waited, self.flops(batch))
        self.trace.after(at.step + count)
        found = watch.lines(at.step, metrics, batch, spent, self.families)
        at = at._replace(state=state, step=at.step + count)
        at, failed = self._counted(at, found)
        if failed is None:
            at = self._judged(at, found)
        kept = found if failed is None else found[: failed + 1]
        if hosts.first():
            with stored(self.folder, watch.LOG, "it continues from its last checkpoint"):
                watch.append(self.folder / watch.LOG, kept)
                for sink in self.sinks:
                    for line in kept:
                        sink(line)
        if failed is not None:
            why = f", {SKIPS} in a row" if self.optimizer.on_nan == "skip" else ""
            step = jax.tree.map(lambda column: column[failed], batch)
            raise refuse_step(self.folder, found[failed], step, why)
        return at, found[-1]

    def _counted(self, at: At, lines: list[Line]) -> tuple[At, int | None]:
        """With the steps that were not numbers counted; the index of one that ends the run."""
        skips = self.optimizer.on_nan == "skip"
        for i, line in enumerate(lines):
            bad = line["loss"] is None or line["grad_norm"] is None
            streak = at.streak + 1 if bad else 0
            at = at._replace(skipped=at.skipped + bad, streak=streak)
            if skips:
                line["skipped"] = at.skipped
            if bad and (not skips or streak >= SKIPS):
                return at, i
        return at, None

    def _judged(self, at: At, lines: list[Line]) -> At:
        """Validated where that is due; the loss goes into the dispatch's last line."""
        if self.judge is None:
            return at
        for line in lines:
            line["validation_loss"] = None
        every, before = self.optimizer.validate_every, at.step - len(lines)
        if at.step // every == before // every and at.step < self.optimizer.steps:
            return at
        loss = self.judge(at.state.params)
        lines[-1]["validation_loss"] = watch.number(loss)
        kept = at.state.params if self.optimizer.select == "best" else None
        return at._replace(best=at.best.after(at.step, loss, kept))
