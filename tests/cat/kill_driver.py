"""Trains a tiny model and, where asked, kills itself without warning; ``test_kill`` runs it.

    python kill_driver.py FOLDER CACHE STEPS DISPATCH DELAY

FOLDER is the run's; after DISPATCH dispatches of this process (0 = never) and DELAY seconds it
sends itself SIGKILL. At its end it writes the parameters to FOLDER/params.npz.
"""

import dataclasses
import os
import signal
import sys
import threading
from pathlib import Path

import conftest  # noqa: F401  the same numerics as the other tests
import jax
import numpy as np

from cat import train
from cat.config import ArmConfig, ModelConfig, OptimizerConfig
from cat.data import Rows
from cat.example import Example
from cat.integrity import named
from cat.mesh import make_mesh

MODEL = ModelConfig(width=8, layers=1, heads=2, kv_heads=1, head_dim=4, ffn=16, vocab_size=14)
OPTIMIZER = OptimizerConfig(
    batch_size=8, warmup_steps=2, steps_per_dispatch=4, checkpoint_every=4,
    validate_every=16, select="best",
)  # fmt: skip


def rows(count: int, seed: int) -> Rows:
    """Random tokens: the loss of a random mask draws a new key at each step."""
    rng, shape = np.random.default_rng(seed), (count, 12)
    tokens, targets = rng.integers(4, 14, (2, *shape), dtype=np.int32)
    positions = np.broadcast_to(np.arange(12, dtype=np.int32), shape)
    mask = (positions >= 5).astype(np.float32)
    lengths = np.full((2, count), 6, np.int32)
    examples = [Example(str(i), "noise", "", "") for i in range(count)]
    ones = np.ones(shape, np.int32)
    return Rows(tokens, targets, mask, positions, ones, *lengths, examples)


def main(folder: Path, cache: str, steps: int, dispatch: int, delay: float) -> None:
    jax.config.update("jax_enable_compilation_cache", True)
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    done, optimizer = 0, dataclasses.replace(OPTIMIZER, steps=steps)

    def progress(count: int, note: str) -> None:
        nonlocal done
        done += not note.startswith("resumed")
        if dispatch and done == dispatch:
            threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()

    with jax.set_mesh(make_mesh(data=1)):
        params = train.train(
            MODEL, optimizer, ArmConfig(mask="small_hit"), rows(64, 0), folder=folder,
            validation=rows(10, 1), progress=progress,
        )  # fmt: skip
    np.savez(folder / "params.npz", **named(jax.device_get(params)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:5]), float(sys.argv[5]))
