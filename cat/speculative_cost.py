"""What a speculative run spends: passes, exact forward FLOPs, bytes of weights read.

By FLOPs it cannot beat the large model alone, which reads every token here too, besides the
rejected ones. By weights read it can: a pass reads them once, whatever the number of tokens.

Letters: N queries, R response tokens, W = gamma + 1 places of a round.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from cat.config import ModelConfig
from cat.flops import layer_parameters, parameter_count
from cat.speculative import Speculation
from routers.errors import InputError


class Spent(NamedTuple):
    """[N] of one model: forward passes, the prompt's included, and exact forward FLOPs."""

    passes: np.ndarray
    flops: np.ndarray


def speculative_cost(
    small: ModelConfig, large: ModelConfig, prompt_tokens: Any, run: Speculation, gamma: int
) -> tuple[Spent, Spent]:
    """What the small and the large model spent on each query, each served alone.

    Both read P - 1 prompt tokens in one pass, then W tokens a round, the last token and the
    drafts, rejected ones included: the large model in one pass, the small one in W. With R
    rounds that begin after n_r tokens in all, either spends

    F = n [ 2 layer_parameters (P - 1 + R W) + 4 h k (P (P - 1) / 2 + sum_r (W n_r + W gamma / 2)) ]
        + 2 d V R W.

    In a batch, rows that have ended wait for the others; that is not charged here, nor is a gate.

    Args:
        small, large: the models' sizes, ``vocab_size`` set.
        prompt_tokens: P >= 1 per query, [N].
        run: the result of ``speculate`` for these queries, without filler rows.
        gamma: as it was run.

    Raises:
        InputError: a prompt of no tokens.
    """
    P = np.asarray(prompt_tokens, np.float64)
    if (P < 1).any():
        raise InputError(f"prompt of {P.min():g} tokens; count begin-of-sequence, drop filler rows")
    W, begin = gamma + 1, round_starts(run)
    rounds = begin.sum(axis=1)
    begins = rounds * P + begin @ np.arange(begin.shape[1])  # sum of n_r
    read = P - 1 + rounds * W
    seen = P * (P - 1) / 2 + W * begins + rounds * W * gamma / 2

    def flops(c: ModelConfig) -> np.ndarray:
        layer = 2 * layer_parameters(c) * read + 4 * c.heads * c.head_dim * seen
        return c.layers * layer + 2 * c.width * c.vocab_size * rounds * W

    return Spent(1 + rounds * W, flops(small)), Spent(1 + rounds, flops(large))


def round_starts(run: Speculation) -> np.ndarray:
    """[N, R] bool: the first token of each round; a round ends with a token that is no draft.

    >>> drafted = np.array([[True, True, False, False, True, False]])
    >>> round_starts(Speculation(None, np.array([5]), drafted)).astype(int).tolist()
    [[1, 0, 0, 1, 1, 0]]
    """
    drafted, lengths = np.asarray(run.drafted), np.asarray(run.lengths)
    after = np.pad(~drafted[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    return after & (np.arange(drafted.shape[1])[None] < lengths[:, None])


def weight_bytes(config: ModelConfig, passes: Any, bytes_per_parameter: Any) -> np.ndarray:
    """passes x parameters x bytes: what is read of the weights, keys and values apart.

    The large model alone takes as many passes as it writes tokens. At small batches this is
    what latency goes by. An untied embedding is counted whole, although a pass reads few rows.

    >>> float(weight_bytes(ModelConfig(vocab_size=50), 3, 2))
    980352.0
    """
    return np.asarray(
        np.float64(bytes_per_parameter) * parameter_count(config) * np.asarray(passes)
    )


def expected_tokens(rate: Any, gamma: Any) -> np.ndarray:
    """Tokens a round at an acceptance rate: (1 - rate^(gamma + 1)) / (1 - rate); W at rate 1.

    Exact if drafts stay independently with the same probability, an approximation otherwise.

    Source: Leviathan et al. (2211.17192), eq. 1.

    >>> float(expected_tokens(0.5, 2))
    1.75
    """
    rate, gamma = np.broadcast_arrays(np.asarray(rate, np.float64), np.asarray(gamma, np.float64))
    below = np.where(rate < 1, rate, 0.0)
    return np.where(rate < 1, (1 - below ** (gamma + 1)) / (1 - below), gamma + 1)


def speedup(rate: Any, gamma: Any, small_seconds: Any) -> np.ndarray:
    """Expected tokens a round over its cost: E / (1 + small_seconds (gamma + 1)).

    ``small_seconds``: time of a pass of the small model, that of the large model's being 1,
    however many tokens it reads. Below 1, the large model alone is faster.

    Source: Leviathan et al. (2211.17192), theorem 3.8, with gamma + 1 passes of the small model
    a round where it has gamma.
    """
    cost = 1 + np.asarray(small_seconds) * (np.asarray(gamma) + 1)
    return np.asarray(expected_tokens(rate, gamma) / cost)
