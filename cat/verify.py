"""Which drafts stay: acceptance and residual against any target distribution.

Letters: B rows, G drafts, W = G + 1 places, V vocabulary.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key


def verify(
    drafts: Int[Array, "B G"],
    q: Float[Array, "B W V"],
    target: Float[Array, "B W V"],
    keys: Key[Array, " B"],
) -> tuple[Int[Array, " B"], Int[Array, " B"]]:
    """How many of the G drafts stay, and the token after them; W = G + 1.

    Draft v at place g stays with probability min(1, target(v) / q(v)) if all before it did.

    Args:
        drafts: tokens drawn from ``q`` at the first G places.
        q: the small model's distributions, drafts' and the one after.
        target: pi at the same places.
        keys: one per row.
    """
    W = q.shape[1]
    accept_keys, token_keys = numbered(keys, 0), numbered(keys, 1)
    chance = jax.vmap(lambda key: jax.random.uniform(key, (W - 1,)))(accept_keys)
    stays = accepted(chance, _at(q[:, :-1], drafts), _at(target[:, :-1], drafts))
    kept = jnp.sum(jnp.cumprod(stays.astype(jnp.int32), axis=1), axis=1)
    place = jnp.arange(W)[None, :]
    weights_BWV = jnp.where((place < W - 1)[:, :, None], residual(q, target), target)
    here = (place == kept[:, None])[:, :, None]
    weights_BV = jnp.sum(jnp.where(here, weights_BWV, 0.0), axis=1)
    token = jax.vmap(jax.random.categorical)(token_keys, jnp.log(weights_BV))
    return kept, token.astype(jnp.int32)


def accepted(
    chance: Float[Array, "*B"], q: Float[Array, "*B"], target: Float[Array, "*B"]
) -> Bool[Array, "*B"]:
    """chance < target / q, for ``chance`` uniform on [0, 1) and both at the drafted token."""
    return chance * q < target


def residual(q: Float[Array, "*B V"], target: Float[Array, "*B V"]) -> Float[Array, "*B V"]:
    """max(0, target - q), not normalised; the target itself where rounding leaves nothing."""
    rest = jnp.maximum(target - q, 0.0)
    return jnp.where(jnp.sum(rest, axis=-1, keepdims=True) > 0, rest, target)


def acceptance_rate(q: Float[Array, "*B V"], target: Float[Array, "*B V"]) -> Float[Array, "*B"]:
    """Probability that a draft stays: sum_v min(q, target) = 1 - TV(q, target).

    Source: Leviathan et al. (2211.17192), section 3.2, for pi = p.

    >>> float(acceptance_rate(jnp.array([0.5, 0.5]), jnp.array([0.25, 0.75])))
    0.75
    """
    return jnp.sum(jnp.minimum(q, target), axis=-1)


def numbered(keys: Key[Array, " B"], number: Int[Array, ""] | int) -> Key[Array, " B"]:
    """Each key's own key of that number."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, number)


def _at(values_BGV: Array, tokens_BG: Array) -> Array:
    """[B, G] values at these tokens; a masked sum, as a gather loses a one-row sharding."""
    ids = jnp.arange(values_BGV.shape[-1])[None, None, :]
    return jnp.sum(jnp.where(ids == tokens_BG[:, :, None], values_BGV, 0.0), axis=-1)
