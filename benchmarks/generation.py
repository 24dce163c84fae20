"""Generation with the key-value cache against recomputing the prefix for every token, and
batches that refill against batches that wait for their slowest row.

    python benchmarks/generation.py

First: both sides are compiled and greedy, on the demo's large model with random weights, and
never stop early. The rival recomputes whole rows, padded to the next multiple of 8 tokens (so
that it compiles few shapes), and needs logits at the last position only; it computes no
statistics, while the cached side computes all of them.

Second: prompts of 8 to 64 tokens whose responses, drawn at temperature 1, end by themselves
after a number of tokens that differs from row to row (geometric, cut at the limit). Both sides
draw the same tokens with the same keys.

Compilation is not timed; the two sides take turns, and the median of the repetitions counts.
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
from cat.continuous import generate_continuous
from cat.decode import generate, generate_all
from cat.mesh import make_mesh
from cat.models.decoder import Decoder
from cat.sampling import Sampling

BATCH, PROMPT, VOCABULARY, REPEATS = 256, 24, 64, 3
NEVER = VOCABULARY  # an id no argmax can give
MIXED, MIXED_BATCH, MIXED_VOCABULARY, EOS = 512, 64, 32, 2  # prompts in all, rows at a time


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


def measure_mixed(config: ModelConfig, limit: int) -> str:
    """Responses of very different lengths: fixed batches and refilled ones."""
    config = dataclasses.replace(config, vocab_size=MIXED_VOCABULARY)
    model, rng = Decoder(config, rngs=nnx.Rngs(0)), np.random.default_rng(1)
    prompts = [rng.integers(5, MIXED_VOCABULARY, n).tolist() for n in rng.integers(8, 65, MIXED)]
    settings = dict(max_new=limit, eos_id=EOS, topk=10, batch_size=MIXED_BATCH)
    draws = dict(sampling=Sampling(temperature=1.0), key=jax.random.key(0))
    fixed = functools.partial(generate_all, model, prompts, **settings, **draws)
    refilled = functools.partial(generate_continuous, model, prompts, **settings, **draws)
    lengths, again = fixed().lengths, refilled().lengths  # also compiles both
    times = [(seconds(fixed), seconds(refilled)) for _ in range(REPEATS)]
    fixed_s, refilled_s = (statistics.median(side) for side in zip(*times, strict=True))
    rate, agree = lengths.sum(), (lengths == again).mean()
    return (
        f"{limit:7d}  {lengths.mean():11.1f}  {rate / fixed_s:11,.0f}  {rate / refilled_s:14,.0f}"
        f"  {fixed_s / refilled_s:6.2f}x  {agree:11.2%}"
    )


def main() -> None:
    config = dataclasses.replace(Config().large, vocab_size=VOCABULARY)
    print(f"{config}\nbatch {BATCH}, prompt {PROMPT}, median of {REPEATS}, {jax.devices()[0]}")
    print("    new  cached tok/s  recomp. tok/s   ratio  same token")
    with jax.set_mesh(make_mesh(data=1)):
        for new in (8, 16, 32, 64):
            print(measure(config, new), flush=True)
        print(f"mixed lengths: {MIXED} prompts, batch {MIXED_BATCH}")
        print("  limit  mean length  fixed tok/s  refilled tok/s   ratio  same length")
        for limit in (32, 64, 256):
            print(measure_mixed(config, limit), flush=True)


if __name__ == "__main__":
    main()
