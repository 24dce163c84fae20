"""A pre-generation router: decide from the prompt alone, before the small model answers."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from routers import mlp
from routers.base import Inputs, Outcomes, Router, Stage
from routers.errors import InputError

PENALTIES = np.logspace(-1.0, 5.0, 13)


@dataclasses.dataclass(frozen=True, eq=False)
class Prompt(Router):
    """Predicted gain from the prompt's embedding, before anything is generated.

    score = w . standardise(e(x)) + b, ridge regression of q_L - q_S on the embedding, its
    penalty chosen by leave-one-out error. Higher predicted gain = send on. With fewer than 20
    fitting queries, or one gain for all, the score is a constant.

    ``embedding_flops`` is what the embedding costs per prompt token (twice the parameters of
    the model that makes it); it is charged for every query. Leave it 0 only where the
    embedding exists anyway. Raises InputError if it is negative.

    Source: our choice. Routing before generation is RouteLLM's setting (2406.18665), whose
    routers predict a win rate from preferences instead.
    """

    stage: ClassVar[Stage] = "prompt"
    learned: ClassVar[bool] = True
    embedding_flops: float = 0.0
    weights_: dict[str, np.ndarray] | None = None

    def __post_init__(self) -> None:
        if self.embedding_flops < 0:
            raise InputError(f"prompt: embedding_flops is {self.embedding_flops}; give FLOPs >= 0")

    def fit(self, inputs: Inputs, outcomes: Outcomes) -> Prompt:
        """Regress the gain on the embedding."""
        embedding_NE = self._embedding(inputs)
        mlp.target(outcomes, "gain")  # raises where there is nothing to fit on
        gain_N = outcomes.gain.astype(np.float64)
        if not mlp.learnable(gain_N):
            weights = mlp.constant(embedding_NE.shape[1], gain_N, "squared")
            return dataclasses.replace(self, weights_=weights)
        from sklearn.linear_model import RidgeCV

        scaler = mlp.standardiser(embedding_NE)
        model = RidgeCV(alphas=PENALTIES).fit(mlp.standardise(scaler, embedding_NE), gain_N)
        line = {"w0": np.asarray(model.coef_)[:, None], "b0": np.array([model.intercept_])}
        return dataclasses.replace(self, weights_={**scaler, **line, "sigmoid": np.array(False)})

    def score(self, inputs: Inputs) -> np.ndarray:
        """[N] predicted gains, in units of quality."""
        weights = mlp.fitted(self, self.weights_)
        return mlp.predict(weights, self._embedding(inputs))

    def flops_per_query(self, inputs: Inputs) -> np.ndarray:
        """[N] 2 FLOPs per embedding entry, plus the embedding's own per prompt token."""
        weights = mlp.fitted(self, self.weights_)
        line_N = np.full(len(inputs), mlp.flops(weights))
        if self.embedding_flops == 0:
            return line_N
        inputs.need("prompt_tokens")
        assert inputs.prompt_tokens is not None
        return line_N + self.embedding_flops * inputs.prompt_tokens

    def _embedding(self, inputs: Inputs) -> np.ndarray:
        """[N, E] in float64."""
        inputs.need("prompt_embedding")
        assert inputs.prompt_embedding is not None
        return inputs.prompt_embedding.astype(np.float64)
