"""One configurable decoder-only transformer: token ids to hidden states to logits.

``hidden`` and ``unembed`` are separate, so that chunked losses, multi-token heads and pooled
embeddings work from hidden states and no [B, T, V] array is ever forced on them.

Letters: B batch, T tokens, D width, F feed-forward width, V vocabulary.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from cat.config import ModelConfig, check_model
from cat.mesh import on_rows
from cat.models.attention import Attention, visible
from cat.models.cache import Cache, LayerCache, append
from routers.errors import InputError


class Output(NamedTuple):
    """Final hidden states (after the last norm) and, when one was given, the new cache."""

    hidden: Float[Array, "B T D"]
    cache: Cache | Any  # None without one


class FeedForward(nnx.Module):
    """Gated feed-forward: down(silu(gate(x)) * up(x)). Source: GLU variants (2002.05202)."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        D, F = config.width, config.ffn
        init = jax.nn.initializers.variance_scaling(0.5 / config.layers, "fan_in", "normal")
        wide = jax.nn.initializers.variance_scaling(1.0, "fan_in", "normal")
        self.gate = nnx.Linear(D, F, use_bias=False, kernel_init=wide, rngs=rngs)
        self.up = nnx.Linear(D, F, use_bias=False, kernel_init=wide, rngs=rngs)
        self.down = nnx.Linear(F, D, use_bias=False, kernel_init=init, rngs=rngs)

    def __call__(self, x_BTD: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Each position on its own."""
        return self.down(jax.nn.silu(self.gate(x_BTD)) * self.up(x_BTD))


class Layer(nnx.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.attention_norm = nnx.RMSNorm(config.width, epsilon=config.norm_eps, rngs=rngs)
        self.attention = Attention(config, rngs=rngs)
        self.ffn_norm = nnx.RMSNorm(config.width, epsilon=config.norm_eps, rngs=rngs)
        self.ffn = FeedForward(config, rngs=rngs)

    def __call__(
        self,
        x_BTD: Float[Array, "B T D"],
        positions_BT: Int[Array, "B T"],
        visible_BTS: Bool[Array, "B T S"],
        cache: LayerCache | None,
        index: Int[Array, ""] | None,
    ) -> tuple[Float[Array, "B T D"], LayerCache | None]:
        """One block; returns the layer's cache with the new keys and values written."""
        mixed, cache = self.attention(
            self.attention_norm(x_BTD), positions_BT, visible_BTS, cache, index
        )
        x_BTD = x_BTD + mixed
        return x_BTD + self.ffn(self.ffn_norm(x_BTD)), cache


class Decoder(nnx.Module):
    """Embedding, ``config.layers`` pre-norm blocks, final norm, tied or untied unembedding.

    Use inside ``jax.set_mesh(mesh)``; rows of ``tokens`` may be split over the mesh, and the
    hidden states and logits are split the same way.

    Args:
        config: sizes; ``vocab_size`` must be set.
        rngs: seeds the weights; scales are fan-in normal, residual outputs / sqrt(2 layers)
            (our choice).

    Raises:
        InputError: sizes that do not fit together.

    >>> config = ModelConfig(width=8, layers=1, heads=4, head_dim=2, ffn=8, vocab_size=5)
    >>> model = Decoder(config, rngs=nnx.Rngs(0))
    >>> row = jnp.array([[1, 4, 3]])
    >>> hidden = model.hidden(row, jnp.array([[0, 1, 2]]), jnp.ones_like(row)).hidden
    >>> hidden.shape, model.unembed(hidden).shape
    ((1, 3, 8), (1, 3, 5))
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        check_model("model", config)
        if config.vocab_size < 1:  # 0 is fine in a configuration: the tokenizer's
            raise InputError("model.vocab_size=0; set it to the tokenizer's vocab_size")
        self.config = config
        init = jax.nn.initializers.normal(config.width**-0.5)
        self.embed = nnx.Embed(config.vocab_size, config.width, embedding_init=init, rngs=rngs)
        self.layers = nnx.List([Layer(config, rngs=rngs) for _ in range(config.layers)])
        self.norm = nnx.RMSNorm(config.width, epsilon=config.norm_eps, rngs=rngs)
        if not config.tied_embeddings:
            wide = jax.nn.initializers.variance_scaling(1.0, "fan_in", "normal")
            self.head = nnx.Linear(
                config.width, config.vocab_size, use_bias=False, kernel_init=wide, rngs=rngs
            )

    def hidden(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        segments: Int[Array, "B T"],
        cache: Cache | None = None,
    ) -> Output:
        """Final hidden states of T tokens.

        Args:
            tokens: ids in [0, V).
            positions: place of each token within its segment, from 0; in a row of a cache,
                from where that row stopped.
            segments: 0 = pad; a token sees only earlier tokens of its own positive segment.
            cache: earlier tokens; None = these are all there are.

        Returns:
            ``hidden`` [B, T, D] and the cache after these tokens (None without one). At pads,
            hidden states are finite and mean nothing.
        """
        if cache is not None:  # its rows are split over the mesh, and must meet rows split alike
            tokens, positions, segments = map(on_rows, (tokens, positions, segments))
        x_BTD = self.embed(tokens, out_sharding=_rows_like(tokens))
        k_positions, k_segments, index = positions, segments, None
        if cache is not None:
            index = cache.next_slot
            k_positions = append(cache.positions, positions, index)
            k_segments = append(cache.segments, segments, index)
        visible_BTS = visible(positions, segments, k_positions, k_segments)
        written = []
        for i, layer in enumerate(self.layers):
            layer_cache = None if cache is None else cache.layers[i]
            x_BTD, layer_cache = layer(x_BTD, positions, visible_BTS, layer_cache, index)
            written.append(layer_cache)
        if cache is not None:
            index = cache.next_slot + tokens.shape[1]
            cache = Cache(tuple(written), k_positions, k_segments, index)
        return Output(self.norm(x_BTD), cache)

    def unembed(self, hidden: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
        """Logits in float32; with tied embeddings, products with the embedding rows."""
        logits = self.embed.attend(hidden) if self.config.tied_embeddings else self.head(hidden)
        return logits.astype(jnp.float32)


def _rows_like(tokens: Array) -> jax.sharding.NamedSharding | None:
    """The sharding of embedded tokens; a gather cannot tell it by itself on an explicit mesh."""
    sharding = jax.typeof(tokens).sharding
    return None if sharding.mesh.empty else sharding.update(spec=jax.P(*sharding.spec, None))
