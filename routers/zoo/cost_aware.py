"""Cost-aware routing: is the quality deferring brings worth what it costs?"""

from __future__ import annotations

import dataclasses

import numpy as np

from routers import linear, mlp
from routers.base import Inputs, Outcomes
from routers.embedding import EmbeddingRouter, prompt_embedding
from routers.errors import InputError
from routers.nested import joined, part

TIERS = ("small", "large")


@dataclasses.dataclass(frozen=True, eq=False)
class CostAware(EmbeddingRouter):
    """Predicted gain in quality minus its price: argmax over tiers of q - price * c.

    score = (q_L - q_S) - price (c_L - c_S), all four predicted from the prompt before anything
    is generated: qualities by logistic regression, costs (in mean costs of a large answer) by
    ridge regression, never below 0, both on the embedding and the prompt's length. ``price`` is
    the quality one is ready to give up to save one average call of the large model; 0 ignores
    cost. Sending on at threshold 0 is the choice of the better tier at that price. A
    prediction with fewer than 20 fitting queries, or all alike, is a constant. Raises
    InputError if ``price`` is negative.

    Source: routing by quality minus lambda times cost, as the per-query choice in cascade
    routing (Dekoninck et al. 2024, 2410.10347); the learners, the unit of cost and the default
    price are our choice.
    """

    price: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.price >= 0:
            raise InputError(f"cost_aware: price is {self.price}; give a price >= 0")

    def fit(self, inputs: Inputs, outcomes: Outcomes) -> CostAware:
        """Four regressions: quality and cost of each tier."""
        features_NF = self._features(inputs)
        mlp.target(outcomes, "gain")  # raises where there is nothing to fit on
        unit = outcomes.flops_large.mean() or 1.0
        quality = (outcomes.quality_small, outcomes.quality_large)
        cost = (outcomes.flops_small / unit, outcomes.flops_large / unit)
        parts = {}
        for tier, quality_N, cost_N in zip(TIERS, quality, cost, strict=True):
            parts[f"quality_{tier}"] = linear.logistic(features_NF, quality_N.astype(np.float64))
            parts[f"cost_{tier}"] = linear.ridge(features_NF, cost_N.astype(np.float64))
        return dataclasses.replace(self, weights_=joined(parts))

    def score(self, inputs: Inputs) -> np.ndarray:
        """[N] in units of quality."""
        weights = mlp.fitted(self, self.weights_)
        features_NF = self._features(inputs)
        value = {}
        for tier in TIERS:
            quality_N = mlp.predict(part(weights, f"quality_{tier}"), features_NF)
            cost_N = np.maximum(mlp.predict(part(weights, f"cost_{tier}"), features_NF), 0.0)
            value[tier] = quality_N - self.price * cost_N
        return value["large"] - value["small"]

    def own_flops(self, weights: mlp.Arrays) -> float:
        """2 per feature and regression."""
        names = {key.partition(".")[0] for key in weights}
        return sum(mlp.flops(part(weights, name)) for name in names)

    def _features(self, inputs: Inputs) -> np.ndarray:
        """[N, E + 1] the embedding and log(1 + prompt tokens)."""
        inputs.need("prompt_tokens")
        assert inputs.prompt_tokens is not None
        return np.column_stack([prompt_embedding(inputs), np.log1p(inputs.prompt_tokens)])
