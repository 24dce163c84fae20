"""Chow-Sum: negative log-likelihood of the response."""

from __future__ import annotations

import dataclasses

import numpy as np

from routers.base import Inputs, Router
from routers.features import column, row_sum


@dataclasses.dataclass(frozen=True)
class ChowSum(Router):
    """Negative log-likelihood of the response, in nats; grows with length.

    score = - sum_i log p_S(y_i | x, y_<i), y the small model's own response.
    Source: Chow-Sum, Gupta et al. 2024 (2404.10136), sign flipped so that higher = send on.
    """

    def score(self, inputs: Inputs) -> np.ndarray:
        """[N] nats, >= 0; 0 for a response without tokens."""
        return -row_sum(column(inputs, "token_logprob"))
