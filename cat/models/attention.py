"""Grouped-query attention over explicit positions and segments.

What attention means is ``cat.models.plain``; other paths compute the same without the T x S
scores: ``cat.models.blockwise`` anywhere, ``cat.models.kernels`` through a library.

Letters: B batch, T query tokens, S key tokens, D width, H query heads, K key/value heads,
C head size.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from cat.mesh import reshape
from cat.models import kernels
from cat.models.blockwise import blockwise
from cat.models.cache import LayerCache, append
from cat.models.config import AttentionPath, ModelConfig, RopeScaling
from cat.models.norm import RMSNorm
from cat.models.plain import Places, attend, cap, visible
from cat.models.positions import inverse_frequencies, rotate
from cat.models.product import Projection

__all__ = ["Attention", "Places", "attend", "cap", "visible"]

FAN_IN_D = jax.nn.initializers.variance_scaling(1.0, "fan_in", "normal", in_axis=0, out_axis=(1, 2))

PLAIN_LIMIT = 512 * 512
"""Queries x keys up to which ``auto`` takes the plain path: scores of 1 MiB per row and head.
Beyond, blocks are both smaller and faster on a CPU (benchmarks/attention.py)."""

Path = Literal["plain", "blockwise", "cudnn", "splash"]


def path_of(asked: AttentionPath, queries: int, keys: int, *, cached: bool) -> Path:
    """Which path computes T queries on S keys: the one asked for, or a choice by size.

    ``auto`` is plain up to PLAIN_LIMIT query-key pairs and blockwise beyond, on every platform
    (our choice). A library's kernel runs only where it is asked for by name; since neither knows
    a cache, calls with one (scoring token by token, generating) go as under ``auto``.

    >>> path_of("auto", 512, 512, cached=False), path_of("auto", 8192, 8192, cached=False)
    ('plain', 'blockwise')
    >>> path_of("splash", 512, 512, cached=False), path_of("splash", 1, 512, cached=True)
    ('splash', 'plain')
    """
    if asked in ("plain", "blockwise") or (asked != "auto" and not cached):
        return asked
    return "plain" if queries * keys <= PLAIN_LIMIT else "blockwise"


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

        def project(heads: int, letters: str) -> Projection:
            bias = (heads, C) if config.qkv_bias else None
            shape = (D, heads, C)
            return Projection(letters, shape, bias, kernel_init=FAN_IN_D, dtype=dtype, rngs=rngs)

        dtype = jnp.dtype(config.dtype)
        self.query = project(H, "BTD,DHC->BTHC")
        self.key = project(K, "BTD,DKC->BTKC")
        self.value = project(K, "BTD,DKC->BTKC")
        # residual branches start small: 1 / sqrt(2 layers) of the usual scale
        scale = 1.0 / (2 * config.layers)
        init = jax.nn.initializers.variance_scaling(
            scale, "fan_in", "normal", in_axis=(0, 1), out_axis=2
        )
        self.out = Projection("BTHC,HCD->BTD", (H, C, D), kernel_init=init, dtype=dtype, rngs=rngs)
        if config.qk_norm != "none":
            whole = config.qk_norm == "projection"
            self.query_norm = RMSNorm(H * C if whole else C, config, rngs=rngs)
            self.key_norm = RMSNorm(K * C if whole else C, config, rngs=rngs)

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
        return self.out(self._mixed(q_BTHC, k, v, places, cached=cache is not None)), cache

    def _mixed(
        self, q_BTHC: Array, k_BSKC: Array, v_BSKC: Array, places: Places, *, cached: bool
    ) -> Array:
        """Values mixed by attention, by the path that the configuration asks for."""
        config, window, softcap = self.config, self.window, self.config.attention_softcap
        qkv = q_BTHC, heads_like(k_BSKC, q_BTHC), heads_like(v_BSKC, q_BTHC)
        scale = config.attention_scale or config.head_dim**-0.5
        match path_of(config.attention, q_BTHC.shape[1], k_BSKC.shape[1], cached=cached):
            case "plain":
                return attend(*qkv, visible(places, window), scale=scale, softcap=softcap)
            case "blockwise":
                return blockwise(*qkv, places, scale=scale, window=window, softcap=softcap)
            case "splash":
                return kernels.splash(*qkv, places, scale=scale, window=window, softcap=softcap)
            case "cudnn":  # without a soft-cap: check_model has refused one
                return kernels.cudnn(*qkv, places, scale=scale, window=window)

    def _normed(self, norm: RMSNorm, x_BTHC: Array) -> Array:
        """Each head by itself, or all heads of a token as one vector."""
        if self.config.qk_norm == "head":
            return norm(x_BTHC)
        B, T, H, C = x_BTHC.shape
        return reshape(norm(reshape(x_BTHC, B, T, H * C)), B, T, H, C)


def heads_like(x_BSKC: Float[Array, "B S K C"], q_BTHC: Float[Array, "B T H C"]) -> Array:
    """Key/value heads where the query heads that read them are.

    Query heads may be split over ``tensor`` more finely than key/value heads can be. Each query
    head then gets its own copy of what it reads, [B, S, H, C], split as the queries are.
    """
    wanted, found = (jax.typeof(x).sharding for x in (q_BTHC, x_BSKC))
    if wanted.mesh.empty or found.spec[2] == wanted.spec[2]:
        return x_BSKC
    B, S, K, C = x_BSKC.shape
    G = q_BTHC.shape[2] // K
    copies_BSKGC = jnp.broadcast_to(x_BSKC[:, :, :, None], (B, S, K, G, C))
    return jax.reshard(reshape(copies_BSKGC, B, S, K * G, C), wanted.spec)
