"""Weights in 8 bits for a model that only answers and teaches, through the ``qwix`` library."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from flax import nnx

from cat.mesh import row_count, shard_batch
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

    rule = qwix.QuantizationRule(module_path=MODULES, weight_qtype="int8", act_qtype=None)
    return intercepted(model, qwix.PtqProvider([rule]))


def intercepted(model: Decoder, provider: Any, **rngs: nnx.Rngs) -> Decoder:
    """The model with ``hidden`` run through a qwix provider, its parameters turned accordingly."""
    import qwix

    row = np.zeros((row_count(), 1), np.int32)  # shapes matter, values do not
    places = shard_batch((row, row, row + 1))
    made = qwix.quantize_model(model, provider, *places, methods=("hidden",), **rngs)
    return cast(Decoder, made)  # a subclass, made on the spot
