"""Predictive entropy of the response tokens."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from routers.base import Inputs, Router
from routers.features import column, row_max, row_mean


@dataclasses.dataclass(frozen=True)
class Entropy(Router):
    """Mean (or greatest) entropy of the next-token distribution over the response, in nats.

    score = mean_i H(p_S(. | x, y_<i)), or max_i with ``reduce=max``.
    Source: mean token entropy is, from memory and not checked, the signal Gatekeeper (2502.19335)
    uses for generation; the maximum is our choice, by analogy with Chow-Quantile at alpha 0.
    """

    reduce: Literal["mean", "max"] = "mean"

    def score(self, inputs: Inputs) -> np.ndarray:
        """[N] nats, >= 0; 0 for a response without tokens."""
        return (row_max if self.reduce == "max" else row_mean)(column(inputs, "token_entropy"))
