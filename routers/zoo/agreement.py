"""Agreement: how many sampled answers say the same as the answer."""

from __future__ import annotations

import dataclasses
import re
import string
from typing import Literal

import numpy as np

from routers.base import Inputs, Router
from routers.errors import InputError
from routers.features import row_mean
from routers.ragged import Ragged

PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclasses.dataclass(frozen=True)
class Agreement(Router):
    """One minus the share of sampled answers that agree with the small model's answer.

    score = 1 - (1 / k) sum_j 1[norm(y_j) = norm(y)], y the answer, y_1..y_k the answers in
    ``sampled_responses``; 0 where there is no sample. ``normal=squad`` compares in lower case
    without punctuation and articles (the normalisation of F1), ``normal=whitespace`` only
    joins runs of whitespace (that of exact match): take the one that quality was measured with.
    ``token_flops`` is what the small model spends per generated token (twice its parameters);
    it is charged for ``response_tokens`` per sample, the prompt being encoded once. Leave it 0
    only where the samples exist anyway. Raises InputError if it is negative.

    Source: agreement-based cascading (2407.02348), where the members of a tier vote, applied to
    samples of one model as in self-consistency (2203.11171); agreement with the answer that
    would be served rather than with the majority is our choice. Answers of equal meaning in
    other words count as different: comparing them needs embeddings of the samples, which
    records do not hold.
    """

    normal: Literal["squad", "whitespace"] = "squad"
    token_flops: float = 0.0

    def __post_init__(self) -> None:
        if not self.token_flops >= 0:
            raise InputError(f"agreement: token_flops is {self.token_flops}; give FLOPs >= 0")

    def score(self, inputs: Inputs) -> np.ndarray:
        """[N] in [0, 1]."""
        inputs.need("response", "sampled_responses")
        samples, answers = inputs.sampled_responses, inputs.response
        assert samples is not None
        assert answers is not None
        answer = np.array([self._normal(text) for text in answers], object)
        said = np.array([self._normal(text) for text in samples.values], object)
        differs = (said != answer[samples.row_ids]).astype(np.float64)
        return row_mean(Ragged(differs, samples.offsets))

    def flops_per_query(self, inputs: Inputs) -> np.ndarray:
        """[N] the samples' generation, at the length of the answer."""
        if self.token_flops == 0:
            return np.zeros(len(inputs))
        inputs.need("response_tokens", "sampled_responses")
        assert inputs.response_tokens is not None
        assert inputs.sampled_responses is not None
        return self.token_flops * inputs.response_tokens * inputs.sampled_responses.lengths

    def _normal(self, text: str) -> str:
        """The text as it is compared."""
        if self.normal == "squad":
            text = re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(PUNCTUATION))
        return " ".join(text.split())
