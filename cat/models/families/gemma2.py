"""Gemma 2: Gemma with norms on both sides, soft-caps, and a window in every other layer."""

from __future__ import annotations

from typing import Any

from cat.models.config import ModelConfig
from cat.models.families import names
from cat.models.families.fields import Fields, rope, sizes, windows

ARCHITECTURE = "Gemma2ForCausalLM"
NAMES = {**names.NAMES, **names.BOTH}


def read(fields: Fields) -> ModelConfig:
    """The decoder that a Gemma 2 ``config.json`` describes."""
    size = int(fields.optional("sliding_window", 4096))
    local = [layer % 2 == 0 for layer in range(fields.whole("num_hidden_layers"))]
    return sizes(
        fields,
        **shared(fields, softcaps=(50.0, 30.0)),
        windows=windows(fields, local, size),
        **rope(fields),
    )


def shared(fields: Fields, *, softcaps: tuple[float, float]) -> dict[str, Any]:
    """What Gemma 2 and 3 have in common; the soft-caps are defaults of absent fields.

    An explicit null switches a soft-cap off; an absent field has the library's default.
    """
    fields.only("hidden_activation", "gelu_pytorch_tanh")
    fields.only("hidden_act", "gelu_pytorch_tanh", "gelu")
    fields.only("attention_bias", False)
    fields.only("use_bidirectional_attention", False)
    return {
        "head_dim": fields.whole("head_dim", 256),
        "tied_embeddings": fields.flag("tie_word_embeddings", True),
        "norms": "both",
        "norm_plus_one": True,
        "activation": "gelu_tanh",
        "scaled_embedding": True,
        "attention_scale": float(fields.number("query_pre_attn_scalar", 256)) ** -0.5,
        "attention_softcap": float(fields.optional("attn_logit_softcapping", softcaps[0])),
        "logit_softcap": float(fields.optional("final_logit_softcapping", softcaps[1])),
    }
