"""Chow-Average: mean negative log-likelihood, the r(x) of cascade-aware training."""

from __future__ import annotations

import dataclasses

import numpy as np

from routers.base import Inputs, Router
from routers.features import column, row_mean


@dataclasses.dataclass(frozen=True)
class ChowAverage(Router):
    """Mean negative log-likelihood per response token, in nats.

    score = r(x) = - (1 / N) sum_i log p_S(y_i | x, y_<i), y the small model's own response.
    Source: CAT's deferral rule (2406.00060) as secondary sources report it; Chow-Average of
    Gupta et al. 2024 (2404.10136), sign flipped so that higher = send on.
    """

    def score(self, inputs: Inputs) -> np.ndarray:
        """[N] nats per token, >= 0; 0 for a response without tokens."""
        return -row_mean(column(inputs, "token_logprob"))
