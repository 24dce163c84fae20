"""The large model's signals on the training targets: stored once, or computed live in the step.

Stored, CAT-Xent costs one bit per token and the large model is never in memory beside the small
one; distillation stores its ``topk`` largest log-probabilities too. Signals are teacher-forced:
the large model reads the reference, so a hit says nothing about its own generations.

Letters: N rows, B batch, T tokens, R response places (the longest response), V vocabulary,
C kept log-probabilities.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from cat import losses, masks, response
from cat.checkpoints import refuse_changed
from cat.config import ArmConfig
from cat.data import Rows
from cat.mesh import row_count, shard_batch
from cat.models.decoder import Decoder
from cat.types import Batch, Teacher
from routers.errors import InputError
from routers.files import written

FILE = "teacher.safetensors"
Key = str | dict[str, str]
"""What stored signals depend on: one fingerprint, or several by name."""


def forward(
    model: Decoder, batch: Batch, at: Int[Array, "B R"] | None = None
) -> Float[Array, "B _ V"]:
    """Teacher-forced logits of every position, or of the places ``at``."""
    hidden = model.hidden(batch.tokens, batch.positions, batch.segments).hidden
    return model.unembed(hidden if at is None else response.take(hidden, at))


def signals(model: Decoder, batch: Batch, at: Int[Array, "B R"] | None = None) -> Teacher:
    """Live signals of one batch: hits, and the whole log-distribution in vocabulary order."""
    logits_BTV = jax.lax.stop_gradient(forward(model, batch, at))
    targets = batch.targets if at is None else response.take(batch.targets, at)
    return Teacher(
        hit=losses.hit(logits_BTV, targets),
        topk_ids=None,
        topk_logprob=jax.nn.log_softmax(logits_BTV, axis=-1),
    )


def needs_hits(arm: ArmConfig) -> bool:
    """Whether the arm's mask reads the large model's hits."""
    return masks.reads_large(arm.mask)


def needs_probabilities(arm: ArmConfig) -> bool:
    """Whether the arm's loss reads the large model's probabilities.

    >>> needs_probabilities(ArmConfig(loss="distill")), needs_probabilities(ArmConfig())
    (True, False)
    """
    return losses.reads_teacher(arm.loss)


def compute(
    model: Decoder,
    rows: Rows,
    *,
    topk: int,
    batch_size: int,
    progress: Callable[[int, str], None] = lambda count, note: None,
) -> Teacher:
    """One pass of the large model over all rows; NumPy columns [N, T] and [N, T, C], C = topk.

    Off the response, bits are False and log-probabilities 0. Use inside ``jax.set_mesh``.

    Args:
        topk: largest log-probabilities to keep per response token; 0 = the bit only, V = all.
        progress: called with (rows done since the last call, note).

    Raises:
        InputError: topk is negative or larger than the vocabulary.
    """
    vocab = model.config.vocab_size
    if not 0 <= topk <= vocab:
        raise InputError(f"teacher_topk is {topk}; give 0 (the bit only) to {vocab} (everything)")
    graph, params = nnx.split(model)
    batch_size = -(-batch_size // row_count()) * row_count()
    width = int(np.count_nonzero(rows.mask, axis=1).max())
    parts = []
    for start in range(0, len(rows), batch_size):
        index_B = np.arange(start, min(start + batch_size, len(rows)))
        # the last batch is filled with row 0: one shape, one compilation
        padded_B = np.concatenate([index_B, np.zeros(batch_size - len(index_B), int)])
        found = _forward(graph, params, shard_batch(rows.batch(padded_B)), topk, width)
        at_BR, *near = [np.asarray(column)[: len(index_B)] for column in found]
        parts.append([_spread(column, at_BR, rows.tokens.shape[1]) for column in near])
        progress(len(index_B), "")
    return Teacher(*[np.concatenate(columns) for columns in zip(*parts, strict=True)])


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def _forward(
    graph: Any, params: Any, batch: Batch, topk: int, width: int
) -> tuple[Array, Array, Array, Array]:
    """The response places of one batch; there: hits, the ``topk`` largest ids and log p."""
    at_BR = response.places(batch.mask, width)
    found = signals(nnx.merge(graph, params), batch, at_BR)
    on_BR = response.take(batch.mask, at_BR) > 0  # not the places that fill a shorter response
    hit_BR = found.hit & on_BR
    if topk == 0:  # nothing reads the log-softmax then, and XLA drops it
        none = jnp.zeros((*hit_BR.shape, 0))
        return at_BR, hit_BR, none.astype(jnp.int32), none
    values_BRC, ids_BRC = jax.lax.top_k(found.topk_logprob, topk)
    on_BR1 = on_BR[..., None]
    return at_BR, hit_BR, jnp.where(on_BR1, ids_BRC, 0), jnp.where(on_BR1, values_BRC, 0.0)


def _spread(near: np.ndarray, at_BR: np.ndarray, tokens: int) -> np.ndarray:
    """[B, R, ...] values back at their places of [B, T, ...], zeros elsewhere."""
    wide = np.zeros((len(near), tokens, *near.shape[2:]), near.dtype)
    index = at_BR.reshape(at_BR.shape + (1,) * (near.ndim - 2))
    np.put_along_axis(wide, index, near, axis=1)
    return wide


def save(folder: Path, teacher: Teacher, key: Key) -> None:
    """Write ``folder/teacher.safetensors``: a bit per token, log-probabilities where any.

    Args:
        key: what the signals depend on; ``load`` refuses others by name.
    """
    on_NT = (teacher.topk_ids != 0).any(-1) | (teacher.topk_logprob != 0).any(-1)
    columns = {
        "hit": np.packbits(teacher.hit),
        "on": np.packbits(on_NT),
        "topk_ids": teacher.topk_ids[on_NT].astype(np.int32),
        "topk_logprob": teacher.topk_logprob[on_NT].astype(np.float32),
    }
    about = {"key": json.dumps(_named(key)), "shape": json.dumps(teacher.topk_ids.shape)}
    with written(folder / FILE) as temporary:
        save_file(columns, temporary, about)


def load(folder: Path, key: Key) -> Teacher:
    """The signals that ``save`` wrote, exactly.

    Raises:
        InputError: no file, a truncated or foreign one, or one with another key.
    """
    path = folder / FILE
    if not path.exists():
        raise InputError(f"{path}: no stored teacher signals; compute them first")
    try:
        with safe_open(path, "numpy") as file:
            about, names = file.metadata(), ("hit", "on", "topk_ids", "topk_logprob")
            columns = {name: file.get_tensor(name) for name in names}
        found, shape_NTC = json.loads(about["key"]), tuple(json.loads(about["shape"]))
    except (SafetensorError, KeyError, TypeError, OSError) as error:
        raise InputError(
            f"{path}: truncated or not teacher signals; delete it and rerun"
        ) from error
    refuse_changed(path, found, _named(key))
    return _unpack(columns, shape_NTC)


def _unpack(columns: dict[str, np.ndarray], shape_NTC: tuple[int, ...]) -> Teacher:
    """Dense [N, T, C] columns from packed bits and the rows that are on."""
    hit_NT, on_NT = (
        np.unpackbits(columns[name], count=shape_NTC[0] * shape_NTC[1])
        .reshape(shape_NTC[:2])
        .astype(bool)
        for name in ("hit", "on")
    )
    ids_NTC, logprob_NTC = np.zeros(shape_NTC, np.int32), np.zeros(shape_NTC, np.float32)
    ids_NTC[on_NT], logprob_NTC[on_NT] = columns["topk_ids"], columns["topk_logprob"]
    return Teacher(hit_NT, ids_NTC, logprob_NTC)


def _named(key: Key) -> dict[str, str]:
    """A single fingerprint gets a name, so that an error can use it."""
    return {"fingerprint": key} if isinstance(key, str) else key
