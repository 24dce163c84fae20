"""The fields of a ``config.json``, read so that none that matters is overlooked."""

from __future__ import annotations

import dataclasses
import math
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
        "unsloth_fixed",
        "unsloth_version",
        "use_cache",
    }
)
"""Fields that change nothing in the forward pass."""

FULL, LOCAL = "full_attention", "sliding_attention"

_EMPTY = (None, False, 0, 0.0, "", [], {})


class Fields:
    """A ``config.json`` that remembers which fields were read.

    An absent field has the default of the family's configuration class in ``transformers``.

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
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not 0 < value < math.inf
        ):
            raise self.refusal(name, "a positive number is needed")
        return value

    def whole(self, name: str, default: int | None = None) -> int:
        """A positive whole number."""
        value = self.number(name, default)
        if value != int(value):
            raise self.refusal(name, "a whole number is needed")
        return int(value)

    def optional(self, name: str, default: int | float = 0) -> Any:
        """A positive number; 0 where the field is null, the default where it is absent."""
        if name in self.values and self.get(name) is None:
            return 0
        return self.number(name, default) if name in self.values or default else 0

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self.get(name, default)
        if not isinstance(value, bool):
            raise self.refusal(name, "true or false is needed")
        return value

    def table(self, name: str) -> Fields:
        """An object within the file, empty where it is absent or null."""
        value = self.get(name, {})
        if not isinstance(value, dict):
            raise self.refusal(name, "an object is needed")
        return Fields(value, f"{self.where}: {name}")

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


def sizes(
    fields: Fields, *, eps: float = 1e-6, grouped: bool = True, **changes: Any
) -> ModelConfig:
    """What all families name alike: sizes, epsilon, tied embeddings.

    Args:
        fields: the file.
        eps: of the norms where the file names none.
        grouped: the library's default number of key/value heads is one of a released model, so
            a file without that number is refused; else it is the number of heads.
        changes: fields of the configuration that the family knows better.
    """
    heads, width = fields.whole("num_attention_heads"), fields.whole("hidden_size")
    named = "num_key_value_heads" in fields.values or not grouped
    return dataclasses.replace(
        ModelConfig(
            width=width,
            layers=fields.whole("num_hidden_layers"),
            heads=heads,
            kv_heads=fields.whole("num_key_value_heads", heads if named else None),
            head_dim=fields.whole("head_dim", changes.get("head_dim", width // heads)),
            ffn=fields.whole("intermediate_size"),
            vocab_size=fields.whole("vocab_size"),
            tied_embeddings=fields.flag("tie_word_embeddings", False),
            norm_eps=float(fields.number("rms_norm_eps", eps)),
        ),
        **changes,
    )


def rope(fields: Fields) -> dict[str, Any]:
    """``rope_base`` and ``rope_scaling`` from ``rope_parameters`` or the older two fields."""
    base = float(fields.number("rope_theta", 10_000.0))
    fields.only("partial_rotary_factor", 1.0)
    new = fields.get("rope_parameters") is not None
    return rope_of(fields.table("rope_parameters" if new else "rope_scaling"), base)


def rope_of(given: Fields, base: float) -> dict[str, Any]:
    """The same from one object; ``base`` is what it is where the object does not say.

    Raises:
        InputError: a kind of scaling other than none, linear and llama3, or a number missing.
    """
    kinds = [name for name in ("rope_type", "type") if given.get(name) is not None]
    kind = given.get(kinds[0]) if kinds else "default"
    base = float(given.number("rope_theta", base))
    given.only("partial_rotary_factor", 1.0)
    if kind == "default":
        scaling = RopeScaling()
    elif kind == "linear":
        scaling = RopeScaling("linear", float(given.number("factor")))
    elif kind == "llama3":
        low, high = float(given.number("low_freq_factor")), float(given.number("high_freq_factor"))
        if low >= high:
            raise given.refusal("low_freq_factor", "it must be below high_freq_factor")
        length = given.whole("original_max_position_embeddings")
        scaling = RopeScaling("llama3", float(given.number("factor")), low, high, length)
    else:
        raise given.refusal(kinds[0], "supported kinds: default, linear, llama3")
    given.finish()
    return {"rope_base": base, "rope_scaling": scaling}


def windows(fields: Fields, pattern: list[bool], size: int) -> tuple[int, ...]:
    """Each layer's window from ``layer_types`` where given, else from the family's pattern."""
    local, kinds = pattern, fields.get("layer_types")
    if kinds is not None:
        if not isinstance(kinds, list) or len(kinds) != len(pattern) or set(kinds) - {FULL, LOCAL}:
            raise fields.refusal("layer_types", f"{len(pattern)} of '{FULL}' and '{LOCAL}' needed")
        local = [kind == LOCAL for kind in kinds]
    if any(local) and not size:
        raise fields.refusal("sliding_window", "layers with a window need one")
    return tuple(size if is_local else 0 for is_local in local) if any(local) else ()
