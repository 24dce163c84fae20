"""What every router on prompt embeddings shares: its column, its stage and what it is charged.

Letters: N queries, E embedding width.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
from jaxtyping import Float64

from routers import mlp
from routers.base import Inputs, Router, Stage
from routers.errors import InputError


def prompt_embedding(inputs: Inputs) -> Float64[np.ndarray, "N E"]:
    """The prompt embeddings in float64; InputError where the records lack them."""
    inputs.need("prompt_embedding")
    assert inputs.prompt_embedding is not None
    return inputs.prompt_embedding.astype(np.float64)


def unit(rows_NE: Float64[np.ndarray, "N E"]) -> Float64[np.ndarray, "N E"]:
    """Each row divided by its Euclidean length; a row of zeros stays zero.

    >>> unit(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6, 0.8], [0.0, 0.0]]
    """
    length_N1 = np.sqrt((rows_NE * rows_NE).sum(axis=1, keepdims=True))
    return rows_NE / np.where(length_N1 > 0, length_N1, 1.0)


def check_width(wanted: int, embedding_NE: Float64[np.ndarray, "N E"]) -> None:
    """Raise InputError where the embeddings are not as wide as those of the fit split."""
    if embedding_NE.shape[1] != wanted:
        raise InputError(
            f"the router was fitted on prompt embeddings of width {wanted} but got "
            f"{embedding_NE.shape[1]}; score with the embedding of the fit split"
        )


@dataclasses.dataclass(frozen=True, eq=False)
class EmbeddingRouter(Router):
    """Base of the learned pre-generation routers: they read ``prompt_embedding``.

    ``embedding_flops`` is what the embedding costs per prompt token (twice the parameters of
    the model that makes it); it is charged for every query. Leave it 0 only where the
    embedding exists anyway. Raises InputError if it is negative.
    """

    stage: ClassVar[Stage] = "prompt"
    learned: ClassVar[bool] = True
    embedding_flops: float = 0.0
    weights_: dict[str, np.ndarray] | None = None

    def __post_init__(self) -> None:
        if not self.embedding_flops >= 0:
            raise InputError(
                f"{type(self).__name__}: embedding_flops is {self.embedding_flops}; give FLOPs >= 0"
            )

    def own_flops(self, weights: mlp.Arrays) -> float:
        """FLOPs of one decision once the embedding is there."""
        raise NotImplementedError

    def flops_per_query(self, inputs: Inputs) -> np.ndarray:
        """[N] FLOPs of the decision, plus the embedding's own per prompt token."""
        own_N = np.full(len(inputs), self.own_flops(mlp.fitted(self, self.weights_)))
        if self.embedding_flops == 0:
            return own_N
        inputs.need("prompt_tokens")
        assert inputs.prompt_tokens is not None
        return own_N + self.embedding_flops * inputs.prompt_tokens
