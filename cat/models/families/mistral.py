"""Mistral: Llama with a sliding window in every layer."""

from __future__ import annotations

from cat.models.config import ModelConfig
from cat.models.families.fields import Fields, rope, sizes
from cat.models.families.names import NAMES as NAMES

ARCHITECTURE = "MistralForCausalLM"


def read(fields: Fields) -> ModelConfig:
    """The decoder that a Mistral ``config.json`` describes; a null window means none."""
    fields.only("hidden_act", "silu")
    window = int(fields.get("sliding_window", 0))
    tied = bool(fields.get("tie_word_embeddings", False))
    plain = sizes(fields, tied_embeddings=tied, **rope(fields))
    windows = (window,) * plain.layers if window else ()
    return sizes(fields, tied_embeddings=tied, windows=windows, **rope(fields))
