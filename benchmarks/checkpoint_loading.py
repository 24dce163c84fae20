"""Loading a checkpoint: seconds here against ``from_pretrained`` of transformers.

    python benchmarks/checkpoint_loading.py

Needs transformers and torch beside the project's own packages. Both sides load the checkpoint of
``checkpoint_memory.py`` in one process on the CPU, one after the other; imports are not counted,
the files are in the kernel's cache, and the median of the repetitions counts. A second column
also reads every parameter once, so that a side that only maps the file pays for it there.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from checkpoint_memory import CASES, make
from flax import nnx

from cat.mesh import make_mesh
from cat.models import huggingface

REPEATS, GOAL = 5, 1.5
BITS = {"float32": "int32", "bfloat16": "int16"}


def ours(folder: Path, dtype: str) -> list[np.ndarray]:
    """The bits of every parameter, where they lie."""
    state = nnx.state(huggingface.load(folder, dtype=dtype))
    return [np.asarray(leaf).view(BITS[dtype]) for leaf in jax.tree.leaves(state)]


def theirs(folder: Path, dtype: str) -> list[np.ndarray]:
    """The same of the model in transformers."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    bits = getattr(torch, BITS[dtype])
    return [p.detach().view(bits).numpy() for p in model.parameters()]


def read_once(parameters: list[np.ndarray]) -> int:
    """Every number looked at, by the same code on both sides."""
    return max(int(p.max()) for p in parameters)


def seconds(load: Callable[[], list[np.ndarray]]) -> tuple[float, float]:
    """To load, and to load and read once."""
    start = time.perf_counter()
    parameters = load()
    loaded = time.perf_counter() - start
    read_once(parameters)
    return loaded, time.perf_counter() - start


def measure(folder: Path, dtype: str) -> str:
    """A line of the table."""
    sides = [functools.partial(side, folder, dtype) for side in (ours, theirs)]
    sizes = {sum(p.size for p in side()) for side in sides}  # also warms both up
    assert len(sizes) == 1, f"the sides hold different numbers of parameters: {sizes}"
    times = [[seconds(side) for side in sides] for _ in range(REPEATS)]
    (us, us_read), (them, them_read) = (
        [statistics.median(column) for column in zip(*side, strict=True)]
        for side in zip(*times, strict=True)
    )
    return (
        f"{us:8.2f} {them:12.2f} {us / them:7.2f}x"
        f" {us_read:12.2f} {them_read:12.2f} {us_read / them_read:7.2f}x"
    )


def main() -> None:
    if not all(map(importlib.util.find_spec, ("transformers", "torch"))):
        raise SystemExit("checkpoint_loading.py: needs transformers and torch; skipped")
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)
    print(
        f"transformers {transformers.__version__}, torch {torch.__version__}, jax {jax.__version__}"
        f"; {cores} cores; goal: ratio at most {GOAL}; median of {REPEATS}\n"
        "stored    loaded      ours s transformers s  ratio  ours, read s  theirs, read s  ratio"
    )
    with jax.set_mesh(make_mesh(data=1)):
        for stored, loaded in CASES:
            with tempfile.TemporaryDirectory() as folder:
                make(Path(folder), stored)
                line = measure(Path(folder) / "model", loaded)
            print(f"{stored:<9} {loaded:<9} {line}", flush=True)


if __name__ == "__main__":
    main()
