"""Training, generating and loading against transformers on PyTorch, both on the CPU in float32.

    python benchmarks/transformers_peer.py                                # both models, all three
    python benchmarks/transformers_peer.py --only train --model llama20m --threads 1

Random weights are exported as a Hugging Face folder and loaded by either side from there; the two
must give the same loss on the same tokens before anything is timed. Both are kept to the same
number of threads, on that many cores.

train: an optimiser step on full rows, every token but the first predicted: loss, gradients, a
clip by global norm and AdamW. Ours is the training loop's own dispatch with plain cross-entropy;
theirs ``model(labels=...)``, ``backward`` and PyTorch's fused AdamW.

generate: greedy, prompts of 16 to 64 tokens as one batch, no early end. Ours also computes the
statistics that routers read; theirs has left-padded prompts, as generation there needs.

load: the folder to a model whose numbers are in memory.

Compilation is not timed; the two sides take turns, and the median of the pairwise ratios counts:
by the clock, and of processor time, which other programs on the machine disturb less.
Needs PyTorch and transformers, which the toolkit itself does not.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from cat.config import ARMS, OptimizerConfig
from cat.decode import generate_all
from cat.mesh import make_mesh, shard_batch
from cat.models import huggingface
from cat.step import dispatch, fresh, skeleton, start
from cat.types import Batch

try:
    import torch
    import transformers
except ImportError as error:
    raise SystemExit(f"skipped: {error}; pip install torch transformers") from None

Pair = tuple[Callable[[], Any], Callable[[], Any]]
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 384,
    "intermediate_size": 1024,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "head_dim": 64,
    "vocab_size": 16_000,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
    "tie_word_embeddings": False,
}
GEMMA = {  # the sizes of google/gemma-3-270m
    "architectures": ["Gemma3ForCausalLM"],
    "model_type": "gemma3_text",
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 640,
    "intermediate_size": 2048,
    "num_hidden_layers": 18,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "vocab_size": 262_144,
    "max_position_embeddings": 32_768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000.0,
    "rope_local_base_freq": 10_000.0,
    "query_pre_attn_scalar": 256,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
    "tie_word_embeddings": True,
}
MODELS = {"llama20m": LLAMA, "gemma270m": GEMMA}
ROWS = {"llama20m": 4, "gemma270m": 1}  # of a training batch
TOKENS, STEPS, REPEATS = 256, 2, 3
OPTIMIZER = OptimizerConfig(learning_rate=1e-4, warmup_steps=0, weight_decay=0.01)
PROMPTS, SHORTEST, LONGEST, NEW = 16, 16, 64, 64


def rows_of(vocabulary: int, rows: int) -> np.ndarray:
    return np.random.default_rng(0).integers(5, vocabulary, (rows, TOKENS), dtype=np.int32)


def prompts_of(vocabulary: int) -> list[list[int]]:
    rng = np.random.default_rng(1)
    lengths = np.linspace(SHORTEST, LONGEST, PROMPTS).astype(int)
    return [rng.integers(5, vocabulary, n).tolist() for n in lengths]


def random_checkpoint(values: dict[str, Any], folder: Path) -> Path:
    """A folder with random weights of that configuration."""
    like = folder / "like"
    like.mkdir()
    (like / "config.json").write_text(json.dumps(values))
    config = huggingface.read_config(like)
    huggingface.save(nnx.merge(skeleton(config), fresh(config, 0)), folder / "model", like=like)
    return folder / "model"


def theirs_from(folder: Path) -> Any:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.generation_config.eos_token_id = None  # no early end
    model.generation_config.pad_token_id = 0
    return model


def our_training(folder: Path, tokens_BT: np.ndarray) -> Callable[[], float]:
    """A function that makes STEPS steps and returns the loss of the first."""
    model = huggingface.load(folder)
    last = np.arange(TOKENS) == TOKENS - 1
    columns = (np.roll(tokens_BT, -1, 1), 1.0 - last, np.arange(TOKENS), 1)
    batch = Batch(tokens_BT, *(np.broadcast_to(c, tokens_BT.shape) for c in columns))
    types = (np.int32, np.int32, np.float32, np.int32, np.int32)
    arrays = (np.stack([a] * STEPS).astype(t) for a, t in zip(batch, types, strict=False))
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

    def steps() -> float:
        state[0], metrics = run(state[0], batch)
        jax.block_until_ready((state, metrics))
        return float(metrics["loss"][0])

    return steps


def their_training(folder: Path, tokens_BT: np.ndarray) -> Callable[[], float]:
    """The same with PyTorch."""
    model = theirs_from(folder).train()
    ids_BT = torch.from_numpy(tokens_BT).long()
    decayed, others = ([p for p in model.parameters() if (p.ndim > 1) == d] for d in (True, False))
    optimizer = torch.optim.AdamW(
        [{"params": decayed}, {"params": others, "weight_decay": 0.0}],
        lr=OPTIMIZER.learning_rate,
        weight_decay=OPTIMIZER.weight_decay,
        fused=True,
    )

    def step() -> float:
        loss = model(input_ids=ids_BT, labels=ids_BT, use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIMIZER.clip_norm)
        optimizer.step()
        return float(loss.detach())

    def steps() -> float:
        first, *_ = [step() for _ in range(STEPS)]
        return first

    return steps


def our_generation(folder: Path, prompts: list[list[int]]) -> Callable[[], np.ndarray]:
    model = huggingface.load(folder)
    never = model.config.vocab_size  # an id no argmax can give
    sizes = dict(max_new=NEW, eos_id=never, topk=10, batch_size=len(prompts))
    return lambda: generate_all(model, prompts, **sizes).tokens


def their_generation(folder: Path, prompts: list[list[int]]) -> Callable[[], np.ndarray]:
    model = theirs_from(folder).eval()
    ids_BT, mask_BT = (torch.zeros(len(prompts), LONGEST, dtype=torch.long) for _ in range(2))
    for i, prompt in enumerate(prompts):
        ids_BT[i, -len(prompt) :], mask_BT[i, -len(prompt) :] = torch.tensor(prompt), 1
    given = dict(input_ids=ids_BT, attention_mask=mask_BT, max_new_tokens=NEW, do_sample=False)

    def run() -> np.ndarray:
        with torch.inference_mode():
            return model.generate(**given)[:, LONGEST:].numpy()

    return run


def seconds(run: Callable[[], Any]) -> np.ndarray:
    """By the clock, and of processor time."""
    began = time.perf_counter(), time.process_time()
    run()
    return np.array((time.perf_counter(), time.process_time())) - began


def compare(name: str, part: str, unit: str, work: float, pair: Pair) -> None:
    """Time the two in turns and print a line."""
    times = [(seconds(pair[0]), seconds(pair[1])) for _ in range(REPEATS)]
    (ours, _), (theirs, _) = np.median(times, axis=0)
    clock, processor = np.median([b / a for a, b in times], axis=0)
    print(
        f"{name:10} {part:9} {work / ours:10,.1f} {work / theirs:13,.1f} {unit:7} {clock:6.2f}x"
        f" {processor:9.2f}x {os.getloadavg()[0]:6.1f}",
        flush=True,
    )


def train(name: str, folder: Path) -> None:
    tokens_BT = rows_of(MODELS[name]["vocab_size"], ROWS[name])
    pair = our_training(folder, tokens_BT), their_training(folder, tokens_BT)
    ours, theirs = (side() for side in pair)  # also compiles
    if abs(ours - theirs) > 1e-4:
        raise SystemExit(f"{name}: the loss is {ours} here and {theirs} there")
    compare(name, "train", "tok/s", tokens_BT.size * STEPS, pair)


def generate(name: str, folder: Path) -> None:
    prompts = prompts_of(MODELS[name]["vocab_size"])
    pair = our_generation(folder, prompts), their_generation(folder, prompts)
    same = (pair[0]() == pair[1]()).mean()
    compare(name, "generate", "tok/s", PROMPTS * NEW, pair)
    print(f"{name:10} {same:.2%} of the generated tokens are the same")


def load(name: str, folder: Path) -> None:
    def ours() -> None:
        jax.block_until_ready(nnx.state(huggingface.load(folder)))

    def theirs() -> None:
        for p in theirs_from(folder).parameters():
            p.detach().sum()  # a mapped file is read when it is used

    for side in (ours, theirs):
        side()
    compare(name, "load", "1/s", 1, (ours, theirs))


PARTS = {"train": train, "generate": generate, "load": load}


def keep_to(threads: int) -> None:
    """That many cores and threads for either side; XLA makes as many threads as it sees cores."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    torch.set_num_threads(threads)


def main(models: list[str], parts: list[str], threads: int) -> None:
    keep_to(threads)
    libraries = " ".join(f"{m.__name__} {m.__version__}" for m in (jax, transformers, torch))
    print(f"{libraries}; float32, {threads} threads")
    print("model      part            ours  transformers           ratio  processor   load")
    for name in models:
        with tempfile.TemporaryDirectory() as place, jax.set_mesh(make_mesh(data=1)):
            folder = random_checkpoint(MODELS[name], Path(place))
            for part in parts:
                PARTS[part](name, folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="speed against transformers on PyTorch")
    parser.add_argument("--only", choices=PARTS, action="append")
    parser.add_argument("--model", choices=MODELS, action="append")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    asked = parser.parse_args()
    main(asked.model or list(MODELS), asked.only or list(PARTS), asked.threads)
