"""Random deferral: the line every router must beat."""

from __future__ import annotations

import dataclasses

import numpy as np

from routers.base import Inputs, Router
from routers.features import stable_hash


@dataclasses.dataclass(frozen=True)
class Random(Router):
    """A uniform number in [0, 1) per query, whatever was asked or answered.

    score = hash(seed, query_id) / 2^64, so a query keeps its score in any row order or subset.
    Charged like any response-stage cascade (the small model is paid), so that lines compare.
    Source: the random line of RouteLLM (2406.18665); hashing the id is our choice.
    """

    seed: int = 0

    def score(self, inputs: Inputs) -> np.ndarray:
        """[N] uniform in [0, 1)."""
        # 53 bits: what float64 holds exactly, so 1.0 cannot be reached by rounding.
        return (stable_hash(inputs.query_id, self.seed) >> np.uint64(11)) * 2.0**-53
