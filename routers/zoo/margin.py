"""Top-1 minus top-2 margin of the response tokens."""

from __future__ import annotations

import dataclasses

import numpy as np

from routers.base import Inputs, Router
from routers.features import column, row_mean, top_margins


@dataclasses.dataclass(frozen=True)
class Margin(Router):
    """Negated mean margin between the two likeliest tokens, in nats.

    score = - mean_i [log p_(1) - log p_(2)] at token i; 0 = every token a tie.
    Source: margin sampling (Scheffer et al. 2001) at each token; the mean over the response is
    our choice.
    """

    def score(self, inputs: Inputs) -> np.ndarray:
        """[N] nats, <= 0; 0 for a response without tokens."""
        return -row_mean(top_margins(column(inputs, "topk_logprob")))
