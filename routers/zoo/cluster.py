"""Clusters of prompts, each with the error of either model."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from routers import mlp
from routers.base import Inputs, Outcomes
from routers.embedding import EmbeddingRouter, check_width, prompt_embedding
from routers.errors import InputError

LEAST_IN_CLUSTER = 20
"""Fitting queries per cluster on average; with fewer there are fewer clusters."""

RESTARTS: Any = 4
"""Of k-means, the best kept. (scikit-learn's annotation knows the word "auto" only.)"""


@dataclasses.dataclass(frozen=True, eq=False)
class Cluster(EmbeddingRouter):
    """Difference of the two models' mean errors among the prompts of the same cluster.

    score = err_S(k) - err_L(k), k the cluster whose centre is nearest to the standardised
    embedding, err(k) = mean of 1 - q over the fitting queries of cluster k. Queries of one
    cluster tie. With fewer than 20 fitting queries per cluster on average there are fewer
    clusters. Raises InputError unless ``clusters`` >= 1.

    Source: UniRoute (2502.08773): k-means on prompt embeddings, a model described by its error
    in each cluster. There the centres come from unlabelled training prompts and the errors from
    a validation set; here both come from the fit split. The number of clusters, at least 20
    queries for each, and standardising are our choice.
    """

    clusters: int = 30
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clusters < 1:
            raise InputError(f"cluster: clusters is {self.clusters}; give at least 1")

    def fit(self, inputs: Inputs, outcomes: Outcomes) -> Cluster:
        """Find the clusters, then average the errors within each."""
        from sklearn.cluster import KMeans

        embedding_NE = prompt_embedding(inputs)
        mlp.target(outcomes, "gain")  # raises where there is nothing to fit on
        scaler = mlp.standardiser(embedding_NE)
        standard_NE = mlp.standardise(scaler, embedding_NE)
        distinct = len(np.unique(standard_NE, axis=0))
        count = max(1, min(self.clusters, len(standard_NE) // LEAST_IN_CLUSTER, distinct))
        model = KMeans(count, n_init=RESTARTS, random_state=self.seed).fit(standard_NE)
        centre_CE = np.asarray(model.cluster_centers_)
        # Assigned by our own rule, so that fitting and scoring cannot disagree.
        cluster_N = _nearest(centre_CE, standard_NE)
        size_C = np.maximum(np.bincount(cluster_N, minlength=count), 1)
        errors = {
            name: np.bincount(cluster_N, 1.0 - quality_N, minlength=count) / size_C
            for name, quality_N in (
                ("error_small", outcomes.quality_small),
                ("error_large", outcomes.quality_large),
            )
        }
        return dataclasses.replace(self, weights_={**scaler, "centre": centre_CE, **errors})

    def score(self, inputs: Inputs) -> np.ndarray:
        """[N] in [-1, 1]."""
        weights = mlp.fitted(self, self.weights_)
        embedding_NE = prompt_embedding(inputs)
        check_width(len(weights["mean"]), embedding_NE)
        cluster_N = _nearest(weights["centre"], mlp.standardise(weights, embedding_NE))
        return (weights["error_small"] - weights["error_large"])[cluster_N]

    def own_flops(self, weights: mlp.Arrays) -> float:
        """2 per entry of the centres."""
        return 2.0 * weights["centre"].size


def _nearest(centre_CE: np.ndarray, rows_NE: np.ndarray) -> np.ndarray:
    """[N] the centre at the least Euclidean distance; the first of several."""
    # |x - c|^2 without its |x|^2, which is the same for every centre.
    return ((centre_CE * centre_CE).sum(axis=1) - 2.0 * rows_NE @ centre_CE.T).argmin(axis=1)
