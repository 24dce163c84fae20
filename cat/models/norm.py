"""Root-mean-square layer norm, in float32 whatever comes in."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from cat.models.config import ModelConfig


class RMSNorm(nnx.Module):
    """x / sqrt(mean(x^2) + eps) * scale over the last axis.

    With ``config.norm_plus_one`` the stored parameter is scale - 1, as in Gemma; added at use
    and not at loading, so that a checkpoint's numbers come back as they were.

    Source: RMSNorm (1910.07467), eq. 4.

    >>> norm = RMSNorm(2, ModelConfig(norm_eps=0.0), rngs=nnx.Rngs(0))
    >>> norm(jnp.array([[3.0, -4.0]])).tolist()
    [[0.8485281467437744, -1.1313709020614624]]
    """

    def __init__(self, size: int, config: ModelConfig, *, rngs: nnx.Rngs):
        self.eps = config.norm_eps
        self.plus_one = config.norm_plus_one
        ones, zeros = nnx.initializers.ones_init(), nnx.initializers.zeros_init()
        start = zeros if self.plus_one else ones
        self.scale = nnx.Param(start(rngs.params(), (size,), jnp.float32))

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        """The same shape and dtype."""
        x32 = x.astype(jnp.float32)
        scale = self.scale[...].astype(jnp.float32) + float(self.plus_one)
        factor = lax.rsqrt(jnp.mean(jax.lax.square(x32), axis=-1, keepdims=True) + self.eps)
        scale = lax.expand_dims(scale, range(x.ndim - 1))
        return (x32 * (factor * scale)).astype(x.dtype)
