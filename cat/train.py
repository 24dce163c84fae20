"""Training: one compiled dispatch of many optimiser steps, a log line per step, exact resume.

A run is a function of its arguments. Stopped anywhere and started again, it ends with the same
bits as one that was never stopped.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from cat import checkpoints, hosts, masks
from cat.config import (
    ArmConfig,
    LoraConfig,
    ModelConfig,
    OptimizerConfig,
    check_selection,
    fingerprint,
    to_dict,
)
from cat.data import batches
from cat.loop import At, Loop, Progress
from cat.lora import adapt, split
from cat.mesh import row_count, to_host
from cat.mfu import training_flops
from cat.models.decoder import Decoder
from cat.profiling import Trace
from cat.saver import Kept, Saver
from cat.selection import validation_loss
from cat.source import Signals, Source, taught
from cat.step import dispatch, fresh, fresh_shapes, shapes, skeleton, start
from cat.teacher import needs_hits, needs_probabilities
from cat.types import Teacher
from cat.watch import LOG, Sink, cut
from routers.errors import InputError


def train(
    model_config: ModelConfig,
    optimizer: OptimizerConfig,
    arm: ArmConfig,
    rows: Source,
    *,
    folder: Path,
    teacher: Teacher | Signals | None = None,
    large: Decoder | None = None,
    init: Decoder | None = None,
    lora: LoraConfig | None = None,
    validation: Source | None = None,
    sinks: Sequence[Sink] = (),
    profile: str = "",
    progress: Progress = lambda count, note: None,
) -> Any:
    """Fine-tune a small model; returns its parameters, also in ``folder/checkpoints``.

    ``folder/metrics.jsonl`` gets one line per step: step (from 1), loss (nats per token),
    keep_rate (where there are several tasks, keep_rates of each), response tokens by (small hit,
    large hit) as n11, n10, n01, n00 (null without a large model), grad_norm (before clipping),
    learning_rate, and by the wall clock, the same for the steps of a dispatch: tokens_per_s
    (without pads), step_s, data_wait_s (the part of step_s spent waiting for rows), mfu
    (``cat.mfu``; null on a device without a published peak). With ``on_nan="skip"`` also skipped
    (so far), with ``validate_every`` validation_loss (null where it was not due). null stands
    for what is not a number.

    Use inside ``jax.set_mesh``. A folder with checkpoints is resumed; a finished run returns at
    once.

    Args:
        rows: the training rows, in memory or on disk.
        teacher: stored signals of the same rows, for arms with ``teacher="stored"``; None where
            the rows carry them already.
        large: the large model itself, for arms with ``teacher="live"``.
        init: the model to start from; None = fresh, from ``optimizer.seed``.
        lora: train low-rank adapters of ``init`` instead of its parameters; they are what is
            returned and kept.
        validation: rows for ``optimizer.validate_every``; the rule is ``cat.selection``'s.
        sinks: each is called with every log line.
        profile: first and last step to trace into ``folder/profile``, e.g. ``10:15``.
        progress: called with (steps done since the last call, note) after each dispatch.

    Raises:
        InputError: the arm needs signals that are not given; the folder holds another run, or
            checkpoints of which none is whole; the disk is full; the loss stopped being a number
            (the step's batch is in ``folder/bad_step_<step>.npz``).
        KeyboardInterrupt: on Ctrl-C or SIGTERM, after a checkpoint at the end of the dispatch.
    """
    if jax.sharding.get_mesh().empty:
        raise ValueError("train works on a mesh: wrap it in jax.set_mesh(cat.mesh.make_mesh())")
    live = arm.teacher == "live"
    source = rows if live else taught(rows, teacher)
    _check_signals(arm, source, large)
    _check_validation(optimizer, validation)
    _check_parts(optimizer)
    judged = validation if optimizer.validate_every else None
    checkpoints.claim(
        folder / checkpoints.RECIPE,
        _ingredients(model_config, optimizer, arm, source, nnx.state(large) if live else None, init)
        | ({} if lora is None else {"lora": to_dict(lora)})
        | ({} if judged is None else {"validation": judged.fingerprint}),
    )
    data = iter(
        batches(
            source,
            batch_size=optimizer.batch_size,
            steps=optimizer.steps,
            steps_per_dispatch=optimizer.steps_per_dispatch,
            seed=optimizer.seed,
            process=jax.process_index(),
            processes=jax.process_count(),
        )
    )
    graph, given, frozen = _trained(model_config, init, lora, optimizer.seed)
    run = functools.partial(
        dispatch,
        key=jax.random.key(optimizer.seed),
        large=nnx.state(large) if live else None,
        large_graph=nnx.graphdef(large) if live else None,
        graph=graph,
        frozen=frozen,
        optimizer=_compiled_part(optimizer),
        arm=arm,
        response_width=source.response_width,
        families=len(source.families),
    )
    flops = functools.partial(
        training_flops,
        model_config,
        large=large.config if live and large is not None else None,
        adapters=lora is not None,
    )
    judge = (
        None
        if judged is None
        else functools.partial(
            validation_loss,
            source=judged,
            graph=graph,
            frozen=frozen,
            batch_size=optimizer.batch_size // optimizer.accumulate,
        )
    )
    trace = Trace(profile, folder, progress)
    with checkpoints.opened(folder) as checkpointer:
        saver = Saver(checkpointer)
        parts = (run, data, optimizer, folder, saver, flops, judge, sinks, trace, progress)
        loop = Loop(*parts, families=source.families)
        # No name here holds the arrays a run begins with: the loop gives their memory back.
        at = loop.run(_begun(loop, checkpointer, model_config, given))
    return at.state.params if at.best.params is None else at.best.params


def _begun(loop: Loop, checkpointer: Any, model_config: ModelConfig, given: Any) -> At:
    """Where the newest checkpoint is, else step 0; only one of the two states is ever made."""
    like = fresh_shapes(model_config) if given is None else given
    blank = checkpoints.placed(shapes(like, loop.optimizer))
    found = checkpoints.restore(checkpointer, blank.params, blank[1:], loop.data)
    if found is None:
        begun = fresh(model_config, loop.optimizer.seed) if given is None else given
        at = At(start(begun, loop.optimizer), 0)
    else:
        at = At.of(found)
    if hosts.first():
        cut(loop.folder / LOG, at.step)
    if found is not None:
        loop.progress(at.step, _resumed(found))
    return at


def _check_parts(optimizer: OptimizerConfig) -> None:
    """Refuse a batch whose parts do not divide over the devices."""
    rows, parts = optimizer.batch_size, optimizer.accumulate
    if rows % (parts * row_count()):
        raise InputError(
            f"batch_size {rows} in {parts} part(s) does not divide over {row_count()} devices; "
            f"give a multiple of {parts * row_count()}, or a smaller mesh (data x fsdp)"
        )


def _check_validation(optimizer: OptimizerConfig, validation: Source | None) -> None:
    """Refuse validations without rows, and choices among none."""
    check_selection(optimizer, "optimizer")
    if optimizer.validate_every and validation is None:
        raise InputError(
            f"validate_every={optimizer.validate_every} but no validation rows; pass validation="
        )


def _resumed(found: Kept) -> str:
    """The note of a run that goes on; damaged checkpoints are named."""
    names = ", ".join(map(str, found.damaged))
    return f"resumed; checkpoint {names} is damaged, set aside" if names else "resumed"


def _trained(
    model_config: ModelConfig, init: Decoder | None, lora: LoraConfig | None, seed: int
) -> tuple[Any, Any, Any]:
    """(graph, what is trained, what is frozen): all parameters, or adapters of ``init``.

    What is trained is None where it is fresh: drawn only if no checkpoint is there.
    """
    if lora is None:
        return skeleton(model_config), None if init is None else nnx.state(init), None
    if init is None:
        raise InputError("lora adapts a model that exists; give a checkpoint, or set lora.rank 0")
    return split(adapt(init, lora, seed))


def _compiled_part(optimizer: OptimizerConfig) -> OptimizerConfig:
    """Without what the compiled step does not read, so that seeds share one compilation."""
    counts = ("seed", "batch_size", "steps_per_dispatch", "checkpoint_every", "validate_every")
    unread: dict[str, Any] = dict.fromkeys((*counts, "patience"), 0)
    return dataclasses.replace(optimizer, select="last", **unread)


def _check_signals(arm: ArmConfig, source: Source, large: Decoder | None) -> None:
    """Refuse an arm without the signals it needs, before anything is compiled."""
    _check_mask(arm, source)
    if arm.teacher == "live":
        if large is None:
            raise InputError("arm.teacher is live but no large model is given; pass large=")
        return
    wanted = f"loss {arm.loss} with mask {arm.mask} needs the large model's"
    told = source.signals.get("teacher")
    if told is None and (needs_hits(arm) or needs_probabilities(arm)):
        raise InputError(f"{wanted} signals; store them and pass teacher=, or set teacher=live")
    if told is not None and needs_probabilities(arm) and not told.topk:
        raise InputError(f"{wanted} probabilities; set teacher_topk > 0 or teacher=live")


def _check_mask(arm: ArmConfig, source: Source) -> None:
    """Refuse a mask whose stored signals are not all there."""
    reads = masks.reads(arm.mask)
    if "before" in reads and "before" not in source.signals:
        raise InputError(
            f"mask {arm.mask} needs the small model's signals from before this training; store "
            "them and pass rows=taught(rows, signals, 'before')"
        )
    if not arm.mask_temperature:
        return
    first = source.batch(np.arange(1))
    stored = {"before": first.before, "large": None if arm.teacher == "live" else first.teacher}
    for word, told in stored.items():
        if word in reads and told is not None and told.logprob is None:
            raise InputError(
                f"mask {arm.mask} with mask_temperature needs the log-probabilities of '{word}'; "
                "store its signals with logprob=True"
            )


def _ingredients(
    model_config: ModelConfig,
    optimizer: OptimizerConfig,
    arm: ArmConfig,
    source: Source,
    live: Any,  # the parameters of a live teacher
    init: Decoder | None,
) -> dict[str, Any]:
    """What the result depends on, by name; arrays as fingerprints."""

    def digest(tree: Any) -> str:
        return fingerprint(*[to_host(leaf) for leaf in jax.tree.leaves(tree)])

    stored = {name: told.fingerprint for name, told in source.signals.items()}
    told = {"teacher": None, **stored} | ({} if live is None else {"teacher": digest(live)})
    named = {"model": model_config, "optimizer": optimizer, "arm": arm}
    return {name: to_dict(part) for name, part in named.items()} | {
        "rows": source.fingerprint,
        **told,
        "init": None if init is None else digest(nnx.state(init)),
    }
