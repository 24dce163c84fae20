"""The key-value cache: what attention has already seen, as plain arrays.

A slot holds one token of every row. ``segments`` says which slots count (0 = empty), so a
token is rejected by writing 0 there, without moving anything. All rows share one write index.

Letters: B batch, T new tokens, S slots, K key/value heads, C head size.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from cat.mesh import row_zeros
from cat.models.config import ModelConfig


class LayerCache(NamedTuple):
    """Keys (already rotated) and values of one layer."""

    k: Float[Array, "B S K C"]
    v: Float[Array, "B S K C"]


class Cache(NamedTuple):
    """Every layer's keys and values, and the position and segment of each slot."""

    layers: tuple[LayerCache, ...]
    positions: Int[Array, "B S"]
    segments: Int[Array, "B S"]  # 0 = empty
    next_slot: Int[Array, ""]  # the next slot to write, the same for all rows


def empty_cache(config: ModelConfig, rows: int, slots: int) -> Cache:
    """A cache of ``slots`` empty slots for ``rows`` rows, split over the current mesh."""
    slots_BS = row_zeros((rows, slots), jnp.int32)
    shape = (rows, slots, config.kv_heads, config.head_dim)
    kv_BSKC = row_zeros(shape, jnp.dtype(config.dtype), heads=2)
    layers = tuple(LayerCache(kv_BSKC, kv_BSKC) for _ in range(config.layers))
    return Cache(layers, slots_BS, slots_BS, jnp.int32(0))


def append(old_BS: Array, new_BT: Array, index: Int[Array, ""]) -> Array:
    """Write T slots from ``index`` on; writing past the last slot is the caller's error."""
    new_BT = new_BT.astype(old_BS.dtype)
    sharding = jax.typeof(old_BS).sharding
    if not sharding.mesh.empty:  # the write needs equal types; tokens may come unsharded
        new_BT = jax.reshard(new_BT, sharding)
    return lax.dynamic_update_slice_in_dim(old_BS, new_BT, index, axis=1)
