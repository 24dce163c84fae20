"""Gemma 3, text only: Gemma 2 without soft-caps, head norms, five local layers to one global."""

from __future__ import annotations

from typing import Any

from cat.models.config import ModelConfig
from cat.models.families import names
from cat.models.families.fields import Fields, rope, rope_of, sizes, windows
from cat.models.families.gemma2 import shared

ARCHITECTURE = "Gemma3ForCausalLM"
NAMES = {**names.NAMES, **names.BOTH}


def read(fields: Fields) -> ModelConfig:
    """The decoder that a Gemma 3 text ``config.json`` describes."""
    layers = int(fields.number("num_hidden_layers"))
    size = int(fields.number("sliding_window", 4096))
    period = int(fields.number("sliding_window_pattern", fields.get("_sliding_window_pattern", 6)))
    local = [(layer + 1) % period != 0 for layer in range(layers)]
    return sizes(
        fields,
        **shared(fields, softcaps=(0.0, 0.0)),
        qk_norm="head",
        windows=windows(fields, local, size),
        **two_ropes(fields),
    )


def two_ropes(fields: Fields) -> dict[str, Any]:
    """The global layers' base and scaling, and the local layers' base."""
    local = float(fields.number("rope_local_base_freq", 10_000.0))
    given = fields.get("rope_parameters", {})
    if "sliding_attention" not in given:
        return {**rope(fields, base=1_000_000.0), "rope_local_base": local}
    name, near = "rope_parameters", given["sliding_attention"]
    if near.get("rope_type", "default") != "default":
        raise fields.refusal(name, "local layers must have rope_type 'default'")
    local = float(near.get("rope_theta", local))
    far = rope_of(fields, name, given.get("full_attention", {}), 1_000_000.0)
    return {**far, "rope_local_base": local}
