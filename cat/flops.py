"""Forward FLOPs of a decoder, exact and by rule of thumb, per query.

One multiply-add is 2 FLOPs; only matrix products count. Generating N tokens after P prompt
tokens costs the same as one teacher-forced pass over P + N - 1 tokens with logits at the N
places that predict a response token: a cache saves time, not counted FLOPs, and the last
token needs no forward pass. P counts every token the model reads before the first response
token (begin-of-sequence and separator too), N every response token (end-of-sequence too).
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from cat.config import ModelConfig
from routers.errors import InputError


def layer_parameters(config: ModelConfig) -> int:
    """Matrix entries of one layer: 2 d h k + 2 d g k + 3 d f (h query, g key/value heads).

    Biases and norm scales are no matrices: they have parameters, and no FLOPs here.
    """
    d, k = config.width, config.head_dim
    return 2 * d * k * (config.heads + config.kv_heads) + 3 * d * config.ffn


def embedding_count(config: ModelConfig) -> int:
    """Numbers of the embedding, and of the unembedding where it is not tied: V d each.

    >>> embedding_count(ModelConfig(vocab_size=50, width=8, tied_embeddings=False))
    800
    """
    tables = 1 if config.tied_embeddings else 2
    return tables * config.vocab_size * config.width


def parameter_count(config: ModelConfig) -> int:
    """All trainable numbers: matrices, biases, norm scales, embedding (once when tied).

    >>> parameter_count(ModelConfig(vocab_size=50))
    163392
    """
    h, g, k, d = config.heads, config.kv_heads, config.head_dim, config.width
    layer = layer_parameters(config)
    layer += (4 if config.norms == "both" else 2) * d
    layer += (h + 2 * g) * k if config.qkv_bias else 0
    layer += {"none": 0, "head": 2 * k, "projection": (h + g) * k}[config.qk_norm]
    return config.layers * layer + d + embedding_count(config)


def keys_seen(tokens: Any, window: int = 0) -> np.ndarray:
    """Keys that T tokens see in all, each itself, those before it, and at most ``window``.

    T (T + 1) / 2 without a window (0); with one, m (m + 1) / 2 + (T - m) w, m = min(T, w).

    >>> int(keys_seen(4)), int(keys_seen(4, window=2))
    (10, 7)
    """
    T = np.asarray(tokens, np.float64)
    m = np.minimum(T, window) if window else T
    return np.asarray(m * (m + 1) / 2 + (T - m) * window)


def forward_flops(config: ModelConfig, prompt_tokens: Any, response_tokens: Any) -> np.ndarray:
    """Exact forward FLOPs of answering, by generation or by scoring a given response.

    With T = P + N - 1 tokens read, summed over the n layers with their windows w:
    F = sum_layers [ T (2 * layer_parameters) + 4 h k keys_seen(T, w) ] + 2 d V N.

    Args:
        config: the model's sizes, ``vocab_size`` set.
        prompt_tokens: P >= 1 per query, [N] or a number.
        response_tokens: N >= 1 per query, end-of-sequence included, [N] or a number.

    Returns:
        [N] float64, FLOPs.

    Raises:
        InputError: a count below 1.

    Source: per-layer table as in the scaling book (jax-ml/scaling-book, transformers.md),
    with causal attention counted by the keys each query sees (our choice; many counts use
    the full square).

    >>> example = ModelConfig(width=1024, layers=12, heads=16, kv_heads=4, head_dim=64,
    ...                       ffn=2816, vocab_size=32000)
    >>> round(float(forward_flops(example, 384, 128)) / 1e9, 2)
    153.06
    """
    P, N = _counts(prompt_tokens, response_tokens)
    T = P + N - 1
    total = 2.0 * config.width * config.vocab_size * N
    for window, layers in _windows(config).items():
        attention = 4 * config.heads * config.head_dim * keys_seen(T, window)
        total = total + layers * (2 * layer_parameters(config) * T + attention)
    return np.asarray(total)


def decode_flops(config: ModelConfig, context: int) -> float:
    """Exact forward FLOPs of the next token when ``context`` tokens are there, itself included.

    n (2 * layer_parameters) + 4 h k sum_layers min(L, w) + 2 d V, for a context of L tokens.

    Raises:
        InputError: a context below 1.

    >>> decode_flops(ModelConfig(vocab_size=50), context=8)
    332032.0
    """
    if context < 1:
        raise InputError(f"a context of {context} tokens; the token itself counts, give at least 1")
    keys = sum(n * min(context, w or context) for w, n in _windows(config).items())
    matrices = config.layers * layer_parameters(config) + config.width * config.vocab_size
    return 2.0 * matrices + 4.0 * config.heads * config.head_dim * keys


def approximate_flops(config: ModelConfig, prompt_tokens: Any, response_tokens: Any) -> np.ndarray:
    """The rule of thumb: 2 x parameters x tokens read, P + N - 1.

    Parameters are layer matrices plus the unembedding once; attention is left out, and every
    prompt token is charged for logits it does not need.

    Source: the 2N half of the 6ND rule (Chinchilla, 2203.15556; Kaplan et al. leave the
    unembedding out).
    """
    P, N = _counts(prompt_tokens, response_tokens)
    matrices = config.layers * layer_parameters(config) + config.width * config.vocab_size
    return np.asarray(2.0 * matrices * (P + N - 1))


def _windows(config: ModelConfig) -> Counter[int]:
    """How many layers have each window; 0 = none."""
    return Counter(config.window(layer) for layer in range(config.layers))


def _counts(prompt_tokens: Any, response_tokens: Any) -> tuple[np.ndarray, np.ndarray]:
    """Both counts as float64, checked."""
    P, N = np.asarray(prompt_tokens, np.float64), np.asarray(response_tokens, np.float64)
    if (P < 1).any() or (N < 1).any():
        raise InputError(
            f"token counts must be at least 1, got prompt {P.min():g} and response {N.min():g}; "
            "count begin-of-sequence in the prompt and end-of-sequence in the response"
        )
    return P, N
