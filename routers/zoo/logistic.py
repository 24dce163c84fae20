"""Logistic regression on the prompt's embedding."""

from __future__ import annotations

import dataclasses

import numpy as np

from routers import linear, mlp
from routers.base import Inputs, Outcomes
from routers.embedding import EmbeddingRouter, prompt_embedding
from routers.nested import joined, part


@dataclasses.dataclass(frozen=True, eq=False)
class Logistic(EmbeddingRouter):
    """Predicted gain, or chance of one, by logistic regression on the prompt's embedding.

    ``goal=gain``: score = sigmoid(w_L . x + b_L) - sigmoid(w_S . x + b_S), one regression of
    each tier's quality; ``goal=fixes``: score = sigmoid(w . x + b), a regression of
    1[q_L > q_S]. x is the standardised embedding; a quality between 0 and 1 counts as that
    much of a right answer. With fewer than 20 fitting queries, or all alike, the score is a
    constant.

    Source: our choice; goals as in post-hoc deferral, Jitkrittum et al. 2023 (2307.02764).
    """

    goal: mlp.Goal = "gain"

    def fit(self, inputs: Inputs, outcomes: Outcomes) -> Logistic:
        """One regression per tier, or one in all."""
        embedding_NE = prompt_embedding(inputs)
        target_N, _ = mlp.target(outcomes, self.goal)
        if self.goal == "fixes":
            weights = joined({"fixes": linear.logistic(embedding_NE, target_N)})
        else:
            tiers = {"small": outcomes.quality_small, "large": outcomes.quality_large}
            weights = joined(
                {
                    tier: linear.logistic(embedding_NE, quality_N.astype(np.float64))
                    for tier, quality_N in tiers.items()
                }
            )
        return dataclasses.replace(self, weights_=weights)

    def score(self, inputs: Inputs) -> np.ndarray:
        """[N] in [-1, 1]; in (0, 1) with ``goal=fixes``."""
        weights = mlp.fitted(self, self.weights_)
        embedding_NE = prompt_embedding(inputs)
        if self.goal == "fixes":
            return mlp.predict(part(weights, "fixes"), embedding_NE)
        small_N, large_N = (
            mlp.predict(part(weights, tier), embedding_NE) for tier in ("small", "large")
        )
        return large_N - small_N

    def own_flops(self, weights: mlp.Arrays) -> float:
        """2 per embedding entry and regression."""
        names = {key.partition(".")[0] for key in weights}
        return sum(mlp.flops(part(weights, name)) for name in names)
