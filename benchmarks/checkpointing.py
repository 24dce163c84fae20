"""What checkpoints cost while training, and what a cold restart costs.

    python benchmarks/checkpointing.py

Time lost: a model of 20 million parameters runs blocks of the training loop's own dispatches,
with one checkpoint in the background and without, in turn. The median of the pairwise
differences is set against 100 steps; a block ends when its checkpoint is on disk, which is an
upper bound of what is lost. Goal: at most 2 %.

Restart: a process resumes a small run from its checkpoint, without and with JAX's persistent
compilation cache; seconds until the first new step by what they go to.
"""

from __future__ import annotations

import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STARTED = time.time()  # before JAX is imported: its import is part of a restart

import grain  # noqa: E402
import jax  # noqa: E402
import numpy as np  # noqa: E402

from cat import checkpoints, train  # noqa: E402
from cat.config import ArmConfig, ModelConfig, OptimizerConfig  # noqa: E402
from cat.data import Rows  # noqa: E402
from cat.example import Example  # noqa: E402
from cat.flops import parameter_count  # noqa: E402
from cat.mesh import make_mesh, shard_batch  # noqa: E402
from cat.saver import Kept, Saver  # noqa: E402
from cat.step import State, dispatch, fresh, skeleton, start  # noqa: E402

MODEL = ModelConfig(
    width=384, layers=8, heads=8, kv_heads=8, head_dim=48, ffn=1152, vocab_size=12_000
)
ROWS, TOKENS, BLOCK, PAIRS = 4, 64, 6, 7
OPTIMIZER = OptimizerConfig(steps=1_000, batch_size=ROWS, steps_per_dispatch=1)


def random_rows(count: int, vocabulary: int) -> Rows:
    rng, shape = np.random.default_rng(0), (count, TOKENS)
    tokens, targets = rng.integers(4, vocabulary, (2, *shape), dtype=np.int32)
    positions = np.broadcast_to(np.arange(TOKENS, dtype=np.int32), shape)
    mask, ones = (positions >= TOKENS // 2).astype(np.float32), np.ones(shape, np.int32)
    lengths = np.full((2, count), TOKENS // 2, np.int32)
    examples = [Example(str(i), "noise", "", "") for i in range(count)]
    return Rows(tokens, targets, mask, positions, ones, *lengths, examples)


def time_lost(folder: Path) -> None:
    """Print seconds a step, what a checkpoint adds, and the share of 100 steps."""
    run = functools.partial(
        dispatch,
        key=jax.random.key(0),
        large=None,
        large_graph=None,
        graph=skeleton(MODEL),
        frozen=None,
        optimizer=OPTIMIZER,
        arm=ArmConfig(),
        response_width=TOKENS // 2,
    )
    batch = shard_batch(random_rows(ROWS, MODEL.vocab_size).batch(np.arange(ROWS)[None]), axis=1)
    state: list[State] = [start(fresh(MODEL, 0), OPTIMIZER)]
    data, saved = iter(grain.MapDataset.range(9).to_iter_dataset()), [0]
    begins = []

    def block(saver: Saver | None) -> float:
        began = time.perf_counter()
        for i in range(BLOCK):
            state[0], metrics = run(state[0], batch)
            jax.block_until_ready((state, metrics))
            if saver is not None and i == 0:
                saved[0] += 1
                at = time.perf_counter()
                saver.save(saved[0], Kept(state[0].params, state[0][1:]), data)
                begins.append(time.perf_counter() - at)
        if saver is not None:
            saver.wait()
        return time.perf_counter() - began

    with checkpoints.opened(folder) as checkpointer:
        saver = Saver(checkpointer)
        block(saver)  # compiles
        begins.clear()
        pairs = []
        for i in range(PAIRS):  # who goes first alternates
            a, b = (block(None), block(saver)) if i % 2 else (block(saver), block(None))[::-1]
            pairs.append((a, b))
    step = statistics.median(a for a, _ in pairs) / BLOCK
    lost = statistics.median(b - a for a, b in pairs)
    print(f"parameters          {parameter_count(MODEL) / 1e6:.1f}M, with AdamW's moments on disk")
    print(f"step                {step * 1e3:.0f} ms")
    print(f"loop stands still   {statistics.median(begins) * 1e3:.0f} ms a checkpoint")
    print(f"lost in all         {lost * 1e3:.0f} ms a checkpoint, median of {PAIRS} pairs")
    print(f"of 100 steps        {lost / (100 * step):.2%}  (goal <= 2 %)")


def resume(folder: Path) -> None:
    """Child: resume, say when what was done, and stop after the first dispatch."""
    moments = {"imports": time.time() - STARTED}

    def progress(count: int, note: str) -> None:
        moments.setdefault("restore" if note == "resumed" else "first step", time.time() - STARTED)
        resumed = "restore" in moments
        if note != "resumed" and (resumed or len(list(folder.glob("checkpoints/?*"))) > 1):
            print(json.dumps(moments), flush=True)
            os._exit(0)  # a run that is not resumed goes on until it has a checkpoint

    size = ModelConfig(vocab_size=64)
    optimizer = OptimizerConfig(steps=1_000, steps_per_dispatch=5, checkpoint_every=5)
    with jax.set_mesh(make_mesh(data=1)):
        train.train(
            size, optimizer, ArmConfig(), random_rows(512, 64), folder=folder, progress=progress
        )


def restarts(folder: Path) -> None:
    """Print the seconds of a cold restart, without and with the cache."""
    print("\nresume to first step, cold       imports  restore  compile, step    total")
    for kept in ("", str(folder / "cache")):
        run = folder / f"run{bool(kept)}"
        chosen = {"JAX_COMPILATION_CACHE_DIR": kept} if kept else {}
        for _ in range(3):  # begins, fills the cache, is timed
            said = subprocess.run(
                [sys.executable, __file__, str(run)],
                env=os.environ | chosen,
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        t = json.loads(said)
        parts = [t["imports"], t["restore"] - t["imports"], t["first step"] - t["restore"]]
        label = "persistent compilation cache" if kept else "no cache"
        print(f"  {label:30} " + "".join(f"{s:8.2f}s" for s in (*parts, t["first step"])))


def main() -> None:
    if len(sys.argv) > 1:
        return resume(Path(sys.argv[1]))
    with tempfile.TemporaryDirectory() as folder:
        with jax.set_mesh(make_mesh(data=1)):
            time_lost(Path(folder))
        restarts(Path(folder))


if __name__ == "__main__":
    main()
