"""Post-Hoc-Embed: the learned rule over quantiles, with embeddings beside them."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from routers.base import Inputs
from routers.zoo.post_hoc import PostHoc


@dataclasses.dataclass(frozen=True, eq=False)
class PostHocEmbed(PostHoc):
    """Post-Hoc-Quantile (``post_hoc``) with the small model's embeddings as further features.

    x = [quantiles at 0, 0.1, ..., 1; mean; N; embedding], the embedding of the response, of the
    prompt, or ``both``. Learners, goals, costs and guards are those of ``post_hoc``; the
    perceptron is the default, since trees over wide embeddings take long to fit. The
    embeddings are by-products of generating the answer and charged nothing.

    Source: Post-Hoc-Embed-1 of Gupta et al. 2024 (2404.10136), as secondary sources give it:
    quantiles and the small model's final-layer embedding. Their Embed-1+2 adds an intermediate
    embedding of the large model, which costs its first layers on every query and which a router
    here cannot see. How they pool over tokens was not available to us: the records' pooled
    vectors, and the prompt's beside the response's, are our choice.
    """

    learner: Literal["booster", "mlp"] = "mlp"
    embed: Literal["both", "prompt", "response"] = "both"

    def _features(self, inputs: Inputs) -> np.ndarray:
        """[N, 13 + E] quantiles and embeddings."""
        names = ("prompt", "response") if self.embed == "both" else (self.embed,)
        inputs.need(*(f"{name}_embedding" for name in names))
        embeddings = [getattr(inputs, f"{name}_embedding").astype(np.float64) for name in names]
        return np.column_stack([super()._features(inputs), *embeddings])
