"""Qwen2 and Qwen2.5: Llama with biases on queries, keys and values."""

from __future__ import annotations

from cat.models.config import ModelConfig
from cat.models.families.fields import Fields, rope, sizes, windows
from cat.models.families.names import NAMES as NAMES

ARCHITECTURE = "Qwen2ForCausalLM"


def read(fields: Fields) -> ModelConfig:
    """The decoder that a Qwen2 ``config.json`` describes."""
    fields.only("hidden_act", "silu")
    tied = bool(fields.get("tie_word_embeddings", False))
    return sizes(
        fields, tied_embeddings=tied, qkv_bias=True, windows=late_windows(fields), **rope(fields)
    )


def late_windows(fields: Fields) -> tuple[int, ...]:
    """Windows of the layers from ``max_window_layers`` on, where ``use_sliding_window`` is set."""
    layers = int(fields.number("num_hidden_layers"))
    full = int(fields.get("max_window_layers", layers))
    size = int(fields.get("sliding_window", 0))
    use = bool(fields.get("use_sliding_window", False)) and size > 0
    return windows(fields, [use and layer >= full for layer in range(layers)], size)
