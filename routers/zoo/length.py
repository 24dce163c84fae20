"""Response length: the trivial baseline behind length-biased scores."""

from __future__ import annotations

import dataclasses

import numpy as np

from routers.base import Inputs, Router


@dataclasses.dataclass(frozen=True)
class Length(Router):
    """The number of response tokens: long answers are sent on.

    score = N_i, in tokens of the small model's tokenizer, EOS included.
    Source: our choice of control; Gupta et al. 2024 (2404.10136) show that Chow-Sum is biased
    by length, and a router that does not beat this one has learned only length.
    """

    def score(self, inputs: Inputs) -> np.ndarray:
        """[N] response tokens."""
        inputs.need("response_tokens")
        assert inputs.response_tokens is not None
        return inputs.response_tokens.astype(np.float64)
