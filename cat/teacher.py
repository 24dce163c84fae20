"""The large model's signals on the training targets: computed once, or live in the step.

Stored (``cat.teacher_store``), CAT-Xent costs one bit per token and the large model is never in
memory beside the small one; distillation stores its ``topk`` largest log-probabilities too.
Signals are teacher-forced: the large model reads the reference, so a hit says nothing about its
own generations.

Letters: N rows, B batch, T tokens, R response places (the longest response), V vocabulary,
C kept log-probabilities, M response tokens of several rows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from cat import losses, masks, response
from cat.config import ArmConfig
from cat.mesh import gathered, row_count, shard_batch
from cat.models.decoder import Decoder
from cat.models.unembedding import Unembedding
from cat.source import Source
from cat.types import Batch, Teacher
from cat.vocab import summed
from routers.errors import InputError

Progress = Callable[[int, str], None]


def forward(
    model: Decoder, batch: Batch, at: Int[Array, "B R"] | None = None
) -> Float[Array, "B _ V"]:
    """Teacher-forced logits of every position, or of the places ``at``."""
    hidden = model.hidden(batch.tokens, batch.positions, batch.segments).hidden
    return model.unembed(hidden if at is None else response.take(hidden, at))


def needs_hits(arm: ArmConfig) -> bool:
    """Whether the arm's mask or loss reads the large model's hits."""
    return "large" in masks.reads(arm.mask) or losses.reads_hits(arm.loss)


def needs_probabilities(arm: ArmConfig) -> bool:
    """Whether the arm's loss reads the large model's probabilities.

    >>> needs_probabilities(ArmConfig(loss="distill")), needs_probabilities(ArmConfig())
    (True, False)
    """
    return losses.reads_teacher(arm.loss)


def compute(
    model: Decoder,
    source: Source,
    *,
    topk: int,
    batch_size: int,
    progress: Progress = lambda count, note: None,
) -> Teacher:
    """One pass of the large model over all rows; NumPy columns [N, T] and [N, T, C], C = topk.

    Off the response, bits are False and log-probabilities 0. Use inside ``jax.set_mesh``. All of
    it is in memory: ``cat.teacher_store`` is for more.

    Args:
        topk: largest log-probabilities to keep per response token; 0 = the bit only, V = all.
        progress: called with (rows done since the last call, note).

    Raises:
        InputError: topk is negative or larger than the vocabulary.
    """
    rows_N = np.arange(len(source))
    sizes = {"topk": topk, "batch_size": batch_size, "progress": progress}
    found, on_NT = told(model, source, rows_N, **sizes), source.batch(rows_N).mask > 0

    def spread(flat: Any) -> np.ndarray:
        wide = np.zeros((*on_NT.shape, *flat.shape[1:]), flat.dtype)
        wide[on_NT] = flat
        return wide

    return Teacher(*[spread(column) for column in found])


def told(
    model: Decoder,
    source: Source,
    rows: Int[np.ndarray, " N"],
    *,
    topk: int,
    batch_size: int,
    progress: Progress = lambda count, note: None,
) -> Teacher:
    """The same for some rows and their response tokens alone, row after row: [M] and [M, C]."""
    vocab = model.config.vocab_size
    if not 0 <= topk <= vocab:
        raise InputError(f"teacher_topk is {topk}; give 0 (the bit only) to {vocab} (everything)")
    graph, params = nnx.split(model)
    batch_size = -(-batch_size // row_count()) * row_count()
    time_R = np.arange(source.response_width)
    parts: list[list[np.ndarray]] = []
    for start in range(0, len(rows), batch_size):
        index_B = rows[start : start + batch_size]
        # the last batch is filled with its first row: one shape, one compilation
        padded_B = np.concatenate([index_B, np.full(batch_size - len(index_B), index_B[0])])
        batch = source.batch(padded_B)._replace(teacher=None)
        found = _forward(graph, params, shard_batch(batch), topk, len(time_R))
        counted_B = np.count_nonzero(batch.mask[: len(index_B)], axis=1)
        on_BR = time_R[None] < counted_B[:, None]
        parts.append([np.asarray(column)[: len(index_B)][on_BR] for column in found])
        progress(len(index_B), "")
    return Teacher(*[np.concatenate(columns) for columns in zip(*parts, strict=True)])


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def _forward(graph: Any, params: Any, batch: Batch, topk: int, width: int) -> Teacher:
    """Signals at ``width`` places of each row, those that count first and in order."""
    model, at_BR = nnx.merge(graph, params), response.places(batch.mask, width)
    hidden_BTD = model.hidden(batch.tokens, batch.positions, batch.segments).hidden
    chosen = response.take(hidden_BTD, at_BR), response.take(batch.targets, at_BR)
    return summed(functools.partial(_chunk, topk), model.unembedding(), *chosen)[1]


def _chunk(
    topk: int, unembedding: Unembedding, hidden: Array, targets: Array, constants: Any
) -> tuple[Array, Teacher]:
    """Signals of some places; nothing to sum."""
    logits = unembedding(hidden)
    if topk:
        logits = gathered(logits, "tensor")  # the largest are looked for in all of V
        values, ids = jax.lax.top_k(jax.nn.log_softmax(logits, axis=-1), topk)
    else:
        values, ids = (jnp.zeros((*targets.shape, 0), kind) for kind in (jnp.float32, jnp.int32))
    label = -losses.cross_entropy(logits, targets)
    return jnp.zeros(()), Teacher(losses.hit(logits, targets), ids, values, label)
