"""What attention block by block costs in time and saves in memory: blockwise against plain.

    python benchmarks/attention.py           # 256 to 4,096 tokens
    python benchmarks/attention.py 128 1024  # the same with other blocks

One attention of one causal row, forward and backward, float32, compiled, on one device. Memory is
what XLA plans beside arguments and results. Compilation is not timed; the two sides take turns,
and the median of the pairwise ratios counts. ``auto`` goes from plain to blockwise where
``cat.models.attention.PLAIN_LIMIT`` says; this table is where the number comes from.
"""

from __future__ import annotations

import functools
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cat.mesh import make_mesh
from cat.models.blockwise import BLOCK, blockwise
from cat.models.plain import Places, attend, visible

HEADS, KV_HEADS, HEAD_DIM, REPEATS = 4, 2, 64, 3
LENGTHS = (256, 512, 1024, 2048, 4096)
SCALE = HEAD_DIM**-0.5


def plain(q: jax.Array, k: jax.Array, v: jax.Array, places: Places) -> jax.Array:
    return attend(q, k, v, visible(places), scale=SCALE)


def compiled(path: Callable[..., jax.Array], arguments: tuple[Any, ...]) -> Any:
    """Output and the gradients of its product with random numbers."""

    def run(q: jax.Array, k: jax.Array, v: jax.Array, places: Places, d: jax.Array) -> Any:
        out, back = jax.vjp(lambda q, k, v: path(q, k, v, places), q, k, v)
        return out, back(d)

    return jax.jit(run).lower(*arguments).compile()


def seconds(run: Any, arguments: tuple[Any, ...]) -> float:
    began = time.perf_counter()
    jax.block_until_ready(run(*arguments))
    return time.perf_counter() - began


def random_row(length: int) -> tuple[Any, ...]:
    rng = np.random.default_rng(0)

    def normal(heads: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=(1, length, heads, HEAD_DIM)), jnp.float32)

    at, real = jnp.arange(length)[None], jnp.ones((1, length), jnp.int32)
    arrays = normal(HEADS), normal(KV_HEADS), normal(KV_HEADS)
    return *arrays, Places(at, real, at, real), normal(HEADS)


def measure(length: int, block: int) -> None:
    arguments = random_row(length)
    by_block = functools.partial(blockwise, scale=SCALE, block=block)
    sides = [compiled(path, arguments) for path in (plain, by_block)]
    for side in sides:
        seconds(side, arguments)  # the first call also allocates
    pairs = [[seconds(side, arguments) for side in sides] for _ in range(REPEATS)]
    a, b = (statistics.median(times) * 1e3 for times in zip(*pairs, strict=True))
    slower = statistics.median(b / a for a, b in pairs)
    x, y = (side.memory_analysis().temp_size_in_bytes / 2**20 for side in sides)
    print(
        f"{length:6} {block:6} {a:9.1f} {b:13.1f} {slower:7.2f} {x:10.1f} {y:14.1f} {x / y:8.1f}",
        flush=True,
    )


def main() -> None:
    blocks = [int(text) for text in sys.argv[1:]] or [BLOCK]
    print(
        f"{jax.devices()[0].device_kind}, {HEADS} heads of {HEAD_DIM}, {KV_HEADS} key/value heads"
    )
    print("tokens  block  plain ms  blockwise ms   ratio  plain MiB  blockwise MiB  smaller")
    with jax.set_mesh(make_mesh(data=1)):
        for length in LENGTHS:
            for block in blocks:
                measure(length, block)


if __name__ == "__main__":
    main()
