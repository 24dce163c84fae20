"""The learned CAT router: would the large model fix what the small one got wrong?"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from routers import mlp
from routers.base import Inputs, Outcomes, Router
from routers.errors import InputError
from routers.features import column, row_max, row_mean, row_min, top_k, usable_k
from routers.ragged import Ragged


@dataclasses.dataclass(frozen=True, eq=False)
class CatRouter(Router):
    """The quality deferring would bring, from the small model's own token signals.

    z_i = [log-probability, entropy, top-1 minus top-2 margin, top-K log-probabilities] at each
    response token; x = [mean_i z, min_i z, max_i z, log(1 + N)];
    score = MLP(x), two hidden layers of 32. ``goal=gain``: squared error to q_L - q_S;
    ``goal=fixes``: cross-entropy to 1[q_L > q_S], "small wrong and large right", score in
    (0, 1). With fewer than 20 fitting queries, or all alike, the score is a constant. Fit on
    queries the small model was not trained on: there it is over-confident.

    Source: our reading of a learned router for CAT (2406.00060), whose own was not available
    to us; signals, pooling, width and loss are our choice.
    """

    learned: ClassVar[bool] = True
    goal: mlp.Goal = "gain"
    topk: int = 10  # K; fewer if the records hold fewer
    seed: int = 0
    weights_: dict[str, np.ndarray] | None = None

    def __post_init__(self) -> None:
        if self.topk < 2:
            raise InputError(f"cat_router: topk is {self.topk}; give at least 2")

    def fit(self, inputs: Inputs, outcomes: Outcomes) -> CatRouter:
        """Train on the gain of each query."""
        from routers import learn

        target_N, loss = mlp.target(outcomes, self.goal)
        k = usable_k(column(inputs, "topk_logprob"), self.topk)
        recipe = learn.Recipe(loss=loss, seed=self.seed)
        weights = learn.train(self._features(inputs, k), target_N, recipe)
        return dataclasses.replace(self, weights_={**weights, "k": np.array(k)})

    def score(self, inputs: Inputs) -> np.ndarray:
        """[N] predicted gains, or probabilities of a gain."""
        weights = mlp.fitted(self, self.weights_)
        return mlp.predict(weights, self._features(inputs, int(weights["k"])))

    def flops_per_query(self, inputs: Inputs) -> np.ndarray:
        """[N] matmul FLOPs of the MLP, once per query."""
        weights = mlp.fitted(self, self.weights_)
        return np.full(len(inputs), mlp.flops(weights))

    def _features(self, inputs: Inputs, k: int) -> np.ndarray:
        """[N, 3 (3 + K) + 1] pooled token signals."""
        logprob, topk_MK = column(inputs, "token_logprob"), top_k(column(inputs, "topk_logprob"), k)
        signals_MS = np.column_stack(
            [
                logprob.values,
                column(inputs, "token_entropy").values,
                topk_MK[:, 0] - topk_MK[:, 1],
                topk_MK,
            ]
        )
        signals = Ragged(signals_MS, logprob.offsets)
        pooled = [pool(signals) for pool in (row_mean, row_min, row_max)]
        return np.column_stack([*pooled, np.log1p(logprob.lengths)])
