"""The one number an arm minimises, and what its mask kept: a loss and a mask meet here.

Both are per token, so both are worked out a chunk of tokens at a time from hidden states
(``cat.vocab``). What belongs to the whole batch is settled before: how many tokens divide the
sum, what ``random(...)`` draws and at which rate, how far a warm-up has come.

Letters: B batch, R response places, D width, V vocabulary, N draws of a mask, F families.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cat import losses, masks
from cat.config import ArmConfig
from cat.types import Batch, Teacher
from cat.vocab import Unembedding, summed


class Large(NamedTuple):
    """A live large model at the response places: what is left of it to compute."""

    unembedding: Unembedding
    hidden_BRD: Float[Array, "B R _"] | Any


class Whole(NamedTuple):
    """What one chunk must know of the whole batch."""

    tokens: Float[Array, ""] | Any  # response tokens; 1 at least
    rates_N: Float[Array, " N"] | Any | None = None  # of a mask's ``random(...)``
    ramp: Float[Array, ""] | Any | None = None  # 0 = no mask yet, 1 = the mask; None = no warm-up


class Told(NamedTuple):
    """Per token: the weight, and who is right."""

    alpha: Array
    small_hit: Array
    large_hit: Array | None


def objective(
    arm: ArmConfig,
    unembedding: Unembedding,
    hidden_BRD: Float[Array, "B R D"],
    batch: Batch,
    large: Large | None,
    lots_NBR: Float[Array, "N B R"] | None,
    whole: Whole,
) -> tuple[Float[Array, ""], Told]:
    """``sum alpha loss / tokens`` over this part of a batch, nats, differentiable.

    Args:
        batch: columns at the response places, with the stored signals the arm reads.
        large: the live large model, where the arm asks for one.
        lots_NBR: ``masks.draw`` at these places.
        whole: of the whole batch, of which this may be a part.
    """
    columns = batch, None if large is None else large.hidden_BRD, _last(lots_NBR)
    constants = whole, None if large is None else large.unembedding
    return summed(functools.partial(_part, arm), unembedding, hidden_BRD, columns, constants)


def hits(
    arm: ArmConfig,
    unembedding: Unembedding,
    hidden_BRD: Float[Array, "B R D"],
    batch: Batch,
    large: Large | None,
) -> masks.Hits:
    """What the arm's mask reads, without a loss: for the rate of ``random(...)``."""
    columns = batch, None if large is None else large.hidden_BRD
    constants = None if large is None else large.unembedding
    return summed(functools.partial(_hits_part, arm), unembedding, hidden_BRD, columns, constants)[
        1
    ]


def metrics(told: Told, batch: Batch, families: int = 0) -> dict[str, Array]:
    """Sums over response tokens: kept (weights), counted, and the four cells of hits.

    With ``Batch.family`` also kept and counted of each of so many families, [F].
    """
    known = masks.Hits(told.small_hit, told.large_hit, batch.mask)
    cells = {} if told.large_hit is None else masks.two_by_two(known)._asdict()
    sums = {"kept": told.alpha.sum(), "counted": batch.mask.sum()} | cells
    if batch.family is None:
        return sums
    of_FBR = [batch.family == family for family in range(families)]
    for name, column in (("kept", told.alpha), ("counted", batch.mask)):
        sums[f"{name}_F"] = jnp.stack([jnp.where(of, column, 0.0).sum() for of in of_FBR])
    return sums


def ramp(arm: ArmConfig, step: Array) -> Array | None:
    """How much of the mask is in force at ``step``: linear, whole after ``mask_warmup`` steps."""
    return jnp.minimum(step / arm.mask_warmup, 1.0) if arm.mask_warmup else None


def _part(
    arm: ArmConfig, unembedding: Unembedding, hidden: Array, columns: Any, constants: Any
) -> tuple[Array, Told]:
    """One chunk's share of the loss."""
    (batch, large_hidden, lots), (whole, large_table) = columns, constants
    logits = unembedding(hidden)
    teacher = batch.teacher if large_table is None else live(large_table(large_hidden), batch)
    known = _known(arm, logits, batch, teacher)
    alpha = masks.weigh(arm.mask, known, _first(lots), whole.rates_N)
    if whole.ramp is not None:
        alpha = batch.mask - whole.ramp * (batch.mask - alpha)
    loss = losses.per_token(arm, logits, batch.targets, teacher)
    told = Told(alpha, losses.hit(logits, batch.targets), None if teacher is None else teacher.hit)
    return losses.masked_sum(loss, alpha) / whole.tokens, told


def _hits_part(
    arm: ArmConfig, unembedding: Unembedding, hidden: Array, columns: Any, large_table: Any
) -> tuple[Array, masks.Hits]:
    """One chunk's hits, and nothing to sum."""
    batch, large_hidden = columns
    teacher = batch.teacher if large_table is None else live(large_table(large_hidden), batch)
    return jnp.zeros(()), _known(arm, unembedding(hidden), batch, teacher)


def live(logits_BRV: Float[Array, "B R V"], batch: Batch) -> Teacher:
    """A large model's signals from its logits: the whole log-distribution in vocabulary order."""
    logits_BRV = jax.lax.stop_gradient(logits_BRV)
    return Teacher(
        hit=losses.hit(logits_BRV, batch.targets),
        topk_ids=None,
        topk_logprob=jax.nn.log_softmax(logits_BRV, axis=-1),
        logprob=-losses.cross_entropy(logits_BRV, batch.targets),
    )


def _known(arm: ArmConfig, logits: Array, batch: Batch, teacher: Teacher | None) -> masks.Hits:
    """Who is right, as bits or as probabilities."""
    if not arm.mask_temperature:
        small = losses.hit(logits, batch.targets)
        large, before = (None if told is None else told.hit for told in (teacher, batch.before))
        return masks.Hits(small, large, batch.mask, before)
    logprob = jax.lax.stop_gradient(-losses.cross_entropy(logits, batch.targets))

    def right(logprob: Array | None) -> Array | None:
        return None if logprob is None else masks.rightness(logprob, arm.mask_temperature)

    large, before = (None if told is None else told.logprob for told in (teacher, batch.before))
    return masks.Hits(right(logprob), right(large), batch.mask, right(before))


def _last(lots_NBR: Array | None) -> Array | None:
    """Draws as a column: [B, R, N]."""
    return None if lots_NBR is None else jnp.moveaxis(lots_NBR, 0, -1)


def _first(lots_BRN: Array | None) -> Array | None:
    """And back."""
    return None if lots_BRN is None else jnp.moveaxis(lots_BRN, -1, 0)
