"""Weights in 8 bits for a model that only answers and teaches, through the ``qwix`` library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from flax import nnx
from jax import Array, lax

from cat.mesh import gathered, row_count, shard_batch
from cat.models import product as products
from cat.models.cache import empty_cache
from cat.models.decoder import Decoder

MODULES = ".*(attention|ffn).*"


def int8(model: Decoder) -> Decoder:
    """The model with the matrices of its layers as int8 and one float scale per output channel.

    Weights only: activations, norms, biases, embedding and unembedding stay as they are, and
    products are in the model's own type. The result is for inference: it has no useful gradient.

    Args:
        model: on the current mesh.

    Source: symmetric rounding to nearest by ``qwix.PtqProvider`` (absolute maximum per channel).
    """
    import qwix

    def product(letters: str, x: Array, kernel: Any) -> Array:
        """Scales of output channels can be multiplied in after the sum."""
        of_kernel, of_out = letters.split(",")[1].split("->")
        whole = gathered(kernel.qvalue).astype(x.dtype)
        scale = gathered(kernel.scale).astype(x.dtype)
        summed = [axis for axis, letter in enumerate(of_kernel) if letter not in of_out]
        out, scale = products.product(letters, x, whole), lax.squeeze(scale, summed)
        return out * lax.expand_dims(scale, range(out.ndim - scale.ndim))

    rule = qwix.QuantizationRule(module_path=MODULES, weight_qtype="int8", act_qtype=None)
    provider = qwix.PtqProvider([rule], _einsum_fn=product)
    return intercepted(model, provider, provider.einsum)


def intercepted(
    model: Decoder, provider: Any, product: Callable[..., Array], **rngs: nnx.Rngs
) -> Decoder:
    """The model with every ``cat.models.product.product`` of ``hidden`` done by ``product``.

    The provider turns parameters when it first meets them. That call goes through a cache, since
    nothing is computed again there: within ``jax.checkpoint`` no parameter can be made.
    """
    import qwix

    provider.get_intercept_map = lambda: {"cat.models.product.product": product}
    row = np.zeros((row_count(), 1), np.int32)  # shapes matter, values do not
    places = shard_batch((row, row, row + 1))
    cache = empty_cache(model.config, len(row), 1)
    made = qwix.quantize_model(model, provider, *places, cache, methods=("hidden",), **rngs)
    return cast(Decoder, made)  # a subclass, made on the spot
