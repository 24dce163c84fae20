"""Mistral: Llama with a sliding window in every layer."""

from __future__ import annotations

import dataclasses

from cat.models.config import ModelConfig
from cat.models.families.fields import Fields, rope, sizes
from cat.models.families.names import NAMES as NAMES

ARCHITECTURE = "MistralForCausalLM"


def read(fields: Fields) -> ModelConfig:
    """The decoder that a Mistral ``config.json`` describes; a null window means none."""
    fields.only("hidden_act", "silu")
    plain = sizes(fields, **rope(fields))
    window = int(fields.optional("sliding_window", 4096))
    return dataclasses.replace(plain, windows=(window,) * plain.layers if window else ())
