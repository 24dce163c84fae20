"""Gemma 3, text only: Gemma 2 without soft-caps, head norms, five local layers to one global."""

from __future__ import annotations

from typing import Any

from cat.models.config import ModelConfig, RopeScaling
from cat.models.families import names
from cat.models.families.fields import FULL, LOCAL, Fields, rope_of, sizes, windows
from cat.models.families.gemma2 import shared

ARCHITECTURE = "Gemma3ForCausalLM"
NAMES = {**names.NAMES, **names.BOTH}


def read(fields: Fields) -> ModelConfig:
    """The decoder that a Gemma 3 text ``config.json`` describes."""
    layers = fields.whole("num_hidden_layers")
    size = int(fields.optional("sliding_window", 4096))
    period = fields.whole("sliding_window_pattern", fields.whole("_sliding_window_pattern", 6))
    local = [(layer + 1) % period != 0 for layer in range(layers)]
    return sizes(
        fields,
        **shared(fields, softcaps=(0.0, 0.0)),
        qk_norm="head",
        windows=windows(fields, local, size),
        **two_ropes(fields),
    )


def two_ropes(fields: Fields) -> dict[str, Any]:
    """The global layers' base and scaling, and the local layers' base.

    New files have an object for each kind of layer in ``rope_parameters``; older ones two
    bases, and a ``rope_scaling`` that is of the global layers alone.
    """
    far_base = float(fields.number("rope_theta", 1_000_000.0))
    near_base = float(fields.number("rope_local_base_freq", 10_000.0))
    given = fields.table("rope_parameters")
    far, near = given.table(FULL), given.table(LOCAL)
    given.finish()
    far = far if far.values else fields.table("rope_scaling")
    local = rope_of(near, near_base)
    if local["rope_scaling"] != RopeScaling():
        raise given.refusal(LOCAL, "layers with a window must have rope_type 'default'")
    return {**rope_of(far, far_base), "rope_local_base": local["rope_base"]}
