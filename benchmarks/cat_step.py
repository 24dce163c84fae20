"""What cascade-aware training costs per step: CAT-Xent with stored bits against plain Xent.

    python benchmarks/cat_step.py

Both run the training loop's own compiled dispatch on the demo's small model, batch and sequence
length, with random rows. Compilation is not timed; the two arms take turns, and the median of
the pairwise ratios counts. Goal: at most 1.05.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable

import jax
import numpy as np

from cat.config import ARMS, Config
from cat.mesh import make_mesh, shard_batch
from cat.step import State, dispatch, fresh, skeleton, start
from cat.types import Batch, Teacher

VOCABULARY, TOKENS, PROMPT, RESPONSE, REPEATS = 45, 32, 16, 8, 21
CONFIG = Config()
OPTIMIZER = CONFIG.arm_train
STEPS = OPTIMIZER.steps_per_dispatch


def random_batch() -> Batch:
    rng = np.random.default_rng(0)
    shape = (STEPS, OPTIMIZER.batch_size, TOKENS)
    time_T = np.arange(TOKENS)
    real = time_T < PROMPT + RESPONSE - 1
    response = real & (time_T >= PROMPT - 1)
    tokens, targets = rng.integers(4, VOCABULARY, (2, *shape), dtype=np.int32)
    mask = np.broadcast_to(response, shape).astype(np.float32)
    positions = np.broadcast_to(np.where(real, time_T, 0), shape).astype(np.int32)
    segments = np.broadcast_to(real, shape).astype(np.int32)
    none = np.zeros((*shape, 0))
    bits = Teacher(rng.random(shape) < 0.7, none.astype(np.int32), none.astype(np.float32))
    return Batch(tokens, targets, mask, positions, segments, bits)


def repeat(arm: str, batch: Batch) -> Callable[[], float]:
    """A function that runs one dispatch of the arm and returns its seconds."""
    model = dataclasses.replace(CONFIG.small, vocab_size=VOCABULARY)
    run = functools.partial(
        dispatch,
        key=jax.random.key(0),
        large=None,
        large_graph=None,
        graph=skeleton(model),
        frozen=None,
        optimizer=OPTIMIZER,
        arm=ARMS[arm],
        response_width=RESPONSE,
    )
    state: list[State] = [start(fresh(model, 0), OPTIMIZER)]

    def once() -> float:
        began = time.perf_counter()
        state[0], metrics = run(state[0], batch)
        jax.block_until_ready((state, metrics))
        return time.perf_counter() - began

    once()
    return once


def main() -> None:
    with jax.set_mesh(make_mesh(data=1)):
        batch = shard_batch(random_batch(), axis=1)
        xent = repeat("xent", batch._replace(teacher=None))
        cat = repeat("cat_xent", batch)
        pairs = []
        for i in range(REPEATS):  # who goes first alternates, too
            a, b = (xent(), cat()) if i % 2 else (cat(), xent())[::-1]
            pairs.append((a, b))
    for name, seconds in zip(("xent", "cat_xent"), zip(*pairs, strict=True), strict=True):
        each = statistics.median(seconds) / STEPS
        print(f"{name:9} {each * 1e3:6.2f} ms/step  {1 / each:6.0f} steps/s")
    ratio = statistics.median(b / a for a, b in pairs)
    print(f"ratio     {ratio:.3f}  (median of {REPEATS} pairs, {STEPS} steps each; goal <= 1.05)")


if __name__ == "__main__":
    main()
