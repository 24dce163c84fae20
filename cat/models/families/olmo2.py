"""OLMo 2: Llama with norms after each branch, and one norm over all heads' queries and keys."""

from __future__ import annotations

from cat.models.config import ModelConfig
from cat.models.families import names
from cat.models.families.fields import Fields, rope, sizes

ARCHITECTURE = "Olmo2ForCausalLM"
NAMES = {**names.NAMES, **names.AFTER}


def read(fields: Fields) -> ModelConfig:
    """The decoder that an OLMo 2 ``config.json`` describes."""
    fields.only("hidden_act", "silu")
    fields.only("attention_bias", False)
    return sizes(
        fields, eps=1e-5, grouped=False, qk_norm="projection", norms="after", **rope(fields)
    )
