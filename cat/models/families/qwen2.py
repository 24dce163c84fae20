"""Qwen2 and Qwen2.5: Llama with biases on queries, keys and values."""

from __future__ import annotations

from cat.models.config import ModelConfig
from cat.models.families.fields import Fields, rope, sizes, windows
from cat.models.families.names import NAMES as NAMES

ARCHITECTURE = "Qwen2ForCausalLM"


def read(fields: Fields) -> ModelConfig:
    """The decoder that a Qwen2 ``config.json`` describes."""
    fields.only("hidden_act", "silu")
    return sizes(fields, qkv_bias=True, windows=late_windows(fields), **rope(fields))


def late_windows(fields: Fields) -> tuple[int, ...]:
    """Windows of the layers from ``max_window_layers`` on, where ``use_sliding_window`` is set."""
    layers = fields.whole("num_hidden_layers")
    full = 0 if fields.get("max_window_layers") == 0 else fields.whole("max_window_layers", 28)
    size = int(fields.optional("sliding_window", 4096))
    size = size if fields.flag("use_sliding_window", False) else 0
    return windows(fields, [size > 0 and layer >= full for layer in range(layers)], size)
