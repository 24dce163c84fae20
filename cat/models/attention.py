"""Grouped-query attention over explicit positions and segments.

Letters: B batch, T query tokens, S key tokens, D width, H query heads, K key/value heads,
G query heads per key/value head, C head size.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from cat.config import ModelConfig
from cat.models.cache import LayerCache, append
from cat.models.positions import rotate

FAN_IN_D = jax.nn.initializers.variance_scaling(1.0, "fan_in", "normal", in_axis=0, out_axis=(1, 2))


def visible(
    q_positions: Int[Array, "B T"],
    q_segments: Int[Array, "B T"],
    k_positions: Int[Array, "B S"],
    k_segments: Int[Array, "B S"],
) -> Bool[Array, "B T S"]:
    """Which keys each query may see: same positive segment, position not after its own.

    One rule for left and right padding (segment 0), packing (several segments a row) and
    cached decoding (empty slots have segment 0).

    >>> positions, segments = jnp.array([[0, 1, 0]]), jnp.array([[1, 1, 2]])
    >>> visible(positions, segments, positions, segments)[0].astype(int).tolist()
    [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    """
    same = q_segments[:, :, None] == k_segments[:, None, :]
    past = k_positions[:, None, :] <= q_positions[:, :, None]
    return same & past & (q_segments > 0)[:, :, None]


def attend(
    q_BTHC: Float[Array, "B T H C"],
    k_BSKC: Float[Array, "B S K C"],
    v_BSKC: Float[Array, "B S K C"],
    visible_BTS: Bool[Array, "B T S"],
) -> Float[Array, "B T H C"]:
    """softmax(q k / sqrt(C)) v over the visible keys; exactly 0 for a query that sees none.

    Query head h reads key/value head h // G. The softmax is in float32.

    Source: Attention Is All You Need (1706.03762), eq. 1; grouped heads: GQA (2305.13245).
    """
    B, T, H, C = q_BTHC.shape
    K = k_BSKC.shape[2]
    q_BTKGC = q_BTHC.reshape(B, T, K, H // K, C)
    scores = jnp.einsum("BTKGC,BSKC->BKGTS", q_BTKGC, k_BSKC).astype(jnp.float32) * C**-0.5
    mask = visible_BTS[:, None, None, :, :]
    scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(v_BSKC.dtype)
    mixed_BTHC = jnp.einsum("BKGTS,BSKC->BTKGC", weights, v_BSKC).reshape(B, T, H, C)
    # a query with no visible key has uniform weights, and must give 0
    sees_BT = jnp.any(visible_BTS, axis=-1)
    return jnp.where(sees_BT[:, :, None, None], mixed_BTHC, 0.0)


class Attention(nnx.Module):
    """Projections around ``attend``; rotary positions on queries and keys."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        D, H, K, C = config.width, config.heads, config.kv_heads, config.head_dim
        self.base = config.rope_base
        self.query = nnx.Einsum("BTD,DHC->BTHC", (D, H, C), kernel_init=FAN_IN_D, rngs=rngs)
        self.key = nnx.Einsum("BTD,DKC->BTKC", (D, K, C), kernel_init=FAN_IN_D, rngs=rngs)
        self.value = nnx.Einsum("BTD,DKC->BTKC", (D, K, C), kernel_init=FAN_IN_D, rngs=rngs)
        # residual branches start small: 1 / sqrt(2 layers) of the usual scale
        scale = 1.0 / (2 * config.layers)
        init = jax.nn.initializers.variance_scaling(
            scale, "fan_in", "normal", in_axis=(0, 1), out_axis=2
        )
        self.out = nnx.Einsum("BTHC,HCD->BTD", (H, C, D), kernel_init=init, rngs=rngs)

    def __call__(
        self,
        x_BTD: Float[Array, "B T D"],
        positions_BT: Int[Array, "B T"],
        visible_BTS: Bool[Array, "B T S"],
        cache: LayerCache | None,
        index: Int[Array, ""] | None,
    ) -> tuple[Float[Array, "B T D"], LayerCache | None]:
        """Attention of T tokens to S keys: the T themselves, or the cache's S slots."""
        q_BTHC = rotate(self.query(x_BTD), positions_BT, self.base)
        k = rotate(self.key(x_BTD), positions_BT, self.base)
        v = self.value(x_BTD)
        if cache is not None and index is not None:
            cache = LayerCache(append(cache.k, k, index), append(cache.v, v, index))
            k, v = cache
        return self.out(attend(q_BTHC, k, v, visible_BTS)), cache
