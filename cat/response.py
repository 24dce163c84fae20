"""The places of a batch that predict a response token: logits are needed nowhere else.

On text with long prompts and short answers most of a small model's cost is the vocabulary, so
hidden states are gathered at these places before they are unembedded.

Letters: B batch, T tokens, R response places (the longest response), D model width.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cat.mesh import reshape
from cat.types import Batch


def places(mask: Float[Array, "B T"], width: int) -> Int[Array, "B R"]:
    """Indices of each row's counted positions, in order, then of others to fill ``width``.

    >>> places(jnp.array([[0.0, 0.0, 1.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0, 0.0]]), 2).tolist()
    [[2, 3], [1, 0]]
    """
    return jnp.argsort(-mask, axis=1, stable=True)[:, :width]


def take(column: Array, at: Int[Array, "B R"]) -> Array:
    """[B, T, ...] at these places: [B, R, ...]."""
    index = reshape(at, *at.shape, *[1] * (column.ndim - 2))
    return jnp.take_along_axis(column, index, axis=1)


def narrow(batch: Batch, at: Int[Array, "B R"]) -> Batch:
    """The batch's columns at these places; the mask still tells which of them count."""
    near: Any = jax.tree.map(lambda column: take(column, at), batch)
    return near
