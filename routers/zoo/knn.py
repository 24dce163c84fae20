"""k nearest neighbours: what deferring brought to the most similar prompts."""

from __future__ import annotations

import dataclasses

import numpy as np

from routers import mlp
from routers.base import Inputs, Outcomes
from routers.embedding import EmbeddingRouter, check_width, prompt_embedding, unit
from routers.errors import InputError

CHUNK = 4_000_000
"""Similarities held at once."""


@dataclasses.dataclass(frozen=True, eq=False)
class Knn(EmbeddingRouter):
    """Mean gain of the k fitting prompts nearest by cosine.

    score = (1 / |K(x)|) sum_{j in K(x)} (q_L - q_S)_j, K(x) the k fitting queries whose
    embeddings, centred on the fit split's mean, have the largest cosine with x's; those equal
    to the k-th (to 9 digits) all count, so that neither row order nor repeated prompts decide.
    All of them if there are fewer than k. Raises InputError unless k >= 1.

    Source: the KNN router of RouterBench (Hu et al. 2024, 2403.12031), which averages each
    model's performance over the neighbours; the difference of two models' averages is the
    average gain. k = 40, centring and the treatment of ties are our choice.
    """

    k: int = 40

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.k < 1:
            raise InputError(f"knn: k is {self.k}; give at least 1")

    def fit(self, inputs: Inputs, outcomes: Outcomes) -> Knn:
        """Remember every embedding and its gain."""
        embedding_NE = prompt_embedding(inputs)
        gain_N, _ = mlp.target(outcomes, "gain")
        mean_E = embedding_NE.mean(axis=0)
        near = unit(embedding_NE - mean_E).astype(np.float32)
        return dataclasses.replace(self, weights_={"near": near, "gain": gain_N, "mean": mean_E})

    def score(self, inputs: Inputs) -> np.ndarray:
        """[N] mean gains in [-1, 1]."""
        weights = mlp.fitted(self, self.weights_)
        embedding_NE = prompt_embedding(inputs)
        check_width(len(weights["mean"]), embedding_NE)
        asked_NE = unit(embedding_NE - weights["mean"])
        rows = max(1, CHUNK // len(weights["gain"]))
        chunks = [
            self._mean_gain(weights, asked_NE[start : start + rows])
            for start in range(0, len(asked_NE), rows)
        ]
        return np.concatenate(chunks) if chunks else np.zeros(0)

    def own_flops(self, weights: mlp.Arrays) -> float:
        """2 per entry of the stored embeddings."""
        return 2.0 * weights["near"].size

    def _mean_gain(self, weights: mlp.Arrays, asked_NE: np.ndarray) -> np.ndarray:
        """[N] for one chunk; R fitting queries."""
        cosine_NR = (asked_NE @ weights["near"].T.astype(np.float64)).round(9)
        k = min(self.k, cosine_NR.shape[1])
        kth_N1 = -np.partition(-cosine_NR, k - 1, axis=1)[:, k - 1 : k]
        taken_NR = cosine_NR >= kth_N1
        return (taken_NR @ weights["gain"]) / taken_NR.sum(axis=1)
