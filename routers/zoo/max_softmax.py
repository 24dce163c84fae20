"""Maximum softmax probability of the response tokens."""

from __future__ import annotations

import dataclasses

import numpy as np

from routers.base import Inputs, Router
from routers.features import column, row_mean, top_k
from routers.ragged import Ragged


@dataclasses.dataclass(frozen=True)
class MaxSoftmax(Router):
    """One minus the mean over response tokens of the largest probability.

    score = 1 - (1 / N) sum_i max_v p_S(v | x, y_<i). Unlike the Chow rules it does not ask how
    likely the token was that was taken, so it also serves sampled answers; a token counts by
    its probability, so that none can count more than 1.

    Source: the maximum softmax probability of Hendrycks and Gimpel 2017 (1610.02136), which is
    Gatekeeper's (2502.19335) signal for classification, where N = 1; the mean over several
    tokens is our choice. Gatekeeper's signal for generation, mean predictive entropy, is
    ``entropy``.
    """

    def score(self, inputs: Inputs) -> np.ndarray:
        """[N] in [0, 1]; 0 for a response without tokens."""
        topk = column(inputs, "topk_logprob")
        return row_mean(Ragged(-np.expm1(top_k(topk, 1)[:, 0]), topk.offsets))
