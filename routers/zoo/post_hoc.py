"""Post-Hoc-Quantile: a learned rule over the quantiles of the token log-probabilities."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import numpy as np

from routers import mlp, trees
from routers.base import Inputs, Outcomes, Router
from routers.features import column, quantile_vector


@dataclasses.dataclass(frozen=True, eq=False)
class PostHoc(Router):
    """A learned rule over quantiles of the token log-probabilities, their mean and their number.

    x = [quantiles at 0, 0.1, ..., 1; mean; N]; ``goal=gain``: score = E[q_L - q_S | x],
    by squared error; ``goal=fixes``: score = P(q_L > q_S | x), by cross-entropy.
    ``learner=mlp``: 5 hidden layers of 32 with batch norm, at most 200 epochs, the best by a
    held-out tenth. ``learner=booster``: 100 trees of depth 3. With fewer than 20 fitting
    queries, or all alike, the score is a constant. Fit on queries the small model was not
    trained on: there it is over-confident.

    Source: Post-Hoc-Quantile of Gupta et al. 2024 (2404.10136), as secondary sources give it:
    5 layers of 32, batch norm, 200 epochs. Targets: Jitkrittum et al. 2023 (2307.02764). The
    quantile grid, AdamW at 3e-3 on batches of 256, early stopping, and the booster are our
    choice.
    """

    learned: ClassVar[bool] = True
    learner: Literal["booster", "mlp"] = "booster"
    goal: mlp.Goal = "gain"
    seed: int = 0
    weights_: dict[str, np.ndarray] | None = None

    def fit(self, inputs: Inputs, outcomes: Outcomes) -> PostHoc:
        """Train the learner on the gain of each query."""
        features_NF = self._features(inputs)
        target_N, loss = mlp.target(outcomes, self.goal)
        if self.learner == "booster":
            weights = trees.train(features_NF, target_N, loss, self.seed)
        else:
            from routers import learn

            recipe = learn.Recipe(
                hidden=(32,) * 5, batch_norm=True, patience=50, loss=loss, seed=self.seed
            )
            weights = learn.train(features_NF, target_N, recipe)
        return dataclasses.replace(self, weights_=weights)

    def score(self, inputs: Inputs) -> np.ndarray:
        """[N] predicted gains, or probabilities of a gain."""
        weights = mlp.fitted(self, self.weights_)
        predict = trees.predict if self.learner == "booster" else mlp.predict
        return predict(weights, self._features(inputs))

    def flops_per_query(self, inputs: Inputs) -> np.ndarray:
        """[N] matmul FLOPs of the MLP; comparisons and additions of the trees."""
        weights = mlp.fitted(self, self.weights_)
        flops = trees.flops if self.learner == "booster" else mlp.flops
        return np.full(len(inputs), flops(weights))

    def _features(self, inputs: Inputs) -> np.ndarray:
        """[N, 13] the Post-Hoc-Quantile vector."""
        return quantile_vector(column(inputs, "token_logprob"))
