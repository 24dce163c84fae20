"""Training: one compiled dispatch of many optimiser steps, a log line per step, exact resume.

A run is a function of its arguments. Stopped anywhere and started again, it ends with the same
bits as one that was never stopped.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array

from cat import checkpoints
from cat.config import ArmConfig, LoraConfig, ModelConfig, OptimizerConfig, fingerprint, to_dict
from cat.data import Rows, batches
from cat.lora import adapt, split
from cat.mesh import shard_batch
from cat.models.decoder import Decoder
from cat.step import State, dispatch, fresh, skeleton, start
from cat.teacher import needs_hits, needs_probabilities
from cat.types import Batch, Teacher
from routers.errors import InputError
from routers.files import written

LOG = "metrics.jsonl"
Progress = Callable[[int, str], None]


def train(
    model_config: ModelConfig,
    optimizer: OptimizerConfig,
    arm: ArmConfig,
    rows: Rows,
    *,
    folder: Path,
    teacher: Teacher | None = None,
    large: Decoder | None = None,
    init: Decoder | None = None,
    lora: LoraConfig | None = None,
    progress: Progress = lambda count, note: None,
) -> Any:
    """Fine-tune a small model; returns its parameters, also in ``folder/checkpoints``.

    ``folder/metrics.jsonl`` gets one line per step: step (from 1), loss (nats per token),
    keep_rate, response tokens by (small hit, large hit) as n11, n10, n01, n00 (null without a
    large model), grad_norm (before clipping), learning_rate, tokens_per_s (wall, without pads;
    the same for the steps of a dispatch).

    Use inside ``jax.set_mesh``. A folder with checkpoints is resumed; a finished run returns at
    once.

    Args:
        teacher: stored signals of the same rows, for arms with ``teacher="stored"``.
        large: the large model itself, for arms with ``teacher="live"``.
        init: the model to start from; None = fresh, from ``optimizer.seed``.
        lora: train low-rank adapters of ``init`` instead of its parameters; they are what is
            returned and kept.
        progress: called with (steps done since the last call, note) after each dispatch.

    Raises:
        InputError: the arm needs signals that are not given; the folder holds another run; the
            loss stopped being a number.
        KeyboardInterrupt: on Ctrl-C or SIGTERM, after a checkpoint at the end of the dispatch.
    """
    if jax.sharding.get_mesh().empty:
        raise ValueError("train works on a mesh: wrap it in jax.set_mesh(cat.mesh.make_mesh())")
    _check_signals(arm, rows, teacher, large)
    live = arm.teacher == "live"
    checkpoints.claim(
        folder / checkpoints.RECIPE,
        _ingredients(
            model_config, optimizer, arm, rows, nnx.state(large) if live else teacher, init
        )
        | ({} if lora is None else {"lora": to_dict(lora)}),
    )
    data = iter(
        batches(
            rows,
            batch_size=optimizer.batch_size,
            steps=optimizer.steps,
            steps_per_dispatch=optimizer.steps_per_dispatch,
            seed=optimizer.seed,
            teacher=None if live else teacher,
        )
    )
    graph, params, frozen = _trained(model_config, optimizer, init, lora)
    run = functools.partial(
        dispatch,
        key=jax.random.key(optimizer.seed),
        large=nnx.state(large) if live else None,
        large_graph=nnx.graphdef(large) if live else None,
        graph=graph,
        frozen=frozen,
        optimizer=_compiled_part(optimizer),
        arm=arm,
        response_width=int(np.count_nonzero(rows.mask, axis=1).max()),
    )
    state = start(params, optimizer)
    with checkpoints.opened(folder) as checkpointer:
        found = checkpoints.restore(checkpointer, state.params, state[1:], data)
        state = state if found is None else State(found[0], *found[1])
        _cut(folder / LOG, int(state.step))
        if state.step:
            progress(int(state.step), "resumed")
        return _loop(run, state, data, checkpointer, optimizer, folder / LOG, progress).params


def _trained(
    model_config: ModelConfig,
    optimizer: OptimizerConfig,
    init: Decoder | None,
    lora: LoraConfig | None,
) -> tuple[Any, Any, Any]:
    """(graph, what is trained, what is frozen): all parameters, or adapters of ``init``."""
    if lora is None:
        params = fresh(model_config, optimizer.seed) if init is None else nnx.state(init)
        return skeleton(model_config), params, None
    if init is None:
        raise InputError("lora adapts a model that exists; give a checkpoint, or set lora.rank 0")
    return split(adapt(init, lora, optimizer.seed))


def _loop(
    run: Callable[..., tuple[State, dict[str, Array]]],
    state: State,
    data: Iterator[Batch],
    checkpointer: Any,
    optimizer: OptimizerConfig,
    log: Path,
    progress: Progress,
) -> State:
    """Dispatch until the last step: log, checkpoint when due, stop only between dispatches."""
    done = saved = int(state.step)

    def save() -> None:
        checkpoints.save(checkpointer, done, state.params, state[1:], data)

    with _deferred_signals() as stopped:
        while done < optimizer.steps:
            began, batch = time.perf_counter(), next(data)
            state, metrics = run(state, shard_batch(batch, axis=1))
            lines = _lines(done, metrics, batch, began)
            _refuse_nan(lines)
            _append(log, lines)
            done += len(lines)
            if done // optimizer.checkpoint_every > saved // optimizer.checkpoint_every or (
                done == optimizer.steps
            ):
                save()
                saved = done
            try:
                last = lines[-1]
                progress(len(lines), f"loss {last['loss']:.3f} keep {last['keep_rate']:.2f}")
                if stopped:
                    raise KeyboardInterrupt
            except KeyboardInterrupt:
                if saved != done:
                    save()
                raise
    return state


def _compiled_part(optimizer: OptimizerConfig) -> OptimizerConfig:
    """Without what the compiled step does not read, so that seeds share one compilation."""
    unread = {"seed": 0, "batch_size": 0, "steps_per_dispatch": 0, "checkpoint_every": 0}
    return dataclasses.replace(optimizer, **unread)


def _check_signals(
    arm: ArmConfig, rows: Rows, teacher: Teacher | None, large: Decoder | None
) -> None:
    """Refuse an arm without the large model's signals it needs, before anything is compiled."""
    if arm.teacher == "live":
        if large is None:
            raise InputError("arm.teacher is live but no large model is given; pass large=")
        return
    wanted = f"loss {arm.loss} with mask {arm.mask} needs the large model's"
    if teacher is None and (needs_hits(arm) or needs_probabilities(arm)):
        raise InputError(f"{wanted} signals; store them and pass teacher=, or set teacher=live")
    if teacher is None:
        return
    if needs_probabilities(arm) and teacher.topk_ids.shape[-1] == 0:
        raise InputError(f"{wanted} probabilities; set teacher_topk > 0 or teacher=live")
    if teacher.hit.shape != rows.targets.shape:
        raise InputError(
            f"teacher signals are for rows {teacher.hit.shape}, the rows are "
            f"{rows.targets.shape}; compute them on these rows"
        )


def _ingredients(
    model_config: ModelConfig,
    optimizer: OptimizerConfig,
    arm: ArmConfig,
    rows: Rows,
    teacher: Any,  # Teacher, or the parameters of a live one
    init: Decoder | None,
) -> dict[str, Any]:
    """What the result depends on, by name; arrays as fingerprints."""

    def digest(tree: Any) -> str:
        return fingerprint(*[np.asarray(leaf) for leaf in jax.tree.leaves(tree)])

    named = {"model": model_config, "optimizer": optimizer, "arm": arm}
    return {name: to_dict(part) for name, part in named.items()} | {
        "rows": digest((rows.tokens, rows.targets, rows.mask)),
        "teacher": None if teacher is None else digest(teacher),
        "init": None if init is None else digest(nnx.state(init)),
    }


def _lines(
    done: int, metrics: dict[str, Array], batch: Batch, began: float
) -> list[dict[str, Any]]:
    """One log line per step of a dispatch; waits for the device."""
    columns = {name: np.asarray(column).tolist() for name, column in metrics.items()}
    seconds = time.perf_counter() - began
    speed = round(np.count_nonzero(batch.segments) / seconds)
    steps = range(len(columns["loss"]))
    unknown = dict.fromkeys(("n11", "n10", "n01", "n00"))
    return [
        {"step": done + i + 1, **unknown}
        | {name: column[i] for name, column in columns.items()}
        | {"tokens_per_s": speed}
        for i in steps
    ]


def _refuse_nan(lines: list[dict[str, Any]]) -> None:
    """Stop at the first step whose loss or gradient is not a number."""
    for line in lines:
        if not np.isfinite([line["loss"], line["grad_norm"]]).all():
            raise InputError(
                f"step {line['step']}: loss {line['loss']}, gradient norm {line['grad_norm']}; "
                "lower the learning rate or raise warmup_steps"
            )


def _append(log: Path, lines: list[dict[str, Any]]) -> None:
    """Add lines to the log; on disk before any checkpoint that includes them."""
    with log.open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def _cut(log: Path, step: int) -> None:
    """Drop the lines after a checkpoint's step: the resumed run writes them again."""
    if not log.exists():
        return
    kept = log.read_text().splitlines(keepends=True)[:step]
    with written(log) as temporary:
        temporary.write_text("".join(kept))


@contextmanager
def _deferred_signals() -> Iterator[list[int]]:
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
