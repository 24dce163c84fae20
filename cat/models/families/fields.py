"""The fields of a ``config.json``, read so that none that matters is overlooked."""

from __future__ import annotations

import dataclasses
from typing import Any

from cat.models.config import ModelConfig, RopeScaling
from routers.errors import InputError

HARMLESS = frozenset(
    {
        "_attn_implementation",
        "_attn_implementation_autoset",
        "_name_or_path",
        "architectures",
        "attention_dropout",
        "auto_map",
        "bos_token_id",
        "cache_implementation",
        "chunk_size_feed_forward",
        "dtype",
        "embd_pdrop",
        "eos_token_id",
        "hidden_dropout_prob",
        "id2label",
        "initializer_range",
        "is_llama_config",
        "label2id",
        "max_position_embeddings",
        "mlp_dropout",
        "model_type",
        "output_attentions",
        "output_hidden_states",
        "pad_token_id",
        "pretraining_tp",
        "problem_type",
        "resid_pdrop",
        "return_dict",
        "rope_interleaved",
        "torch_dtype",
        "torchscript",
        "transformers.js_config",
        "transformers_version",
        "unk_token_id",
        "use_cache",
    }
)
"""Fields that change nothing in the forward pass."""

_EMPTY = (None, False, 0, 0.0, "", [], {})


class Fields:
    """A ``config.json`` that remembers which fields were read.

    Args:
        values: the parsed file.
        where: its path, for messages.
    """

    def __init__(self, values: dict[str, Any], where: str):
        self.values, self.where = values, where
        self._read: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        """The field's value, or the default where it is absent or null."""
        self._read.add(name)
        value = self.values.get(name)
        return default if value is None else value

    def number(self, name: str, default: int | float | None = None) -> Any:
        """A positive number; without a default the field must be there."""
        value = self.get(name, default)
        if value is None:
            raise InputError(f"{self.where}: field '{name}' is missing; is the file complete?")
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise self.refusal(name, "a positive number is needed")
        return value

    def only(self, name: str, *allowed: Any) -> None:
        """Refuse the field unless it is absent, null or one of these values."""
        if self.get(name, allowed[0]) not in allowed:
            raise self.refusal(name, f"supported: {', '.join(map(repr, allowed))}")

    def refusal(self, name: str, why: str) -> InputError:
        """The error for a field whose value cannot be honoured."""
        return InputError(f"{self.where}: {name}={self.values.get(name)!r} is not supported; {why}")

    def finish(self) -> None:
        """Refuse fields that nobody read and that may matter: better no model than a wrong one."""
        left = {k: v for k, v in self.values.items() if k not in self._read | HARMLESS}
        unknown = sorted(name for name, value in left.items() if value not in _EMPTY)
        if unknown:
            raise InputError(
                f"{self.where}: field {', '.join(unknown)} is not supported for this family; "
                "if it changes nothing in the forward pass, take it out of config.json"
            )


def sizes(fields: Fields, **changes: Any) -> ModelConfig:
    """What all families name alike: sizes, epsilon, tied embeddings, activation, plain RoPE."""
    heads = int(fields.number("num_attention_heads"))
    width = int(fields.number("hidden_size"))
    fields.only("mlp_bias", False)
    return dataclasses.replace(
        ModelConfig(
            width=width,
            layers=int(fields.number("num_hidden_layers")),
            heads=heads,
            kv_heads=int(fields.number("num_key_value_heads", heads)),
            head_dim=int(fields.number("head_dim", width // heads)),
            ffn=int(fields.number("intermediate_size")),
            vocab_size=int(fields.number("vocab_size")),
            norm_eps=float(fields.number("rms_norm_eps", 1e-6)),
        ),
        **changes,
    )


def rope(fields: Fields, base: float = 10_000.0) -> dict[str, Any]:
    """``rope_base`` and ``rope_scaling`` from ``rope_parameters`` or the older two fields."""
    base = float(fields.number("rope_theta", base))
    fields.only("partial_rotary_factor", 1.0)
    if (new := fields.get("rope_parameters")) is not None:
        name, given = "rope_parameters", new
    else:
        name, given = "rope_scaling", fields.get("rope_scaling", {})
    return rope_of(fields, name, given, base)


def rope_of(fields: Fields, name: str, given: dict[str, Any], base: float) -> dict[str, Any]:
    """The same from one dictionary of the field ``name``.

    Raises:
        InputError: a kind of scaling other than none, linear and llama3, or a number missing.
    """
    kind = given.get("rope_type", given.get("type", "default"))
    base = float(given.get("rope_theta", base))
    try:
        if given.get("partial_rotary_factor", 1.0) != 1.0:
            raise fields.refusal(name, "partial_rotary_factor must be 1")
        if kind == "default":
            scaling = RopeScaling()
        elif kind == "linear":
            scaling = RopeScaling("linear", float(given["factor"]))
        elif kind == "llama3":
            low, high = float(given["low_freq_factor"]), float(given["high_freq_factor"])
            length = int(given["original_max_position_embeddings"])
            scaling = RopeScaling("llama3", float(given["factor"]), low, high, length)
        else:
            raise fields.refusal(name, "supported kinds: default, linear, llama3")
    except KeyError as missing:
        raise fields.refusal(name, f"{missing} is missing") from None
    return {"rope_base": base, "rope_scaling": scaling}


def windows(fields: Fields, pattern: list[bool], size: int) -> tuple[int, ...]:
    """Each layer's window from ``layer_types`` where given, else from the family's pattern."""
    kinds = fields.get("layer_types")
    if kinds is None:
        local = pattern
    else:
        if len(kinds) != len(pattern) or set(kinds) - {"full_attention", "sliding_attention"}:
            raise fields.refusal(
                "layer_types", f"{len(pattern)} of 'full_attention' and 'sliding_attention' needed"
            )
        local = [kind == "sliding_attention" for kind in kinds]
    return tuple(size if is_local else 0 for is_local in local) if any(local) else ()
