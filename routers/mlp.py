"""Fitted multi-layer perceptrons as plain arrays: standardise, forward pass, cost. NumPy only.

The arrays of one perceptron: ``mean``, ``scale`` [F] of the features it was fitted on, layers
``w0, b0, w1, b1, ...`` with the last of width 1, and ``sigmoid`` (true: it predicts a
probability; false: a gain).

Letters: N rows, F features, H hidden width.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float, Float64

from routers.base import Outcomes, Router
from routers.errors import InputError

Arrays = dict[str, np.ndarray]
Loss = Literal["bce", "squared"]
Goal = Literal["gain", "fixes"]
"""What a learned router predicts: the quality deferring brings, or whether it brings any."""

LEAST_ROWS = 20
"""Below this many rows nothing is learned: the answer is a constant."""

CLIP = 6.0
"""Standard deviations; one odd query must not push a perceptron far outside what it saw."""


def fitted(router: Router, arrays: Arrays | None) -> Arrays:
    """A router's fitted arrays, or a clear error when ``score`` comes before ``fit``."""
    router.require_fitted()
    assert arrays is not None
    return arrays


def target(outcomes: Outcomes, goal: Goal) -> tuple[Float64[np.ndarray, " N"], Loss]:
    """What a learned router predicts, and the loss that fits it.

    ``gain``: z = q_L - q_S by squared error, since for a fixed cost the Bayes rule defers iff
    E[q_L - q_S | x] > c. ``fixes``: z = 1[q_L > q_S] by cross-entropy, which forgets the
    queries that deferring would spoil: the best predictor of it can rank worse than chance.
    Source: targets (b) and (a) of post-hoc deferral, Jitkrittum et al. 2023 (2307.02764).
    """
    if not len(outcomes):
        raise InputError("no queries to fit a router on; choose a fit split that has some")
    gain_N = outcomes.gain.astype(np.float64)
    if goal == "gain":
        return gain_N, "squared"
    return (gain_N > 0).astype(np.float64), "bce"


def learnable(target_N: Float[np.ndarray, " N"]) -> bool:
    """Whether there is anything to learn: enough rows, and not all of one value."""
    return len(target_N) >= LEAST_ROWS and bool(np.ptp(target_N) > 0)


def constant_logit(target_N: Float[np.ndarray, " N"], loss: Loss) -> float:
    """What to answer when nothing can be learned.

    Cross-entropy: the log-odds of (k + 1) / (n + 2), k positives of n (Laplace's rule, finite
    when one class is missing). Squared error: the mean.

    >>> constant_logit(np.array([0.0, 1.0]), "bce"), constant_logit(np.array([0.5]), "squared")
    (0.0, 0.5)
    """
    if loss == "squared":
        return float(target_N.mean())
    positives = float(target_N.sum())
    return float(np.log(positives + 1.0) - np.log(len(target_N) - positives + 1.0))


def constant(features: int, target_N: Float[np.ndarray, " N"], loss: Loss) -> Arrays:
    """A perceptron of one layer that answers ``constant_logit`` whatever it is given."""
    return {
        "mean": np.zeros(features),
        "scale": np.ones(features),
        "w0": np.zeros((features, 1)),
        "b0": np.array([constant_logit(target_N, loss)]),
        "sigmoid": np.array(loss == "bce"),
    }


def standardiser(features_NF: Float[np.ndarray, "N F"]) -> Arrays:
    """Mean and standard deviation of each feature; a constant feature is left at scale 1."""
    deviation_F = features_NF.std(axis=0)
    return {
        "mean": features_NF.mean(axis=0),
        "scale": np.where(deviation_F > 1e-9, deviation_F, 1.0),
    }


def standardise(arrays: Arrays, features_NF: Float[np.ndarray, "N F"]) -> np.ndarray:
    """[N, F] features in deviations from the fit split's mean, clipped at +-``CLIP``."""
    return np.clip((features_NF - arrays["mean"]) / arrays["scale"], -CLIP, CLIP)


def predict(arrays: Arrays, features_NF: Float[np.ndarray, "N F"]) -> Float64[np.ndarray, " N"]:
    """Probability in (0, 1) or gain of each row. Raises InputError on another feature count."""
    wanted, given = len(arrays["mean"]), features_NF.shape[1]
    if wanted != given:
        raise InputError(
            f"the router was fitted on {wanted} features per row but got {given}; score with "
            "records that carry the same columns (same top-k, same embedding) as the fit split"
        )
    hidden_NH = standardise(arrays, features_NF)
    layers = _depth(arrays)
    for layer in range(layers):
        hidden_NH = hidden_NH @ arrays[f"w{layer}"] + arrays[f"b{layer}"]
        if layer < layers - 1:
            hidden_NH = np.maximum(hidden_NH, 0.0)
    return sigmoid(hidden_NH[:, 0]) if arrays["sigmoid"] else hidden_NH[:, 0]


def flops(arrays: Arrays) -> float:
    """Matmul FLOPs of one row: 2 per weight."""
    return float(sum(2 * arrays[f"w{layer}"].size for layer in range(_depth(arrays))))


def sigmoid(logit_N: Float[np.ndarray, " N"]) -> Float64[np.ndarray, " N"]:
    """1 / (1 + exp(-x)) without overflow.

    >>> sigmoid(np.array([-1000.0, 0.0, 1000.0])).tolist()
    [0.0, 0.5, 1.0]
    """
    decay_N = np.exp(-np.abs(logit_N.astype(np.float64)))
    return np.where(logit_N >= 0, 1.0, decay_N) / (1.0 + decay_N)


def _depth(arrays: Arrays) -> int:
    """How many layers the arrays hold."""
    return sum(1 for name in arrays if name[0] == "w")
