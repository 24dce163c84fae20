"""Speculative decoding against the large model alone: clock, weights read, FLOPs.

    python benchmarks/speculative.py            a minute or two on a laptop

Greedy and lossless, so both sides write the same tokens (``same token``); batch of one, where a
pass takes as long as reading the weights. The small model is the large one's first layer; the
large one's other layers are damped, so that random weights agree about as often as trained
pairs do: ``stay`` is the share of drafts that did. Both sides are compiled and never stop early;
the peer, ``generate``, computes statistics besides. Compilation is not timed; the sides take
turns and the median counts. ``bytes`` and ``FLOPs`` are speculative over large-only: below 1 is
a saving, which FLOPs never are.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time

import jax
import numpy as np
from flax import nnx

from cat.config import ModelConfig
from cat.decode import generate
from cat.flops import forward_flops, parameter_count
from cat.mesh import make_mesh
from cat.models.decoder import Decoder
from cat.speculative import speculate
from cat.speculative_cost import round_starts, speculative_cost, weight_bytes
from cat.token_rules import lossless

LARGE = ModelConfig(
    width=768, layers=12, heads=12, kv_heads=12, head_dim=64, ffn=2048, vocab_size=2_000
)
SMALL = dataclasses.replace(LARGE, layers=1)
PROMPT, NEW, REPEATS, DAMPING = 16, 48, 3, (0.2, 0.5, 0.8)
NEVER = LARGE.vocab_size  # an id no argmax can give


def models(damping: float) -> tuple[Decoder, Decoder]:
    """A large model whose layers after the first hardly speak, and its first layer."""
    large = Decoder(LARGE, rngs=nnx.Rngs(0))
    for layer in large.layers[1:]:
        for out in (layer.attention.out, layer.ffn.down):
            out.kernel.set_value(out.kernel[...] * damping)
    small = Decoder(SMALL, rngs=nnx.Rngs(0))
    for name in ("embed", "norm"):
        nnx.update(getattr(small, name), nnx.state(getattr(large, name)))
    nnx.update(small.layers[0], nnx.state(large.layers[0]))
    return small, large


def measure(small: Decoder, large: Decoder, gamma: int) -> str:
    prompt = np.random.default_rng(0).integers(0, LARGE.vocab_size, (1, PROMPT)).astype(np.int32)
    length, row = np.array([PROMPT], np.int32), np.zeros(1, np.int32)
    alone = functools.partial(generate, large, prompt, length, max_new=NEW, eos_id=NEVER, topk=1)
    both = functools.partial(
        speculate, small, large, prompt, length, row, jax.random.key(0), rule=lossless,
        thresholds=(), gamma=gamma, max_new=NEW, eos_id=NEVER, temperature=0.0,
    )  # fmt: skip
    run = jax.device_get(both())
    agree = (run.tokens == np.asarray(alone().tokens)).mean()  # also compiles both
    times = [(seconds(both), seconds(alone)) for _ in range(REPEATS)]
    fast, slow = (statistics.median(side) for side in zip(*times, strict=True))
    spent = speculative_cost(SMALL, LARGE, [PROMPT], run, gamma)
    read = sum(weight_bytes(c, s.passes, 4) for c, s in zip((SMALL, LARGE), spent, strict=True))
    flops = sum(s.flops for s in spent) / forward_flops(LARGE, PROMPT, NEW)
    rounds = round_starts(run).sum()
    return (
        f"{gamma:5d} {run.drafted.sum() / (rounds * gamma):7.1%} {NEW / rounds:9.2f}"
        f" {NEW / fast:10,.1f} {NEW / slow:10,.1f} {slow / fast:6.2f}x"
        f" {(read / weight_bytes(LARGE, NEW, 4))[0]:6.2f} {flops[0]:6.2f} {agree:10.1%}"
    )


def seconds(run: functools.partial) -> float:
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


def main() -> None:
    sizes = (f"{parameter_count(c) / 1e6:.1f}M" for c in (SMALL, LARGE))
    print(f"small {next(sizes)}, large {next(sizes)} parameters, {jax.devices()[0]}")
    print(f"prompt {PROMPT}, {NEW} new tokens, median of {REPEATS}")
    heads = ("damping", "gamma", "stay", "tok/round", "spec tok/s", "large tok/s", "ratio")
    print(" ".join(heads), " bytes  FLOPs same token")
    with jax.set_mesh(make_mesh(data=1)):
        for damping in DAMPING:
            small, large = models(damping)
            for gamma in (1, 2, 4, 8):
                print(f"{damping:7.2f} {measure(small, large, gamma)}", flush=True)


if __name__ == "__main__":
    main()
