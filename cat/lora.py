"""Low-rank adapters on a frozen model, through the ``qwix`` library, and back into its weights.

Source: LoRA (2106.09685), section 4.1: W + alpha / rank * A B, B starting at zero.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.tree_util import keystr

from cat.config import LoraConfig
from cat.mesh import shard_params
from cat.models.decoder import Decoder
from cat.models.product import layout, product
from cat.quantize import intercepted

A, B = "_lora_a", "_lora_b"


def adapt(model: Decoder, config: LoraConfig, seed: int) -> Decoder:
    """The model with adapters on the products of ``config.modules``; the same function at first.

    Args:
        model: on the current mesh.
        config: rank, alpha and the modules, a regular expression.
        seed: of A; B is zero.
    """
    import qwix

    library: Any = qwix

    class Frozen(library.PtqProvider):
        """What adapters are added to: our product, which knows how parameters are split."""

        def einsum(self, letters: str, x: Any, kernel: Any, **kind: Any) -> jax.Array:
            return product(letters, x, kernel)

    class Adapted(library.LoraProvider, Frozen):
        """The library's adapters over it."""

    def adapted(letters: str, x: Any, kernel: Any) -> jax.Array:
        return provider.einsum(letters, x, kernel, out_sharding=layout(letters, x, kernel))

    modules = f".*({config.modules}).*"
    provider = Adapted(module_path=modules, rank=config.rank, alpha=config.alpha)
    made = intercepted(model, provider, adapted, rngs=nnx.Rngs(seed))
    nnx.update(made, shard_params(nnx.state(made, nnx.LoRAParam)))
    return made


def split(model: Decoder) -> tuple[Any, Any, Any]:
    """(graph, adapters, everything else), for ``nnx.merge`` in this order."""
    graph, adapters, rest = nnx.split(model, nnx.LoRAParam, ...)
    return graph, adapters, rest


def merged(model: Decoder, adapters: Any, config: LoraConfig) -> Decoder:
    """The model with alpha / rank * A B added to the weights that have adapters."""
    named = {
        keystr(path, simple=True, separator=".").removesuffix(".value"): leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(adapters)[0]
    }
    graph, params = nnx.split(model)

    def add(path: tuple[Any, ...], weight: jax.Array) -> jax.Array:
        name = keystr(path, simple=True, separator=".").removesuffix(".value")
        if name + A not in named:
            return weight
        delta = jnp.tensordot(named[name + A], named[name + B], 1) * (config.alpha / config.rank)
        return weight + delta.reshape(weight.shape).astype(weight.dtype)

    return nnx.merge(graph, jax.tree_util.tree_map_with_path(add, params))
