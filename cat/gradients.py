"""Value and gradient of an arm on one batch, whole or in parts one after another.

Parts give the same numbers as the whole, up to rounding: every sum over the batch's tokens is
divided by the whole batch's, and a mask's draws and rates are the whole batch's.

Letters: B batch, T tokens, R response places, P parts, N draws of a mask.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cat import masks, response
from cat.config import ArmConfig
from cat.mesh import reshape
from cat.models.decoder import Decoder
from cat.objective import Large, Whole, hits, metrics, objective, ramp
from cat.types import Batch

Make = Callable[[Any], Decoder]
"""Parameters to the model."""


def gradients(
    arm: ArmConfig,
    make: Make,
    params: Any,
    large: Decoder | None,
    batch: Batch,
    key: Array,
    step: Int[Array, ""],
    response_width: int,
    accumulate: int = 1,
    families: int = 0,
) -> tuple[Float[Array, ""], dict[str, Array], Any]:
    """The arm's loss (nats per token), metrics and gradient with respect to ``params``.

    Args:
        make: the small model of its parameters.
        large: the live teacher, if any.
        batch: columns [B, T].
        key: of this step; ``random(...)`` in a mask draws with it.
        step: from 0; a mask's warm-up reads it.
        response_width: R, at least every row's counted targets.
        accumulate: parts to cut the batch into; activations of one are held at a time.
        families: how many ``Batch.family`` tells apart.
    """
    at_BR = response.places(batch.mask, response_width)
    lots_NBR = masks.draw(arm.mask, key, at_BR.shape)
    part = functools.partial(_hidden, make, large)
    parts = jax.tree.map(
        functools.partial(_parts, accumulate),
        (batch, at_BR, None if lots_NBR is None else jnp.moveaxis(lots_NBR, 0, -1)),
    )
    tokens = jnp.maximum(batch.mask.sum(), 1.0)
    rates = None if lots_NBR is None else _rates(arm, part, params, parts, tokens)
    whole = Whole(tokens, rates, ramp(arm, step))

    def loss(params: Any, piece: Any) -> tuple[Array, dict[str, Array]]:
        batch, at_BR, lots_BRN = piece
        unembedding, hidden_BRD, near, behind = part(params, batch, at_BR)
        lots = None if lots_BRN is None else jnp.moveaxis(lots_BRN, -1, 0)
        value, told = objective(arm, unembedding, hidden_BRD, near, behind, lots, whole)
        return value, metrics(told, near, families)

    gradient = jax.value_and_grad(loss, has_aux=True)
    (value, sums), grads = _added(lambda piece: gradient(params, piece), parts)
    if arm.denominator == "kept":
        scale = tokens / jnp.maximum(sums["kept"], 1.0)
        value, grads = value * scale, jax.tree.map(lambda g: g * scale.astype(g.dtype), grads)
    for suffix in ("", "_F") if "kept_F" in sums else ("",):  # a family without tokens: NaN
        least = 0.0 if suffix else 1.0
        kept, counted = sums.pop(f"kept{suffix}"), sums.pop(f"counted{suffix}")
        sums[f"keep_rate{suffix}"] = kept / jnp.maximum(counted, least)
    return value, sums, grads


def _hidden(
    make: Make, large: Decoder | None, params: Any, batch: Batch, at_BR: Array
) -> tuple[Any, Array, Batch, Large | None]:
    """Both models' hidden states at the response places, and the batch's columns there."""
    small, near = make(params), response.narrow(batch, at_BR)
    unembedding, hidden_BRD = small.unembedding(), _states(small, batch, at_BR)
    if large is None:
        return unembedding, hidden_BRD, near, None
    behind_BRD = jax.lax.stop_gradient(_states(large, batch, at_BR))
    return unembedding, hidden_BRD, near, Large(large.unembedding(), behind_BRD)


def _states(model: Decoder, batch: Batch, at_BR: Array) -> Array:
    """Teacher-forced hidden states at the response places."""
    return response.take(model.hidden(batch.tokens, batch.positions, batch.segments).hidden, at_BR)


def _rates(arm: ArmConfig, part: Any, params: Any, parts: Any, tokens: Array) -> Array:
    """The whole batch's rate of each ``random(...)``: a pass of its own, as hits come first."""

    def kept(piece: Any) -> Array:
        batch, at_BR, _ = piece
        unembedding, hidden_BRD, near, behind = part(params, batch, at_BR)
        known = hits(arm, unembedding, hidden_BRD, near, behind)
        rates_N = masks.rates(arm.mask, known)
        assert rates_N is not None, "a mask with draws has rates"
        return rates_N * jnp.maximum(known.mask_BT.sum(), 1.0)

    return jax.lax.stop_gradient(_added(kept, parts)) / tokens


def _parts(count: int, column: Array) -> Array:
    """[B, ...] as [P, B / P, ...]: each part has rows of every device."""
    if count == 1:
        return column[None]
    B, *rest = column.shape
    return jnp.moveaxis(reshape(column, B // count, count, *rest), 1, 0)


def _added(run: Callable[[Any], Any], parts: Any) -> Any:
    """The sum of ``run`` over parts, one after another."""
    first = jax.tree.map(lambda column: column[0], parts)
    total = run(first)
    if len(jax.tree.leaves(parts)[0]) == 1:
        return total
    others = jax.tree.map(lambda column: column[1:], parts)

    def add(total: Any, piece: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, run(piece)), None

    return jax.lax.scan(add, total, others)[0]
