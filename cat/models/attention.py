"""Grouped-query attention over explicit positions and segments.

Letters: B batch, T query tokens, S key tokens, D width, H query heads, K key/value heads,
G query heads per key/value head, C head size.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from cat.models.cache import LayerCache, append
from cat.models.config import ModelConfig, RopeScaling
from cat.models.norm import RMSNorm
from cat.models.positions import inverse_frequencies, rotate

FAN_IN_D = jax.nn.initializers.variance_scaling(1.0, "fan_in", "normal", in_axis=0, out_axis=(1, 2))


class Places(NamedTuple):
    """Where queries and keys stand; a segment is a text of a row, 0 = pad or empty slot."""

    q_positions: Int[Array, "B T"]
    q_segments: Int[Array, "B T"]
    k_positions: Int[Array, "B S"]
    k_segments: Int[Array, "B S"]


def visible(places: Places, window: int = 0) -> Bool[Array, "B T S"]:
    """Which keys each query may see: same positive segment, position not after its own.

    One rule for left and right padding (segment 0), packing (several segments a row) and
    cached decoding (empty slots have segment 0). With a window, only the last ``window``
    positions are seen, the query's own included.

    >>> positions, segments = jnp.array([[0, 1, 0]]), jnp.array([[1, 1, 2]])
    >>> places = Places(positions, segments, positions, segments)
    >>> visible(places)[0].astype(int).tolist()
    [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    >>> visible(places, window=1)[0].astype(int).tolist()
    [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    """
    q_positions, q_segments = places.q_positions[:, :, None], places.q_segments[:, :, None]
    k_positions, k_segments = places.k_positions[:, None, :], places.k_segments[:, None, :]
    seen = (q_segments == k_segments) & (k_positions <= q_positions) & (q_segments > 0)
    return seen & (k_positions > q_positions - window) if window else seen


def attend(
    q_BTHC: Float[Array, "B T H C"],
    k_BSKC: Float[Array, "B S K C"],
    v_BSKC: Float[Array, "B S K C"],
    visible_BTS: Bool[Array, "B T S"],
    *,
    scale: float,
    softcap: float = 0.0,
) -> Float[Array, "B T H C"]:
    """softmax(scale q k) v over the visible keys; exactly 0 for a query that sees none.

    Query head h reads key/value head h // G. The softmax is in float32. A soft-cap bends
    scores s to softcap tanh(s / softcap).

    Source: Attention Is All You Need (1706.03762), eq. 1; grouped heads: GQA (2305.13245);
    soft-cap: Gemma 2 (2408.00118), section 2.
    """
    B, T, H, C = q_BTHC.shape
    K = k_BSKC.shape[2]
    q_BTKGC = q_BTHC.reshape(B, T, K, H // K, C)
    scores = jnp.einsum("BTKGC,BSKC->BKGTS", q_BTKGC, k_BSKC, preferred_element_type=jnp.float32)
    scores = cap(scores * scale, softcap)
    mask = visible_BTS[:, None, None, :, :]
    scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(v_BSKC.dtype)
    mixed_BTHC = jnp.einsum("BKGTS,BSKC->BTKGC", weights, v_BSKC).reshape(B, T, H, C)
    # a query with no visible key has uniform weights, and must give 0
    sees_BT = jnp.any(visible_BTS, axis=-1)
    return jnp.where(sees_BT[:, :, None, None], mixed_BTHC, jnp.zeros((), mixed_BTHC.dtype))


def cap(x: Float[Array, ...], limit: float) -> Float[Array, ...]:
    """limit tanh(x / limit), which stays within (-limit, limit); x itself when limit is 0."""
    return limit * jnp.tanh(x / limit) if limit else x


class Attention(nnx.Module):
    """Projections around ``attend``; rotary positions on queries and keys.

    Args:
        config: the model's sizes and switches.
        layer: which layer this is; its window and rotary base depend on it.
        rngs: seeds the weights.
    """

    def __init__(self, config: ModelConfig, layer: int, *, rngs: nnx.Rngs):
        D, H, K, C = config.width, config.heads, config.kv_heads, config.head_dim
        self.config = config
        self.window = config.window(layer)

        def project(heads: int, letters: str) -> nnx.Einsum:
            bias = (heads, C) if config.qkv_bias else None
            shape = (D, heads, C)
            return nnx.Einsum(letters, shape, bias, kernel_init=FAN_IN_D, dtype=dtype, rngs=rngs)

        dtype = jnp.dtype(config.dtype)
        self.query = project(H, "BTD,DHC->BTHC")
        self.key = project(K, "BTD,DKC->BTKC")
        self.value = project(K, "BTD,DKC->BTKC")
        # residual branches start small: 1 / sqrt(2 layers) of the usual scale
        scale = 1.0 / (2 * config.layers)
        init = jax.nn.initializers.variance_scaling(
            scale, "fan_in", "normal", in_axis=(0, 1), out_axis=2
        )
        self.out = nnx.Einsum("BTHC,HCD->BTD", (H, C, D), kernel_init=init, dtype=dtype, rngs=rngs)
        if config.qk_norm != "none":
            whole = config.qk_norm == "projection"
            self.query_norm = RMSNorm(H * C if whole else C, config)
            self.key_norm = RMSNorm(K * C if whole else C, config)

    def __call__(
        self,
        x_BTD: Float[Array, "B T D"],
        places: Places,
        cache: LayerCache | None,
        index: Int[Array, ""] | None,
    ) -> tuple[Float[Array, "B T D"], LayerCache | None]:
        """Attention of T tokens to S keys: the T themselves, or the cache's S slots."""
        config = self.config
        q_BTHC, k = self.query(x_BTD), self.key(x_BTD)
        if config.qk_norm != "none":
            q_BTHC, k = self._normed(self.query_norm, q_BTHC), self._normed(self.key_norm, k)
        local = self.window > 0 and config.rope_local_base > 0
        base = config.rope_local_base if local else config.rope_base
        scaling = RopeScaling() if local else config.rope_scaling
        frequencies = inverse_frequencies(config.head_dim, base, scaling)
        q_BTHC = rotate(q_BTHC, places.q_positions, frequencies)
        k = rotate(k, places.q_positions, frequencies)
        v = self.value(x_BTD)
        if cache is not None and index is not None:
            cache = LayerCache(append(cache.k, k, index), append(cache.v, v, index))
            k, v = cache
        scale = config.attention_scale or config.head_dim**-0.5
        seen_BTS = visible(places, self.window)
        mixed = attend(q_BTHC, k, v, seen_BTS, scale=scale, softcap=config.attention_softcap)
        return self.out(mixed), cache

    def _normed(self, norm: RMSNorm, x_BTHC: Array) -> Array:
        """Each head by itself, or all heads of a token as one vector."""
        if self.config.qk_norm == "head":
            return norm(x_BTHC)
        B, T, H, C = x_BTHC.shape
        return norm(x_BTHC.reshape(B, T, H * C)).reshape(B, T, H, C)
