"""The sizes and switches of a decoder: what a family of models is, as data.

The first block is the plain decoder (RMSNorm, RoPE, grouped-query attention, gated FFN). Every
other field is a difference some family brought; off, it changes nothing and is written nowhere,
so that a run made before the field existed stays the run it was.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from routers.errors import InputError


def off(value: Any) -> Any:
    """A field that saved configurations and fingerprints leave out while it has this value."""
    return dataclasses.field(default=value, metadata={"off": True})


AttentionPath = Literal["auto", "plain", "blockwise", "cudnn", "splash"]
"""How attention is computed; ``cat.models.attention.path_of`` says what ``auto`` is."""


Remat = Literal["none", "layer", "dots"]
"""What of a layer is computed again in the backward pass: nothing, all of it, or all but the
products with its matrices."""


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are stretched for contexts longer than the trained one.

    ``linear`` divides all by ``factor`` (Chen et al., 2306.15595); ``llama3`` divides the low
    ones, keeps the high ones and blends between (Llama 3 reference code; the Hugging Face
    field ``rope_type``).
    """

    kind: Literal["none", "linear", "llama3"] = "none"
    factor: float = 1.0
    low_frequency_factor: float = 1.0  # llama3: full stretch below original_length / this turns
    high_frequency_factor: float = 4.0  # llama3: no stretch above original_length / this turns
    original_length: int = 8192  # llama3: tokens of the trained context


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A decoder-only transformer (RMSNorm, RoPE, grouped-query attention, gated FFN)."""

    width: int = 64  # D
    layers: int = 3
    heads: int = 4  # H, query heads
    kv_heads: int = 4  # K, key/value heads; divides heads
    head_dim: int = 16
    ffn: int = 192  # F, gated feed-forward width
    vocab_size: int = 0  # V; 0 = the tokenizer's
    tied_embeddings: bool = True
    rope_base: float = 10_000.0
    norm_eps: float = 1e-6

    # what families add
    rope_scaling: RopeScaling = off(RopeScaling())
    rope_local_base: float = off(0.0)  # of layers with a window, unscaled; 0 = as the others
    windows: tuple[int, ...] = off(())  # per layer: keys a token sees, itself included; 0 = all
    qkv_bias: bool = off(False)
    qk_norm: Literal["none", "head", "projection"] = off("none")  # RMS over C, or over all heads
    norms: Literal["before", "after", "both"] = off("before")  # of each residual branch
    norm_plus_one: bool = off(False)  # norm scales are stored as scale - 1
    activation: Literal["silu", "gelu_tanh"] = off("silu")
    scaled_embedding: bool = off(False)  # embeddings times sqrt(D)
    attention_scale: float = off(0.0)  # of q k; 0 = 1 / sqrt(C)
    attention_softcap: float = off(0.0)  # cap tanh(q k / cap); 0 = none
    logit_softcap: float = off(0.0)
    attention: AttentionPath = off("auto")  # cudnn: NVIDIA GPU; splash: TPU
    dtype: Literal["float32", "bfloat16"] = off("float32")  # of products; norms, softmax: float32
    remat: Remat = off("none")  # computed again in training: memory for time, the same numbers

    def window(self, layer: int) -> int:
        """Keys a token of that layer sees, itself included; 0 = all before it."""
        return self.windows[layer] if self.windows else 0


def check_model(name: str, size: ModelConfig) -> None:
    """Raise InputError, with the field's dotted name, for a model that cannot be built.

    >>> check_model("small", ModelConfig(head_dim=5))
    Traceback (most recent call last):
    ...
    routers.errors.InputError: small.head_dim=5; must be even, RoPE turns pairs
    """
    for field in ("width", "layers", "heads", "kv_heads", "head_dim", "ffn"):
        if getattr(size, field) < 1:
            raise InputError(f"{name}.{field}={getattr(size, field)}; must be >= 1")
    if size.heads % size.kv_heads:
        raise InputError(
            f"{name}.kv_heads={size.kv_heads} does not divide {name}.heads={size.heads}; "
            "query heads share key/value heads evenly"
        )
    if size.head_dim % 2:
        raise InputError(f"{name}.head_dim={size.head_dim}; must be even, RoPE turns pairs")
    if size.windows and (len(size.windows) != size.layers or min(size.windows) < 0):
        raise InputError(
            f"{name}.windows={list(size.windows)}; give one number >= 0 per layer "
            f"({size.layers}), 0 for a layer that sees all"
        )
    for field in ("attention_scale", "attention_softcap", "logit_softcap", "rope_local_base"):
        if getattr(size, field) < 0:
            raise InputError(f"{name}.{field}={getattr(size, field)}; must be >= 0 (0 = off)")
    if size.attention == "cudnn":
        _check_cudnn(name, size)


def _check_cudnn(name: str, size: ModelConfig) -> None:
    """What cuDNN's attention cannot compute, whatever the tokens are."""
    reason = ""
    if size.attention_softcap:
        reason = f"has no soft-cap ({name}.attention_softcap={size.attention_softcap})"
    elif size.dtype != "bfloat16":
        reason = f"computes in bfloat16, not {name}.dtype={size.dtype}"
    elif size.head_dim % 8 or size.head_dim > 256:
        reason = f"takes heads of 8, 16 .. 256, not {name}.head_dim={size.head_dim}"
    if reason:
        raise InputError(f"{name}.attention=cudnn {reason}; use auto or blockwise")
