"""What an arm costs per step against plain cross-entropy: CAT, distillation, a live teacher.

    python benchmarks/cat_step.py          # the demo's sizes, and those of a small text model
    python benchmarks/cat_step.py text

All run the training loop's own compiled dispatch, random rows. ``cat_xent`` and ``cat_dist`` read
stored signals (hits; the 32 largest log-probabilities); ``cat_xent, live`` runs a large model twice
as wide in the step, and is compared with plain cross-entropy plus that model's forward pass
and hits alone. Compilation is not timed; the arms take turns, and the median of the ratios counts,
by the clock and of processor time. Goals: 1.02, 1.10, and 1.05 of the sum.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cat import losses, response
from cat.config import ARMS, ArmConfig, Config, OptimizerConfig
from cat.mesh import make_mesh, shard_batch
from cat.models.config import ModelConfig
from cat.models.decoder import Decoder
from cat.step import State, dispatch, fresh, skeleton, start
from cat.teacher import forward
from cat.types import Batch, Teacher

REPEATS, KEPT = 9, 32


class Size(NamedTuple):
    """A small model and its batch."""

    model: ModelConfig
    optimizer: OptimizerConfig
    tokens: int
    response: int


DEMO = Config()
TEXT = ModelConfig(width=128, layers=4, heads=4, kv_heads=4, head_dim=32, ffn=384, vocab_size=8_192)
SIZES = {
    "demo": Size(dataclasses.replace(DEMO.small, vocab_size=45), DEMO.arm_train, 32, 8),
    "text": Size(
        TEXT, dataclasses.replace(DEMO.arm_train, batch_size=16, steps_per_dispatch=4), 96, 32
    ),
}
Spent = tuple[float, float]  # wall, processor


def random_batch(size: Size) -> Batch:
    """Rows with stored signals of every kind."""
    rng, vocabulary = np.random.default_rng(0), size.model.vocab_size
    shape = (size.optimizer.steps_per_dispatch, size.optimizer.batch_size, size.tokens)
    time_T = np.arange(size.tokens)
    counted = (time_T >= size.tokens - size.response - 1) & (time_T < size.tokens - 1)
    tokens, targets = rng.integers(4, vocabulary, (2, *shape), dtype=np.int32)
    mask = np.broadcast_to(counted, shape).astype(np.float32)
    positions = np.broadcast_to(time_T, shape).astype(np.int32)
    ids = np.argsort(rng.random((*shape, min(vocabulary, 64))), axis=-1)[..., :KEPT]
    logprob = np.log(np.full((*shape, KEPT), 0.9 / KEPT))
    told = Teacher(rng.random(shape) < 0.7, ids.astype(np.int32), logprob.astype(np.float32))
    return Batch(tokens, targets, mask, positions, np.ones(shape, np.int32), told)


def training(size: Size, arm: ArmConfig, batch: Batch, large: Decoder | None) -> Callable[[], Any]:
    """A function that runs one dispatch of the arm."""
    run = functools.partial(
        dispatch,
        key=jax.random.key(0),
        large=None if large is None else nnx.state(large),
        large_graph=None if large is None else nnx.graphdef(large),
        graph=skeleton(size.model),
        frozen=None,
        optimizer=size.optimizer,
        arm=arm,
        response_width=size.response,
    )
    state: list[State] = [start(fresh(size.model, 0), size.optimizer)]

    def once() -> Any:
        state[0], metrics = run(state[0], batch)
        return state, metrics

    return once


def answering(size: Size, large: Decoder, batch: Batch) -> Callable[[], Any]:
    """A function that computes the large model's hits on all batches of a dispatch."""

    @jax.jit
    def run(model: Decoder, batch: Batch) -> jax.Array:
        def step(carry: None, batch: Batch) -> tuple[None, jax.Array]:
            at_BR = response.places(batch.mask, size.response)
            logits = forward(model, batch, at_BR)
            return carry, losses.hit(logits, response.take(batch.targets, at_BR))

        return jax.lax.scan(step, None, batch)[1]

    return lambda: run(large, batch)


def seconds(run: Callable[[], Any]) -> Spent:
    wall, processor = time.perf_counter(), time.process_time()
    jax.block_until_ready(run())
    return time.perf_counter() - wall, time.process_time() - processor


def main(names: list[str]) -> None:
    for name in names:
        size = SIZES[name]
        sizes = dataclasses.replace(
            size.model, width=2 * size.model.width, heads=2 * size.model.heads,
            kv_heads=2 * size.model.kv_heads, ffn=2 * size.model.ffn,
        )  # fmt: skip
        with jax.set_mesh(make_mesh(data=1)):
            batch = shard_batch(random_batch(size), axis=1)
            large = nnx.merge(skeleton(sizes), fresh(sizes, 1))
            hits = batch.teacher._replace(
                topk_ids=jnp.zeros((*batch.tokens.shape, 0), jnp.int32),
                topk_logprob=jnp.zeros((*batch.tokens.shape, 0)),
            )
            live = dataclasses.replace(ARMS["cat_xent"], teacher="live")
            bare = batch._replace(teacher=None)
            runs = {
                "xent": training(size, ARMS["xent"], bare, None),
                "cat_xent": training(size, ARMS["cat_xent"], batch._replace(teacher=hits), None),
                f"cat_dist, top {KEPT}": training(size, ARMS["cat_dist"], batch, None),
                "cat_xent, live": training(size, live, bare, large),
                "large model alone": answering(size, large, bare),
            }
            for run in runs.values():
                seconds(run)
            spent = {title: [] for title in runs}
            for i in range(REPEATS):  # who goes first alternates, too
                for title, run in list(runs.items())[:: 1 if i % 2 else -1]:
                    spent[title].append(seconds(run))
        show(name, size, spent)


def show(name: str, size: Size, spent: dict[str, list[Spent]]) -> None:
    """Milliseconds a step, and ratios to what each is compared with."""
    steps = size.optimizer.steps_per_dispatch
    xent, large = (np.array(spent[title]) for title in ("xent", "large model alone"))
    for title, pairs in spent.items():
        against = xent + large if title.endswith("live") else xent
        clock, processor = np.median(np.array(pairs) / against, axis=0)
        each = statistics.median(wall for wall, _ in pairs) / steps * 1e3
        print(
            f"{name} {title:20} {each:8.2f} ms/step  ratio {clock:.3f}  processor {processor:.3f}"
        )


if __name__ == "__main__":
    main(sys.argv[1:] or list(SIZES))
