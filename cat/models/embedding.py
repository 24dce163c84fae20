"""Rows of the embedding table by token id, wherever the table lies.

Letters: B batch, T tokens, V vocabulary, D width.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int


def look_up(table_VD: Float[Array, "V D"], tokens_BT: Int[Array, "B T"]) -> Float[Array, "B T D"]:
    """``table[tokens]``, rows split as the tokens are.

    Of a table split over ``tensor`` each device reads its own part of the vocabulary, and the
    parts are added: all but one are 0. What ``fsdp`` splits is gathered before, and its gradient
    scattered after.

    >>> look_up(jnp.array([[1.0], [2.0]]), jnp.array([[1, 0, 1]]))[0, :, 0].tolist()
    [2.0, 1.0, 2.0]
    """
    table, tokens = jax.typeof(table_VD).sharding, jax.typeof(tokens_BT).sharding
    if table.mesh.empty and tokens.mesh.empty:
        return jnp.take(table_VD, tokens_BT, axis=0)
    axes = (*table.spec, None, None)[:2]

    def local(table_vd: Array, tokens: Array) -> Array:
        if "fsdp" in axes:
            table_vd = lax.all_gather(table_vd, "fsdp", axis=axes.index("fsdp"), tiled=True)
        if axes[0] != "tensor":
            return jnp.take(table_vd, tokens, axis=0)
        size = table_vd.shape[0]
        at = tokens - size * lax.axis_index("tensor").astype(tokens.dtype)
        inside = (at >= 0) & (at < size)
        found = jnp.take(table_vd, jnp.where(inside, at, 0), axis=0)
        return lax.psum(jnp.where(inside[..., None], found, jnp.zeros((), found.dtype)), "tensor")

    rows = jax.P(*tokens.spec)
    specs = jax.P(*axes), rows
    return jax.shard_map(local, in_specs=specs, out_specs=jax.P(*rows, None))(table_VD, tokens_BT)
