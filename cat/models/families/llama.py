"""Llama 1 to 3, SmolLM, TinyLlama: the plain decoder, with llama3 RoPE scaling where asked."""

from __future__ import annotations

from typing import Any

from cat.models.config import ModelConfig, RopeScaling
from cat.models.families.fields import Fields, rope, sizes
from cat.models.families.names import NAMES as NAMES
from routers.errors import InputError

ARCHITECTURE = "LlamaForCausalLM"


def read(fields: Fields) -> ModelConfig:
    """The decoder that a Llama ``config.json`` describes."""
    fields.only("hidden_act", "silu")
    fields.only("attention_bias", False)
    fields.only("mlp_bias", False)
    return sizes(fields, grouped=False, **rope(fields))


def write(config: ModelConfig) -> dict[str, Any]:
    """The ``config.json`` of a plain decoder that was born here.

    Raises:
        InputError: the decoder has a feature that Llama checkpoints cannot describe.
    """
    plain = ModelConfig(
        config.width,
        config.layers,
        config.heads,
        config.kv_heads,
        config.head_dim,
        config.ffn,
        config.vocab_size,
        config.tied_embeddings,
        config.rope_base,
        config.norm_eps,
        rope_scaling=config.rope_scaling,
    )
    if plain != config:
        raise InputError(
            "this model has features that a Llama config.json cannot describe; "
            "export it beside the checkpoint it came from"
        )
    return {
        "architectures": [ARCHITECTURE],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.ffn,
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": config.tied_embeddings,
        "rope_theta": config.rope_base,
        "rms_norm_eps": config.norm_eps,
        "rope_scaling": _scaling(config.rope_scaling),
        "attention_bias": False,
        "mlp_bias": False,
    }


def _scaling(scaling: RopeScaling) -> dict[str, Any] | None:
    """The field ``rope_scaling``."""
    if scaling.kind == "none":
        return None
    linear = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind == "linear":
        return linear
    return linear | {
        "low_freq_factor": scaling.low_frequency_factor,
        "high_freq_factor": scaling.high_frequency_factor,
        "original_max_position_embeddings": scaling.original_length,
    }
