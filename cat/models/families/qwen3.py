"""Qwen3 (dense): Llama with a norm on each head's query and key."""

from __future__ import annotations

from cat.models.config import ModelConfig
from cat.models.families.fields import Fields, rope, sizes
from cat.models.families.names import NAMES as NAMES
from cat.models.families.qwen2 import late_windows

ARCHITECTURE = "Qwen3ForCausalLM"


def read(fields: Fields) -> ModelConfig:
    """The decoder that a Qwen3 ``config.json`` describes."""
    fields.only("hidden_act", "silu")
    fields.only("attention_bias", False)
    return sizes(
        fields,
        head_dim=fields.whole("head_dim", 128),
        qk_norm="head",
        windows=late_windows(fields),
        **rope(fields),
    )
