"""A training step against google-tunix on the same Qwen3 shape, both in JAX on the CPU, float32.

    python benchmarks/tunix_peer.py
    python benchmarks/tunix_peer.py --threads 1

Either side is its trainer's own compiled step, with the same random weights, tokens, clip by
global norm and AdamW, every token but the first predicted: ours the training loop's dispatch with
plain cross-entropy, theirs ``PeftTrainer``'s train step on all parameters, with its default loss.
What a trainer does between steps (logs, checkpoints, progress bars) is on neither side. Both must
give the same losses before anything is timed. Theirs donates the optimiser's buffers, ours also
the parameters'.

Compilation is not timed; the two sides take turns, and the median of the pairwise ratios counts:
by the clock, and of processor time, which other programs on the machine disturb less.
Needs google-tunix, which the toolkit itself does not.
"""

from __future__ import annotations

import argparse
import functools
import os
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cat.config import ARMS, OptimizerConfig
from cat.mesh import make_mesh, shard_batch
from cat.models.config import ModelConfig
from cat.models.decoder import Decoder
from cat.step import dispatch, fresh, make_optimizer, skeleton, start
from cat.types import Batch

try:
    from tunix.models.qwen3.model import ModelConfig as TheirConfig
    from tunix.models.qwen3.model import Qwen3
    from tunix.sft.peft_trainer import PeftTrainer, TrainingConfig
except ImportError as error:
    raise SystemExit(f"skipped: {error}; pip install google-tunix") from None

MODEL = ModelConfig(
    width=256,
    layers=4,
    heads=4,
    kv_heads=2,
    head_dim=64,
    ffn=768,
    vocab_size=8192,
    rope_base=1_000_000.0,  # theirs has this one whatever it is told
    qk_norm="head",
)
OPTIMIZER = OptimizerConfig(learning_rate=1e-4, warmup_steps=0, weight_decay=0.01)
ROWS, TOKENS, STEPS, REPEATS = 8, 256, 4, 7
NAMES = {
    "embed.embedding": "embedder.input_embedding",
    "norm.scale": "final_norm.w",
    "attention.query.kernel": "attn.q_proj.w",
    "attention.key.kernel": "attn.k_proj.w",
    "attention.value.kernel": "attn.v_proj.w",
    "attention.out.kernel": "attn.o_proj.w",
    "attention.query_norm.scale": "attn.q_norm.w",
    "attention.key_norm.scale": "attn.k_norm.w",
    "attention_norm.scale": "input_layernorm.w",
    "ffn_norm.scale": "post_attention_layernorm.w",
    "ffn.gate.kernel": "mlp.gate_proj.kernel",
    "ffn.up.kernel": "mlp.up_proj.kernel",
    "ffn.down.kernel": "mlp.down_proj.kernel",
}


def their_name(path: tuple[Any, ...]) -> tuple[str | int, ...]:
    """Our parameter's place in their model; the layouts are alike."""
    keys = jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value").split(".")
    layer = (keys[0], int(keys[1])) if keys[0] == "layers" else ()
    return (*layer, *NAMES[".".join(keys[len(layer) :])].split("."))


def their_model(ours: Decoder) -> Qwen3:
    """Their model with our numbers."""
    size = ours.config
    config = TheirConfig(
        num_layers=size.layers,
        vocab_size=size.vocab_size,
        embed_dim=size.width,
        hidden_dim=size.ffn,
        num_heads=size.heads,
        head_dim=size.head_dim,
        num_kv_heads=size.kv_heads,
        rope_theta=int(size.rope_base),
        norm_eps=size.norm_eps,
        use_tied_embedding=True,
    )
    model = Qwen3(config, rngs=nnx.Rngs(0))
    given = jax.tree_util.tree_flatten_with_path(nnx.state(ours))[0]
    values = {their_name(path): leaf for path, leaf in given}
    flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
    new = [(path, variable.replace(jnp.copy(values[path]))) for path, variable in flat]
    nnx.update(model, nnx.from_flat_state(new))
    return model


def our_training(model: Decoder, tokens_BT: np.ndarray) -> Callable[[], np.ndarray]:
    """A function that makes STEPS steps and returns their losses."""
    last = np.arange(TOKENS) == TOKENS - 1
    columns = (np.roll(tokens_BT, -1, 1), 1.0 - last, np.arange(TOKENS), 1)
    columns = (tokens_BT, *(np.broadcast_to(c, tokens_BT.shape) for c in columns))
    types = (np.int32, np.int32, np.float32, np.int32, np.int32)
    arrays = (np.stack([c] * STEPS).astype(t) for c, t in zip(columns, types, strict=True))
    batch = shard_batch(Batch(*arrays), axis=1)
    run = functools.partial(
        dispatch,
        key=jax.random.key(0),
        large=None,
        large_graph=None,
        graph=skeleton(model.config),
        frozen=None,
        optimizer=OPTIMIZER,
        arm=ARMS["xent"],
        response_width=TOKENS - 1,
    )
    state = [start(nnx.state(model), OPTIMIZER)]

    def steps() -> np.ndarray:
        state[0], metrics = run(state[0], batch)
        jax.block_until_ready((state, metrics))
        return np.asarray(metrics["loss"])

    return steps


def their_training(model: Qwen3, tokens_BT: np.ndarray) -> Callable[[], np.ndarray]:
    """The same with PeftTrainer's train step."""
    trainer = PeftTrainer(model, make_optimizer(OPTIMIZER), TrainingConfig(eval_every_n_steps=1))
    step, _ = trainer.jit_train_and_eval_step(cache_nnx_graph=True)
    shape = (ROWS, TOKENS)
    inputs = {
        "input_tokens": jnp.asarray(tokens_BT),
        "input_mask": jnp.ones(shape, bool),
        "positions": jnp.broadcast_to(jnp.arange(TOKENS), shape),
        "attention_mask": jnp.broadcast_to(jnp.tri(TOKENS, dtype=bool), (ROWS, TOKENS, TOKENS)),
    }

    def steps() -> np.ndarray:
        losses = [step(inputs)[0] for _ in range(STEPS)]
        jax.block_until_ready((losses, nnx.state(trainer.model), nnx.state(trainer.optimizer)))
        return np.asarray(losses)

    return steps


def seconds(run: Callable[[], Any]) -> np.ndarray:
    """By the clock, and of processor time."""
    began = time.perf_counter(), time.process_time()
    run()
    return np.array((time.perf_counter(), time.process_time())) - began


def sides() -> tuple[Callable[[], np.ndarray], Callable[[], np.ndarray]]:
    """Both, compiled, having given the same losses."""
    shape = (ROWS, TOKENS)
    tokens_BT = np.random.default_rng(0).integers(5, MODEL.vocab_size, shape, dtype=np.int32)
    with jax.set_mesh(make_mesh(data=1)):
        model = nnx.merge(skeleton(MODEL), fresh(MODEL, 0))
        ours = our_training(model, tokens_BT)
    theirs = their_training(their_model(model), tokens_BT)
    a, b = in_mesh(ours)(), theirs()
    if np.abs(a - b).max() > 1e-3:
        raise SystemExit(f"the losses are {a} here and {b} there")
    return in_mesh(ours), theirs


def in_mesh(run: Callable[[], Any]) -> Callable[[], Any]:
    """Ours works on a mesh, theirs without one."""

    def inside() -> Any:
        with jax.set_mesh(make_mesh(data=1)):
            return run()

    return inside


def main(threads: int) -> None:
    # XLA makes as many threads as it sees cores
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    print(f"jax {jax.__version__}; {MODEL}\n{ROWS} x {TOKENS} tokens, {threads} threads")
    pair = sides()
    times = [(seconds(pair[0]), seconds(pair[1])) for _ in range(REPEATS)]
    ours, theirs = ROWS * TOKENS * STEPS / np.median(times, axis=0)[:, 0]
    clock, processor = np.median([b / a for a, b in times], axis=0)
    print("  ours tok/s  tunix tok/s   ratio  processor   load")
    print(
        f"{ours:12,.0f} {theirs:12,.0f} {clock:6.2f}x {processor:9.2f}x {os.getloadavg()[0]:6.1f}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="a training step against google-tunix")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    main(parser.parse_args().threads)
