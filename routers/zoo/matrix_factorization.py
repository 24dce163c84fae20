"""Matrix factorisation: model embeddings times a projection of the prompt's."""

from __future__ import annotations

import dataclasses

import numpy as np

from routers import bilinear, mlp
from routers.base import Inputs, Outcomes
from routers.embedding import EmbeddingRouter, prompt_embedding
from routers.errors import InputError


@dataclasses.dataclass(frozen=True, eq=False)
class MatrixFactorization(EmbeddingRouter):
    """Predicted chance that the large model's answer is preferred.

    delta(m, x) = h . (v_m * W x), v_m the unit-length embedding of model m;
    score = sigmoid(delta(L, x) - delta(S, x)). Quality becomes a preference
    y = (1 + q_L - q_S) / 2: 1 where the large model is right and the small one wrong, 0 the
    other way round, 1/2 where they do equally well; fitted by cross-entropy. x is the
    standardised embedding and a constant 1. With fewer than 20 fitting queries, or all alike,
    the score is a constant. With two models this is a logistic regression whose weights are
    factored; the factors are kept because they describe the models. Raises InputError unless
    ``dim`` >= 1.

    Source: the matrix-factorisation router of RouteLLM (2406.18665) and its released code:
    the bilinear score, unit-length model embeddings, no bias, dim 128. Its code drops ties and
    learns from human votes on 64 models; ties at one half, the constant coordinate (in place of
    the non-zero mean of the embeddings it uses), L-BFGS and the penalty chosen on a held-out
    tenth (in place of Adam and noise on the embedding) are our choice.
    """

    dim: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dim < 1:
            raise InputError(f"matrix_factorization: dim is {self.dim}; give at least 1")

    def fit(self, inputs: Inputs, outcomes: Outcomes) -> MatrixFactorization:
        """Learn both models' embeddings and the projection of the prompt's."""
        embedding_NE = prompt_embedding(inputs)
        gain_N, _ = mlp.target(outcomes, "gain")
        weights = bilinear.train(embedding_NE, (1.0 + gain_N) / 2.0, self.dim, self.seed)
        return dataclasses.replace(self, weights_=weights)

    def score(self, inputs: Inputs) -> np.ndarray:
        """[N] in (0, 1); above 1/2 the large model is preferred."""
        weights = mlp.fitted(self, self.weights_)
        return mlp.sigmoid(bilinear.predict(weights, prompt_embedding(inputs)))

    def own_flops(self, weights: mlp.Arrays) -> float:
        """2 per entry of the projection, 4 per dimension of the factors."""
        return 2.0 * weights["projection"].size + 4.0 * weights["head"].size
