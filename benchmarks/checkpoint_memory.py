"""Memory of the host while a checkpoint is loaded and exported, against the model's own size.

    python benchmarks/checkpoint_memory.py

Each line is a process of its own: a random checkpoint with the proportions of Gemma 3 270M (the
embedding is 63 % of the bytes) is loaded, then exported, on one CPU device, where the parameters
are in the host's memory too: 1.00 is what nobody can go below. A thread reads the anonymous
resident memory (``RssAnon`` of Linux) every millisecond; what the process held before loading is
taken off. Pages of the files themselves belong to the kernel's cache and are not counted.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

STATUS = Path("/proc/self/status")
GOAL = 1.2
CASES = [("bfloat16", "float32"), ("float32", "float32"), ("bfloat16", "bfloat16")]
CONFIG = {
    "architectures": ["Gemma3ForCausalLM"],
    "model_type": "gemma3_text",
    "vocab_size": 131_072,
    "hidden_size": 320,
    "num_hidden_layers": 18,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 128,
    "intermediate_size": 1024,
    "sliding_window": 512,
}


def anonymous() -> int:
    """Bytes of anonymous memory that this process holds."""
    for line in STATUS.read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise SystemExit("checkpoint_memory.py: the kernel reports no RssAnon; needs Linux")


@contextlib.contextmanager
def peak() -> Iterator[list[int]]:
    """A list that holds, at the end, the most bytes held while the block ran."""
    found, stop = [anonymous()], threading.Event()

    def watch() -> None:
        while not stop.wait(0.001):
            found[0] = max(found[0], anonymous())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()
        found[0] = max(found[0], anonymous())


def make(folder: Path, dtype: str) -> None:
    """A random checkpoint of that type in ``folder / "model"``."""
    import jax
    import numpy as np
    from flax import nnx

    from cat.mesh import make_mesh
    from cat.models import huggingface
    from cat.models.decoder import Decoder

    (folder / "like").mkdir()
    (folder / "like" / huggingface.CONFIG).write_text(json.dumps(CONFIG))
    config, rng = huggingface.read_config(folder / "like"), np.random.default_rng(0)
    graph, shapes = nnx.split(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0))))
    params = jax.tree.map(
        lambda s: jax.numpy.asarray(rng.standard_normal(s.shape, s.dtype)), shapes
    )
    with jax.set_mesh(make_mesh(data=1)):
        model = nnx.merge(graph, params)
        huggingface.save(model, folder / "model", like=folder / "like", dtype=dtype)


def child(folder: Path, dtype: str) -> None:
    """Print the ratios of loading and exporting."""
    import jax
    from flax import nnx

    from cat.mesh import make_mesh
    from cat.models import huggingface

    with jax.set_mesh(make_mesh(data=1)):
        jax.block_until_ready(jax.numpy.zeros(8))
        huggingface.read_config(folder)
        before = anonymous()
        with peak() as loading:
            start = time.perf_counter()
            model = huggingface.load(folder, dtype=dtype)
            seconds = time.perf_counter() - start
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(nnx.state(model)))
        with peak() as saving:
            huggingface.save(model, folder.parent / "out", like=folder)
    figures = [size, (loading[0] - before) / size, (saving[0] - before) / size, seconds]
    print(json.dumps(figures))


def main() -> None:
    if not STATUS.is_file():
        raise SystemExit("checkpoint_memory.py: needs Linux (/proc/self/status); skipped")
    print(f"goal: at most {GOAL} x the model while loading\n")
    print("stored    loaded     model MB  loading  exporting  seconds")
    for stored, loaded in CASES:
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder), stored)
            command = [sys.executable, __file__, str(Path(folder) / "model"), loaded]
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        size, loading, saving, seconds = json.loads(out.splitlines()[-1])
        print(
            f"{stored:<9} {loaded:<9} {size / 1e6:9.1f} {loading:7.2f}x {saving:9.2f}x"
            f" {seconds:8.2f}",
            flush=True,
        )


if __name__ == "__main__":
    if len(sys.argv) == 3:
        child(Path(sys.argv[1]), sys.argv[2])
    else:
        main()
