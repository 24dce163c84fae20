"""Gemma 1: norm scales stored less 1, embeddings times sqrt(D), gelu."""

from __future__ import annotations

from cat.models.config import ModelConfig
from cat.models.families.fields import Fields, rope, sizes
from cat.models.families.names import NAMES as NAMES

ARCHITECTURE = "GemmaForCausalLM"


def read(fields: Fields) -> ModelConfig:
    """The decoder that a Gemma ``config.json`` describes.

    Early files say ``hidden_act`` "gelu" and mean the tanh form, as ``hidden_activation`` says.
    """
    fields.only("hidden_activation", "gelu_pytorch_tanh")
    fields.only("hidden_act", "gelu_pytorch_tanh", "gelu")
    fields.only("attention_bias", False)
    fields.only("use_bidirectional_attention", False)
    return sizes(
        fields,
        head_dim=fields.whole("head_dim", 256),
        tied_embeddings=fields.flag("tie_word_embeddings", True),
        norm_plus_one=True,
        activation="gelu_tanh",
        scaled_embedding=True,
        **rope(fields),
    )
