"""A key-value cache whose rows keep different numbers of new tokens.

All rows of a cache share one write index (``cat.models.cache``). So a round of W tokens is
written into slots of its own, behind the settled ones, and only what stays is moved: a settled
token's slot is its position. Rolling back costs nothing, and rejected tokens leave no holes.

Letters: B batch, T prompt tokens, S slots, W places of a round.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from cat.models.cache import Cache, LayerCache, empty_cache
from cat.models.decoder import Decoder


def prefill(
    model: Decoder,
    tokens: Int[Array, "B T"],
    counts: Int[Array, " B"],
    *,
    settled: int,
    places: int,
) -> Cache:
    """A cache that holds each row's first ``counts`` tokens, ready for a round.

    Args:
        model: whose cache it is.
        tokens: right-padded ids, T <= ``settled``.
        counts: tokens to keep, 0 to T.
        settled: slots for tokens that stay.
        places: slots of a round, W.
    """
    cache = empty_cache(model.config, tokens.shape[0], settled + places)
    positions = jnp.arange(tokens.shape[1])[None, :] + jnp.zeros_like(tokens)
    segments = (positions < counts[:, None]).astype(jnp.int32)
    cache = model.hidden(tokens, positions, segments, cache).cache
    return cache._replace(next_slot=jnp.int32(settled))


def settle(
    cache: Cache, settled: int, positions_BW: Int[Array, "B W"], stays_BW: Bool[Array, "B W"]
) -> Cache:
    """Move a round's tokens that stay to the slots of their positions; forget the others.

    Args:
        cache: after W tokens were written behind the ``settled`` slots.
        settled: slots for tokens that stay.
        positions_BW: the round's positions, below ``settled`` where a token stays.
        stays_BW: which of the round's tokens stay.
    """
    slots = cache.positions.shape[1]
    to_BW = jnp.where(stays_BW, positions_BW, slots)  # past the end: dropped

    def place(old_BS: Array) -> Array:
        return scatter(old_BS, old_BS[:, settled:], to_BW)

    kept = jnp.where(jnp.arange(slots)[None, :] < settled, cache.segments, 0)
    return Cache(
        tuple(LayerCache(place(layer.k), place(layer.v)) for layer in cache.layers),
        place(cache.positions),
        scatter(kept, jnp.ones_like(positions_BW), to_BW),
        jnp.int32(settled),
    )


def scatter(old_BS: Array, new_BW: Array, to_BW: Int[Array, "B W"]) -> Array:
    """Write each row's W values at its own places of S; places past the end are dropped.

    >>> scatter(jnp.zeros((1, 3), int), jnp.array([[7, 8]]), jnp.array([[2, 3]])).tolist()
    [[0, 0, 7]]
    """

    def row(old: Array, new: Array, to: Array) -> Array:
        return old.at[to].set(new, mode="drop")

    return jax.vmap(row)(old_BS, new_BW.astype(old_BS.dtype), to_BW)
