"""Rotary position embedding (RoPE) from arrays of positions.

Letters: B batch, T tokens, H heads, C head size.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cat.models.config import RopeScaling


def inverse_frequencies(
    head_dim: int, base: float, scaling: RopeScaling = RopeScaling()
) -> Float[Array, " half"]:
    """base^(-2 i / C) for i in 0 .. C/2 - 1, in radians per position, stretched by ``scaling``.

    With ``llama3`` and n = original_length f / (2 pi) turns of frequency f in the trained
    context: f / factor for n < low, f for n > high, and between them
    (1 - s) f / factor + s f with s = (n - low) / (high - low).

    >>> inverse_frequencies(4, 100.0).tolist()
    [1.0, 0.10000000149011612]
    >>> inverse_frequencies(4, 100.0, RopeScaling("linear", factor=2.0)).tolist()
    [0.5, 0.05000000074505806]
    """
    exponent = jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim
    plain = 1.0 / base**exponent
    if scaling.kind == "none":
        return plain
    stretched = plain / scaling.factor
    if scaling.kind == "linear":
        return stretched
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    turns = scaling.original_length * plain / (2 * jnp.pi)
    keep = jnp.clip((turns - low) / (high - low), 0.0, 1.0)
    return (1 - keep) * stretched + keep * plain


def rotate(
    x_BTHC: Float[Array, "B T H C"],
    positions_BT: Int[Array, "B T"],
    frequencies: Float[Array, " half"],
) -> Float[Array, "B T H C"]:
    """Turn each pair (x_i, x_{i + C/2}) by the angle position * frequency_i.

    The pairing is the half-split one of Llama checkpoints in Hugging Face format
    (``rotate_half``), not the interleaved one of the paper; the two differ by a fixed
    permutation of the head's channels. Rotations add: turning by p, then by q, is turning by
    p + q, so keys that are cached after rotation can still be moved to another position.

    Source: RoFormer (2104.09864), section 3.2.2; pairing as in transformers' Llama.
    """
    angle_BTc = positions_BT.astype(jnp.float32)[..., None] * frequencies[None, None, :]
    cos, sin = jnp.cos(angle_BTc)[:, :, None, :], jnp.sin(angle_BTc)[:, :, None, :]
    # kept apart, or XLA on CPU computes them again in every fusion: a quarter of a small step
    cos, sin = jax.lax.optimization_barrier((cos, sin))
    first, second = jnp.split(x_BTHC.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x_BTHC.dtype)
