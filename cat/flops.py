"""Forward FLOPs of a decoder, exact and by rule of thumb, per query.

One multiply-add is 2 FLOPs; only matrix products count. Generating N tokens after P prompt
tokens costs the same as one teacher-forced pass over P + N - 1 tokens with logits at the N
places that predict a response token: a cache saves time, not counted FLOPs, and the last
token needs no forward pass. P counts every token the model reads before the first response
token (begin-of-sequence and separator too), N every response token (end-of-sequence too).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cat.config import ModelConfig
from routers.errors import InputError


def layer_parameters(config: ModelConfig) -> int:
    """Matrix entries of one layer: 2 d h k + 2 d g k + 3 d f (h query, g key/value heads)."""
    d, k = config.width, config.head_dim
    return 2 * d * k * (config.heads + config.kv_heads) + 3 * d * config.ffn


def parameter_count(config: ModelConfig) -> int:
    """All trainable numbers: matrices, norm scales, embedding (once when tied).

    >>> parameter_count(ModelConfig(vocab_size=50))
    163392
    """
    norms = (2 * config.layers + 1) * config.width
    tables = 1 if config.tied_embeddings else 2
    embedding = tables * config.vocab_size * config.width
    return config.layers * layer_parameters(config) + norms + embedding


def forward_flops(config: ModelConfig, prompt_tokens: Any, response_tokens: Any) -> np.ndarray:
    """Exact forward FLOPs of answering, by generation or by scoring a given response.

    With T = P + N - 1 tokens read:
    F = n [ T (2 * layer_parameters) + 4 h k T (T + 1) / 2 ] + 2 d V N.

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
    matrices = 2 * layer_parameters(config) * T
    attention = 2 * config.heads * config.head_dim * T * (T + 1)
    total = config.layers * (matrices + attention) + 2 * config.width * config.vocab_size * N
    return np.asarray(total)


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


def _counts(prompt_tokens: Any, response_tokens: Any) -> tuple[np.ndarray, np.ndarray]:
    """Both counts as float64, checked."""
    P, N = np.asarray(prompt_tokens, np.float64), np.asarray(response_tokens, np.float64)
    if (P < 1).any() or (N < 1).any():
        raise InputError(
            f"token counts must be at least 1, got prompt {P.min():g} and response {N.min():g}; "
            "count begin-of-sequence in the prompt and end-of-sequence in the response"
        )
    return P, N
