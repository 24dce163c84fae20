"""A pre-generation router: decide from the prompt alone, before the small model answers."""

from __future__ import annotations

import dataclasses

import numpy as np

from routers import linear, mlp
from routers.base import Inputs, Outcomes
from routers.embedding import EmbeddingRouter, prompt_embedding


@dataclasses.dataclass(frozen=True, eq=False)
class Prompt(EmbeddingRouter):
    """Predicted gain from the prompt's embedding, before anything is generated.

    score = w . standardise(e(x)) + b, ridge regression of q_L - q_S on the embedding, its
    penalty chosen by leave-one-out error. Higher predicted gain = send on. With fewer than 20
    fitting queries, or one gain for all, the score is a constant.

    Source: our choice. Routing before generation is RouteLLM's setting (2406.18665), whose
    routers predict a win rate from preferences instead.
    """

    def fit(self, inputs: Inputs, outcomes: Outcomes) -> Prompt:
        """Regress the gain on the embedding."""
        embedding_NE = prompt_embedding(inputs)
        mlp.target(outcomes, "gain")  # raises where there is nothing to fit on
        weights = linear.ridge(embedding_NE, outcomes.gain.astype(np.float64))
        return dataclasses.replace(self, weights_=weights)

    def score(self, inputs: Inputs) -> np.ndarray:
        """[N] predicted gains, in units of quality."""
        return mlp.predict(mlp.fitted(self, self.weights_), prompt_embedding(inputs))

    def own_flops(self, weights: mlp.Arrays) -> float:
        """2 per embedding entry."""
        return mlp.flops(weights)
