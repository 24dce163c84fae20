"""Losses straight from hidden states: time and memory of chunks against whole logits.

    python benchmarks/vocab_loss.py                    # memory at 8,192 tokens, time at 1,024
    python benchmarks/vocab_loss.py --timed 8192       # another length (whole logits: 27 GB)
    python benchmarks/vocab_loss.py --vocabulary 32768

Value and gradients (hidden states and table) of mean cross-entropy, 262,144 words, width 640,
float32, one device. ``whole`` is the loss on whole logits, ``optax`` the same by
``optax.softmax_cross_entropy_with_integer_labels``, ``jax-cce`` the package of that name where it
is installed (its chunks are over the vocabulary, and are computed twice). ``cat`` is
``cat.vocab.summed`` with cross-entropy, ``cat, masked`` the arm ``cat_xent`` with stored hits.

Memory is what XLA plans beside arguments and results. Compilation is not timed; the sides take
turns and the median of the ratios counts, by the clock and of processor time.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cat import losses
from cat.config import ARMS
from cat.models.unembedding import Unembedding
from cat.objective import Whole, objective
from cat.types import Batch, Teacher
from cat.vocab import summed

ROWS, REPEATS = 8, 3


def whole(hidden: jax.Array, table: jax.Array, targets: jax.Array) -> jax.Array:
    return losses.cross_entropy(Unembedding(table, True, "float32")(hidden), targets).mean()


def by_optax(hidden: jax.Array, table: jax.Array, targets: jax.Array) -> jax.Array:
    logits = hidden @ table.T
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()


def one(unembedding: Unembedding, hidden: Any, targets: Any, constants: Any) -> tuple[Any, None]:
    return losses.cross_entropy(unembedding(hidden), targets).sum(), None


def cat(hidden: jax.Array, table: jax.Array, targets: jax.Array) -> jax.Array:
    unembedding = Unembedding(table, True, "float32")
    return summed(one, unembedding, hidden, targets)[0] / targets.size


def masked(hidden: jax.Array, table: jax.Array, targets: jax.Array) -> jax.Array:
    unembedding, on = Unembedding(table, True, "float32"), jnp.ones(targets.shape)
    none = jnp.zeros((*targets.shape, 0))
    stored = Teacher(jnp.ones(targets.shape, bool), none.astype(jnp.int32), none)
    batch = Batch(targets, targets, on, targets, targets, stored)
    whole_batch = Whole(jnp.float32(targets.size))
    arm = ARMS["cat_xent"]
    return objective(arm, unembedding, hidden, batch, None, None, whole_batch)[0]


def sides() -> dict[str, Callable[..., jax.Array]]:
    found = {"whole": whole, "optax": by_optax, "cat": cat, "cat, masked": masked}
    try:
        from jax_cce import linear_cross_entropy
    except ImportError:
        print("jax-cce is not installed (pip install jax-cce): left out")
        return found

    def cce(hidden: jax.Array, table: jax.Array, targets: jax.Array) -> jax.Array:
        return linear_cross_entropy(hidden.reshape(-1, table.shape[1]), table, targets.reshape(-1))

    return found | {"jax-cce": cce}


def arguments(tokens: int, vocabulary: int, width: int) -> tuple[jax.Array, ...]:
    rng = np.random.default_rng(0)
    shape = (ROWS, tokens // ROWS)
    hidden = rng.standard_normal((*shape, width), dtype=np.float32)
    table = rng.standard_normal((vocabulary, width), dtype=np.float32) / width**0.5
    targets = rng.integers(0, vocabulary, shape, dtype=np.int32)
    return tuple(map(jnp.asarray, (hidden, table, targets)))


def compiled(side: Callable[..., jax.Array], given: tuple[Any, ...]) -> Any:
    return jax.jit(jax.value_and_grad(side, argnums=(0, 1))).lower(*given).compile()


def seconds(run: Any, given: tuple[Any, ...]) -> tuple[float, float]:
    wall, processor = time.perf_counter(), time.process_time()
    jax.block_until_ready(run(*given))
    return time.perf_counter() - wall, time.process_time() - processor


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokens", type=int, default=8192, help="of the memory column")
    parser.add_argument("--timed", type=int, default=1024, help="tokens of the time columns")
    parser.add_argument("--vocabulary", type=int, default=262_144)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    chosen = parser.parse_args()
    shape = functools.partial(jax.ShapeDtypeStruct)
    big = (ROWS, chosen.tokens // ROWS)
    shapes = (
        shape((*big, chosen.width), np.float32),
        shape((chosen.vocabulary, chosen.width), np.float32),
        shape(big, np.int32),
    )
    memory = {
        name: compiled(side, shapes).memory_analysis().temp_size_in_bytes
        for name, side in sides().items()
    }
    given = arguments(chosen.timed, chosen.vocabulary, chosen.width)
    runs = {name: compiled(side, given) for name, side in sides().items()}
    values = {name: float(run(*given)[0]) for name, run in runs.items()}  # warm, and equal
    assert np.allclose(list(values.values()), values["whole"], rtol=1e-5), values
    timed = {name: [] for name in runs}
    for _ in range(chosen.repeats):
        for name, run in runs.items():
            timed[name].append(seconds(run, given))
    print(f"memory at {chosen.tokens:,} tokens, time at {chosen.timed:,}; ratios to whole logits")
    for name, pairs in timed.items():
        ratios = [np.divide(p, q) for p, q in zip(pairs, timed["whole"], strict=True)]
        clock, processor = (statistics.median(column) for column in zip(*ratios, strict=True))
        print(
            f"{name:12} extra memory {memory[name] / 2**20:9,.0f} MiB "
            f"({memory[name] / memory['whole']:.3f})  clock {clock:.2f}  processor {processor:.2f}"
        )


if __name__ == "__main__":
    main()
