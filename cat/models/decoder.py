"""One configurable decoder-only transformer: token ids to hidden states to logits.

``hidden`` and ``unembed`` are separate, so that chunked losses, multi-token heads and pooled
embeddings work from hidden states and no [B, T, V] array is ever forced on them.

Letters: B batch, T tokens, D width, F feed-forward width, V vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from cat.mesh import gathered, on_rows
from cat.models.attention import Attention, Places
from cat.models.cache import Cache, LayerCache, append
from cat.models.config import ModelConfig, Remat, check_model
from cat.models.embedding import look_up
from cat.models.norm import RMSNorm
from cat.models.product import Projection
from cat.models.unembedding import Unembedding
from routers.errors import InputError

ACTIVATIONS = {
    "silu": jax.nn.silu,
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
}


class Output(NamedTuple):
    """Final hidden states (after the last norm) and, when one was given, the new cache."""

    hidden: Float[Array, "B T D"]
    cache: Cache | Any  # None without one


class FeedForward(nnx.Module):
    """Gated feed-forward: down(activation(gate(x)) * up(x)). Source: GLU variants (2002.05202)."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        D, F = config.width, config.ffn
        init = jax.nn.initializers.variance_scaling(0.5 / config.layers, "fan_in", "normal")
        wide = jax.nn.initializers.variance_scaling(1.0, "fan_in", "normal")
        self.activation = ACTIVATIONS[config.activation]

        def project(letters: str, rows: int, columns: int, kernel_init: Any) -> Projection:
            kind: dict[str, Any] = dict(dtype=jnp.dtype(config.dtype), kernel_init=kernel_init)
            return Projection(letters, (rows, columns), rngs=rngs, **kind)

        self.gate = project("BTD,DF->BTF", D, F, wide)
        self.up = project("BTD,DF->BTF", D, F, wide)
        self.down = project("BTF,FD->BTD", F, D, init)

    def __call__(self, x_BTD: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Each position on its own."""
        return self.down(self.activation(self.gate(x_BTD)) * self.up(x_BTD))


class Layer(nnx.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x)); or norms after, or both."""

    def __init__(self, config: ModelConfig, layer: int, *, rngs: nnx.Rngs):
        self.norms = config.norms

        def norm() -> RMSNorm:
            return RMSNorm(config.width, config, rngs=rngs)

        if self.norms != "after":
            self.attention_norm = norm()
        self.attention = Attention(config, layer, rngs=rngs)
        if self.norms != "after":
            self.ffn_norm = norm()
        self.ffn = FeedForward(config, rngs=rngs)
        if self.norms != "before":
            self.attention_post_norm, self.ffn_post_norm = norm(), norm()

    def __call__(
        self,
        x_BTD: Float[Array, "B T D"],
        places: Places,
        cache: LayerCache | None,
        index: Int[Array, ""] | None,
    ) -> tuple[Float[Array, "B T D"], LayerCache | None]:
        """One block; returns the layer's cache with the new keys and values written."""
        before, after = self.norms != "after", self.norms != "before"
        inner = self.attention_norm(x_BTD) if before else x_BTD
        mixed, cache = self.attention(inner, places, cache, index)
        x_BTD = x_BTD + (self.attention_post_norm(mixed) if after else mixed)
        inner = self.ffn(self.ffn_norm(x_BTD) if before else x_BTD)
        return x_BTD + (self.ffn_post_norm(inner) if after else inner), cache


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
        V, D, dtype = config.vocab_size, config.width, jnp.dtype(config.dtype)
        self.embed = nnx.Embed(V, D, dtype=dtype, embedding_init=init, rngs=rngs)
        self.layers = nnx.List([Layer(config, i, rngs=rngs) for i in range(config.layers)])
        self.norm = RMSNorm(D, config, rngs=rngs)
        if not config.tied_embeddings:
            wide = jax.nn.initializers.variance_scaling(1.0, "fan_in", "normal")
            self.head = nnx.Linear(D, V, use_bias=False, dtype=dtype, kernel_init=wide, rngs=rngs)

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
        x_BTD = look_up(self.embed.embedding[...], tokens).astype(self.config.dtype)
        if self.config.scaled_embedding:  # the factor is rounded to the embedding's type
            x_BTD = x_BTD * jnp.asarray(self.config.width**0.5, x_BTD.dtype)
        k_positions, k_segments, index = positions, segments, None
        if cache is not None:
            index = cache.next_slot
            k_positions = append(cache.positions, positions, index)
            k_segments = append(cache.segments, segments, index)
        places = Places(positions, segments, k_positions, k_segments)
        written = []
        for i, layer in enumerate(self.layers):
            if cache is None:
                x_BTD = rematerialised(layer, self.config.remat)(x_BTD, places, None, None)[0]
                continue
            x_BTD, layer_cache = layer(x_BTD, places, cache.layers[i], index)
            written.append(layer_cache)
        if cache is not None:
            index = cache.next_slot + tokens.shape[1]
            cache = Cache(tuple(written), k_positions, k_segments, index)
        return Output(self.norm(x_BTD), cache)

    def unembed(self, hidden: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
        """Logits in float32; with tied embeddings, products with the embedding rows."""
        return gathered(self.unembedding()(hidden), "tensor")

    def unembedding(self) -> Unembedding:
        """The last step as a value, for ``cat.vocab``, which takes it a chunk at a time."""
        config = self.config
        kernel = self.embed.embedding if config.tied_embeddings else self.head.kernel
        table = gathered(kernel[...])
        return Unembedding(table, config.tied_embeddings, config.dtype, config.logit_softcap)


POLICIES = {
    "layer": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
"""What the backward pass finds saved of a layer: its input alone, or every product of a matrix."""


def rematerialised(layer: Layer, remat: Remat) -> Callable[..., Any]:
    """The layer, computed again in the backward pass as far as its policy does not save it."""
    if remat == "none":
        return layer
    graph, state = nnx.split(layer)

    @functools.partial(jax.checkpoint, policy=POLICIES[remat])
    def again(state: Any, *given: Any) -> Any:
        return nnx.merge(graph, state)(*given)

    return functools.partial(again, state)
