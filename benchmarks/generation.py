"""Generation with the key-value cache against recomputing the prefix for every token.

    python benchmarks/generation.py

Both sides are compiled and greedy, on the demo's large model with random weights, and never
stop early. The rival recomputes whole rows, padded to the next multiple of 8 tokens (so that it
compiles few shapes), and needs logits at the last position only; it computes no statistics,
while the cached side computes all of them. Compilation is not timed; the two sides take turns,
and the median of the repetitions counts.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cat.batching import round_up
from cat.config import Config, ModelConfig
from cat.decode import generate
from cat.mesh import make_mesh
from cat.models.decoder import Decoder

BATCH, PROMPT, VOCABULARY, REPEATS = 256, 24, 64, 3
NEVER = VOCABULARY  # an id no argmax can give


def cached(model: Decoder, prompts: np.ndarray, new: int) -> np.ndarray:
    lengths = np.full(len(prompts), PROMPT, np.int32)
    out = generate(model, prompts, lengths, max_new=new, eos_id=NEVER, topk=10)
    return np.asarray(out.tokens)


@functools.partial(jax.jit, static_argnames="width")
def next_token(model: Decoder, tokens_BT: jax.Array, length: jax.Array, *, width: int) -> jax.Array:
    """Write the next token into column ``length`` of the rows."""
    seen = tokens_BT[:, :width]
    positions = jnp.broadcast_to(jnp.arange(width), seen.shape)
    segments = (positions < length).astype(jnp.int32)
    hidden = model.hidden(seen, positions, segments).hidden
    last_BD = jax.lax.dynamic_index_in_dim(hidden, length - 1, axis=1, keepdims=False)
    token = jnp.argmax(model.unembed(last_BD), axis=-1).astype(jnp.int32)
    return jax.lax.dynamic_update_slice_in_dim(tokens_BT, token[:, None], length, axis=1)


def recomputed(model: Decoder, prompts: np.ndarray, new: int) -> np.ndarray:
    tokens = jnp.asarray(np.pad(prompts, ((0, 0), (0, new))))
    for length in range(PROMPT, PROMPT + new):
        tokens = next_token(model, tokens, jnp.int32(length), width=round_up(length))
    return np.asarray(tokens[:, PROMPT:])


def seconds(run: functools.partial) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure(config: ModelConfig, new: int) -> str:
    model = Decoder(config, rngs=nnx.Rngs(0))
    prompts = np.random.default_rng(0).integers(5, VOCABULARY, (BATCH, PROMPT)).astype(np.int32)
    fast = functools.partial(cached, model, prompts, new)
    slow = functools.partial(recomputed, model, prompts, new)
    agree = (fast() == slow()).mean()  # also compiles both
    times = [(seconds(fast), seconds(slow)) for _ in range(REPEATS)]
    fast_s, slow_s = (statistics.median(side) for side in zip(*times, strict=True))
    rate = BATCH * new
    return (
        f"{new:7d}  {rate / fast_s:12,.0f}  {rate / slow_s:12,.0f}  {slow_s / fast_s:6.1f}x"
        f"  {agree:10.2%}"
    )


def main() -> None:
    config = dataclasses.replace(Config().large, vocab_size=VOCABULARY)
    print(f"{config}\nbatch {BATCH}, prompt {PROMPT}, median of {REPEATS}, {jax.devices()[0]}")
    print("    new  cached tok/s  recomp. tok/s   ratio  same token")
    with jax.set_mesh(make_mesh(data=1)):
        for new in (8, 16, 32, 64):
            print(measure(config, new), flush=True)


if __name__ == "__main__":
    main()
