"""Per-query and per-token features from the small model's token columns; NumPy, no row loop.

A response with no token at all (N_i = 0, which the schema's counted EOS normally rules out)
gives 0 for every statistic, as if it were certain; it is kept rather than made NaN.

Letters: N queries, M response tokens in all, K largest log-probabilities, Q quantiles,
S signals per token, F features per token.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import numpy as np
from jaxtyping import Float, Float64, UInt64

from routers.base import Inputs
from routers.errors import InputError
from routers.ragged import Ragged

ALPHAS = np.round(np.linspace(0.0, 1.0, 11), 1)
"""The quantile levels 0, 0.1, ..., 1 of the Post-Hoc-Quantile vector."""

LOG_FLOOR = -100.0
"""Nats; stands for log 0 (about the log of the smallest float32) in top-K columns."""


def column(
    inputs: Inputs, name: Literal["token_logprob", "token_entropy", "topk_logprob"]
) -> Ragged:
    """A token column the router reads; raises InputError where the records lack it."""
    inputs.need(name)
    return getattr(inputs, name)


def row_sum(column: Ragged) -> Float64[np.ndarray, "N ..."]:
    """Sum of each row's values; 0 for an empty row. Values [M] or [M, S].

    >>> row_sum(Ragged.of([[1.0, 2.0], [], [3.0]])).tolist()
    [3.0, 0.0, 3.0]
    """
    return _reduce(np.add, column)


def row_mean(column: Ragged) -> Float64[np.ndarray, "N ..."]:
    """Mean of each row's values; 0 for an empty row. Values [M] or [M, S]."""
    sums = _reduce(np.add, column)
    counts = np.maximum(column.lengths, 1)
    return sums / counts.reshape(-1, *[1] * (sums.ndim - 1))


def row_min(column: Ragged) -> Float64[np.ndarray, "N ..."]:
    """Least value of each row; 0 for an empty row. Values [M] or [M, S]."""
    return _reduce(np.minimum, column)


def row_max(column: Ragged) -> Float64[np.ndarray, "N ..."]:
    """Greatest value of each row; 0 for an empty row. Values [M] or [M, S]."""
    return _reduce(np.maximum, column)


def row_quantiles(column: Ragged, alphas_Q: Float[np.ndarray, " Q"]) -> Float64[np.ndarray, "N Q"]:
    """Quantiles of each row on its own true length; 0 for an empty row.

    Linear interpolation between order statistics at (n - 1) alpha, as in
    ``np.quantile(method="linear")``: alpha 0 is the minimum, 1 the maximum. The ranking of
    queries then depends on the scale: quantiles of log-probabilities are not the logs of
    quantiles of probabilities. Here, always on the values given (log-probabilities).

    >>> row_quantiles(Ragged.of([[0.0, 10.0], [4.0]]), np.array([0.0, 0.25])).tolist()
    [[0.0, 2.5], [4.0, 4.0]]
    """
    lengths_N = column.lengths
    filled = np.flatnonzero(lengths_N)
    sorted_M = _sorted_rows(column, lengths_N).astype(np.float64)
    start_R1 = column.offsets[filled][:, None]
    last_R1 = lengths_N[filled][:, None] - 1
    place_RQ = last_R1 * alphas_Q[None, :]
    low_RQ = place_RQ.astype(np.int64)
    high_RQ = np.minimum(low_RQ + 1, last_R1)
    low_value_RQ = sorted_M[start_R1 + low_RQ]
    high_value_RQ = sorted_M[start_R1 + high_RQ]
    out_NQ = np.zeros((len(lengths_N), len(alphas_Q)))
    out_NQ[filled] = low_value_RQ + (high_value_RQ - low_value_RQ) * (place_RQ - low_RQ)
    return out_NQ


def _sorted_rows(column: Ragged, lengths_N: np.ndarray) -> np.ndarray:
    """[M] the values with every row in rising order.

    A matrix padded with NaN, which sorts last, is ten times as fast as a lexsort; rows so
    unequal that it would be mostly padding are sorted the slow way.
    """
    width = int(lengths_N.max(initial=0))
    cells = width * len(lengths_N)
    if cells == len(column.values):
        return np.sort(column.values.reshape(len(lengths_N), width), axis=1).reshape(-1)
    if cells > 4 * len(column.values):
        return column.values[np.lexsort((column.values, column.row_ids))]
    real_NW = np.arange(width) < lengths_N[:, None]
    padded_NW = np.full(real_NW.shape, np.nan, column.values.dtype)
    padded_NW[real_NW] = column.values
    padded_NW.sort(axis=1)
    return padded_NW[real_NW]


def quantile_vector(token_logprob: Ragged) -> Float64[np.ndarray, "N 13"]:
    """[quantiles at 0, 0.1, ..., 1; mean; number of tokens] of the log-probabilities, in nats.

    Source: Post-Hoc-Quantile of Gupta et al. 2024 (2404.10136); the grid, the mean and the
    length are our choice (the paper's grid was not available to us).
    """
    return np.column_stack(
        [
            row_quantiles(token_logprob, ALPHAS),
            row_mean(token_logprob),
            token_logprob.lengths.astype(np.float64),
        ]
    )


def top_k(column: Ragged, k: int) -> Float64[np.ndarray, "M k"]:
    """The k largest log-probabilities of every token, floored at ``LOG_FLOOR``.

    Raises InputError if fewer than k are stored. Logs may store -inf where a vocabulary entry
    is masked; the floor keeps differences finite.
    """
    if len(column.values) == 0:
        return np.zeros((0, k))
    stored = column.values.shape[1] if column.values.ndim == 2 else 0
    if stored < k:
        raise InputError(
            f"topk_logprob holds {stored} values per token but this router reads {k}; "
            f"score again with top-k of at least {k}"
        )
    return np.maximum(column.values[:, :k].astype(np.float64), LOG_FLOOR)


def usable_k(column: Ragged, most: int) -> int:
    """How many of the top log-probabilities a router may read: ``most``, or all that are stored.

    At least 2, which ``top_k`` then demands: a margin needs two.
    """
    return max(2, min(most, column.values.shape[-1]))


def top_margins(column: Ragged) -> Ragged:
    """Per token, log p(best) - log p(second), in nats; 0 = a tie between the two.

    >>> top_margins(Ragged.of([[[-0.5, -2.0, -3.0]], [[-1.0, -1.0, -4.0]]])).values.tolist()
    [1.5, 0.0]
    """
    top_M2 = top_k(column, 2)
    return Ragged(top_M2[:, 0] - top_M2[:, 1], column.offsets)


def topk_entropy(topk_MK: Float[np.ndarray, "M K"]) -> Float64[np.ndarray, " M"]:
    """Entropy of K + 1 outcomes: the K largest and everything else as one, in nats.

    Never above the entropy of the whole distribution; equal to it when the rest is one entry
    or has no mass. Rounding that makes the K sum to more than 1 leaves a rest of 0.
    """
    topk_MK = topk_MK.astype(np.float64)
    probability_MK = np.exp(topk_MK)
    rest_M = np.maximum(1.0 - probability_MK.sum(axis=1), 0.0)
    rest_term_M = rest_M * np.log(np.where(rest_M > 0, rest_M, 1.0))
    return -(probability_MK * topk_MK).sum(axis=1) - rest_term_M


def token_features(topk_MK: Float[np.ndarray, "M K"]) -> Float64[np.ndarray, "M F"]:
    """Per token: entropy of the top-K, their K (K - 1) / 2 differences, the K themselves.

    F = 1 + K (K - 1) / 2 + K. A difference of log-probabilities is a difference of logits.
    Source: Kag et al. 2023, released code ``hybrid_routers.py`` (entropy and the matrix of
    differences of the top K = 10 probabilities); log-probabilities in place of probabilities,
    half of the antisymmetric matrix, and the K themselves are our choice.
    """
    first, second = np.triu_indices(topk_MK.shape[1], k=1)
    difference_MP = topk_MK[:, first] - topk_MK[:, second]
    return np.column_stack([topk_entropy(topk_MK), difference_MP, topk_MK]).astype(np.float64)


def stable_hash(query_id: np.ndarray, seed: int = 0) -> UInt64[np.ndarray, " N"]:
    """64 uniform bits of (seed, query id): the same in every process, row order and subset."""
    prefix, blake2b = f"{seed}\x00".encode(), hashlib.blake2b
    digests = [
        blake2b(prefix + query.encode(), digest_size=8).digest() for query in query_id.tolist()
    ]
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)


def _reduce(ufunc: np.ufunc, column: Ragged) -> np.ndarray:
    """[N] or [N, S] float64; ``reduceat`` over the rows that hold something."""
    out = np.zeros((len(column), *column.values.shape[1:]))
    filled = column.lengths > 0
    if filled.any():
        starts = column.offsets[:-1][filled]
        out[filled] = ufunc.reduceat(column.values.astype(np.float64), starts, axis=0)
    return out
