"""One process of several, or the only one: every arm for some steps on a mesh; see test_spmd."""

import dataclasses
import json
import signal
import sys
from pathlib import Path

import jax
import numpy as np

from cat import hosts, step, train
from cat.config import ARMS, ModelConfig, OptimizerConfig
from cat.data import Rows
from cat.example import Example
from cat.mesh import make_mesh, shard_batch, to_host
from cat.types import Batch, Teacher

SIZE = ModelConfig(width=8, layers=1, heads=4, kv_heads=2, head_dim=4, ffn=16, vocab_size=16)
OPTIMIZER = OptimizerConfig(
    steps=5, batch_size=8, warmup_steps=2, steps_per_dispatch=5, learning_rate=1e-2
)
RUN = dataclasses.replace(OPTIMIZER, steps=6, steps_per_dispatch=3, checkpoint_every=3)
S, B, T, C = 5, 8, 8, 3


def batch() -> Batch:
    """[S, B, T] random text with random signals."""
    rng = np.random.default_rng(0)
    tokens, targets = rng.integers(0, 16, (2, S, B, T)).astype(np.int32)
    places = np.broadcast_to(np.arange(T, dtype=np.int32), tokens.shape)
    mask = (places > rng.integers(0, 4, (S, B, 1))).astype(np.float32)
    logprob = np.log(rng.dirichlet(np.ones(16), (S, B, T))).astype(np.float32)
    ids = np.argsort(-logprob, axis=-1)[..., :C].astype(np.int32)
    top, own = np.take_along_axis(logprob, ids, -1), logprob[..., 0]
    large, before = (Teacher(rng.random((S, B, T)) < 0.5, ids, top, own) for _ in range(2))
    return Batch(tokens, targets, mask, places, np.ones_like(tokens), large, before)


def mine(whole: Batch) -> Batch:
    """This process's rows of a batch."""
    share = B // jax.process_count()
    rows = slice(jax.process_index() * share, (jax.process_index() + 1) * share)
    return jax.tree.map(lambda column: column[:, rows], whole)


def trajectory(arm, mesh, **changes) -> dict[str, np.ndarray]:
    """Losses [S] and final parameters by name."""
    config = dataclasses.replace(SIZE, **changes)
    with jax.set_mesh(make_mesh(*mesh)):
        state, metrics = step.dispatch(
            step.start(step.fresh(config, 0), OPTIMIZER),
            shard_batch(mine(batch()), axis=1),
            key=jax.random.key(0),
            large=None,
            large_graph=None,
            graph=step.skeleton(config),
            frozen=None,
            optimizer=OPTIMIZER,
            arm=ARMS[arm] if isinstance(arm, str) else arm,
            response_width=T - 1,
        )
        flat = jax.tree_util.tree_leaves_with_path(state.params)
        found = {jax.tree_util.keystr(path): to_host(leaf) for path, leaf in flat}
        return found | {"loss": to_host(metrics["loss"]), "keep": to_host(metrics["keep_rate"])}


def rows() -> Rows:
    """32 rows of random text, the second half of each its response."""
    rng, at = np.random.default_rng(1), np.broadcast_to(np.arange(T, dtype=np.int32), (32, T))
    tokens, targets = rng.integers(0, 16, (2, 32, T)).astype(np.int32)
    half = np.full(32, T // 2, np.int32)
    examples = [Example(str(i), "random", "", "") for i in range(32)]
    mask = (at >= T // 2).astype(np.float32)
    return Rows(tokens, targets, mask, at, np.ones_like(at), half + 1, half, examples)


def trained(folder: Path, mesh, progress=lambda count, note: None) -> dict[str, np.ndarray]:
    """The parameters after a run of the training loop; nothing if it was stopped."""
    with jax.set_mesh(make_mesh(*mesh)):
        try:
            run = train.train(SIZE, RUN, ARMS["xent"], rows(), folder=folder, progress=progress)
        except KeyboardInterrupt:
            return {}
        flat = jax.tree_util.tree_leaves_with_path(run)
        return {jax.tree_util.keystr(path): to_host(leaf) for path, leaf in flat}


def last_is_told_to_stop(count: int, note: str) -> None:
    """SIGTERM reaches the last process alone, after its first dispatch."""
    if jax.process_index() == jax.process_count() - 1:
        signal.raise_signal(signal.SIGTERM)


if __name__ == "__main__":
    mesh, devices, folder = json.loads(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    jax.config.update("jax_num_cpu_devices", devices)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_default_matmul_precision", "float32")
    jax.config.update("jax_disable_most_optimizations", True)
    hosts.start()
    arms = sys.argv[4:] or list(ARMS)
    found = {arm: trajectory(arm, mesh) for arm in arms}
    assert not trained(folder / "run", mesh, last_is_told_to_stop)
    if hosts.first():
        flat = {f"{arm}/{k}": v for arm, values in found.items() for k, v in values.items()}
        np.savez(folder / "found.npz", **flat)
    print("ok", flush=True)
