"""A calibrated confidence: another router's signal as the chance that the answer is wrong."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import numpy as np

from routers import calibration, mlp
from routers.base import Inputs, Outcomes, Router
from routers.errors import InputError
from routers.nested import members


@dataclasses.dataclass(frozen=True, eq=False)
class Calibrated(Router):
    """Calibrated probability that the small model's answer is wrong, from one signal.

    score = P(small wrong | s), s the score of the training-free router ``signal``.
    ``method=isotonic``: the best non-decreasing function of s by squared error, straight
    between its steps. ``method=temperature``: 1 - exp(-s / T), for signals that are negative
    log-likelihoods (``chow_average``, ``chow_sum``, ``chow_quantile``): exp(-s) is the
    confidence, T its one parameter, fitted by cross-entropy. Temperature keeps the ranking of s
    exactly, isotonic up to ties; what calibration adds is a unit: a threshold of 0.3 sends on
    answers with at least a 30 % chance of being wrong, whatever the task mix. A graded quality
    counts as that much of a right answer. With fewer than 20 fitting queries, or all alike, the
    score is a constant. Raises InputError for a signal that is learned or sees the outcomes,
    and for a negative one with ``method=temperature``.

    Source: isotonic-calibrated margin: UCCI (2605.18796), known to us from secondary sources
    only; temperature: Guo et al. 2017 (1706.04599), applied to the likelihood of the answer
    instead of the logits, which is our choice.
    """

    learned: ClassVar[bool] = True
    signal: str = "margin"
    method: Literal["isotonic", "temperature"] = "isotonic"
    weights_: dict[str, np.ndarray] | None = None

    def __post_init__(self) -> None:
        if self._signal().learned:
            raise InputError(f"calibrated: '{self.signal}' is learned; name a training-free signal")

    def fit(self, inputs: Inputs, outcomes: Outcomes) -> Calibrated:
        """Fit the map from signal to probability."""
        mlp.target(outcomes, "gain")  # raises where there is nothing to fit on
        wrong_N = 1.0 - outcomes.quality_small.astype(np.float64)
        signal_N = self._signal().score(inputs)
        if not mlp.learnable(wrong_N):
            weights = calibration.constant(float(wrong_N.mean()))
        elif self.method == "isotonic":
            weights = calibration.isotonic(signal_N, wrong_N)
        else:
            weights = calibration.temperature(signal_N, wrong_N)
        return dataclasses.replace(self, weights_=weights)

    def score(self, inputs: Inputs) -> np.ndarray:
        """[N] probabilities in [0, 1]."""
        weights = mlp.fitted(self, self.weights_)
        return calibration.predict(weights, self._signal().score(inputs))

    def flops_per_query(self, inputs: Inputs) -> np.ndarray:
        """[N] the signal's own, and one look-up."""
        weights = mlp.fitted(self, self.weights_)
        return self._signal().flops_per_query(inputs) + calibration.flops(weights)

    def _signal(self) -> Router:
        """The router whose score is calibrated; one, since ``+`` joins members."""
        found = members(self.signal, "calibrated")
        if len(found) > 1:
            raise InputError(f"calibrated: '{self.signal}' is several; name one signal")
        return found[0]
