"""Chow-Quantile: the negated quantile of the token log-probabilities."""

from __future__ import annotations

import dataclasses

import numpy as np

from routers.base import Inputs, Router
from routers.errors import InputError
from routers.features import column, row_quantiles


@dataclasses.dataclass(frozen=True)
class ChowQuantile(Router):
    """Negated alpha-quantile of the token log-probabilities; alpha 0 = the least certain token.

    score = - quantile_alpha {log p_S(y_i | x, y_<i)}_i, in nats. Raises InputError unless
    0 <= alpha <= 1.
    Source: Chow-Quantile, Gupta et al. 2024 (2404.10136), sign flipped so that higher = send
    on; linear interpolation on log-probabilities is our choice.
    """

    alpha: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.alpha <= 1.0:
            raise InputError(f"chow_quantile: alpha is {self.alpha}; give a level in [0, 1]")

    def score(self, inputs: Inputs) -> np.ndarray:
        """[N] nats, >= 0; 0 for a response without tokens."""
        return -row_quantiles(column(inputs, "token_logprob"), np.array([self.alpha]))[:, 0]
