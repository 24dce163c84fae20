"""Maps from a score to a probability: isotonic steps or one temperature; read with NumPy alone.

The arrays: ``x``, ``y`` [P] of a non-decreasing piecewise-linear map, or ``temperature``.

Letters: N rows, P points.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float64

from routers import mlp
from routers.errors import InputError

FLOOR = 1e-6
"""Least probability of either outcome inside the cross-entropy; a log-likelihood of exactly 0
on a wrong answer would otherwise cost infinitely much at any temperature."""


def isotonic(score_N: Float[np.ndarray, " N"], target_N: Float[np.ndarray, " N"]) -> mlp.Arrays:
    """The non-decreasing map with the least squared error, flat outside the scores seen.

    Source: isotonic regression (pool adjacent violators), as scikit-learn fits it.

    >>> isotonic(np.array([0.0, 1.0, 2.0]), np.array([0.0, 1.0, 0.5]))["y"].tolist()
    [0.0, 0.75, 0.75]
    """
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression().fit(score_N, target_N)
    return {"x": np.asarray(fitted.X_thresholds_), "y": np.asarray(fitted.y_thresholds_)}


def temperature(score_N: Float[np.ndarray, " N"], target_N: Float[np.ndarray, " N"]) -> mlp.Arrays:
    """T > 0 of p = 1 - exp(-s / T) with the least cross-entropy; s >= 0 in nats.

    T is sought between 1e-3 and 1e3. Raises InputError for a negative score.
    """
    _check_positive(score_N)
    from scipy.optimize import minimize_scalar

    def cross_entropy(log_t: float) -> float:
        p_N = np.clip(-np.expm1(-score_N / np.exp(log_t)), FLOOR, 1.0 - FLOOR)
        return -float((target_N * np.log(p_N) + (1.0 - target_N) * np.log1p(-p_N)).mean())

    # A coarse grid first: the floor leaves plateaus on which a bounded search would stop.
    grid = np.linspace(np.log(1e-3), np.log(1e3), 61)
    best = int(np.argmin([cross_entropy(log_t) for log_t in grid]))
    around = (grid[max(best - 1, 0)], grid[min(best + 1, 60)])
    found = minimize_scalar(cross_entropy, bounds=around, method="bounded")
    return {"temperature": np.array(np.exp(found.x))}  # type: ignore[attr-defined]


def constant(probability: float) -> mlp.Arrays:
    """A map that answers the same whatever it is given.

    >>> predict(constant(0.25), np.array([-5.0, 5.0])).tolist()
    [0.25, 0.25]
    """
    return {"x": np.zeros(1), "y": np.array([probability])}


def predict(arrays: mlp.Arrays, score_N: Float[np.ndarray, " N"]) -> Float64[np.ndarray, " N"]:
    """The probability of each score. Raises InputError for a negative one at a temperature."""
    if "temperature" in arrays:
        _check_positive(score_N)
        return -np.expm1(-score_N / arrays["temperature"])
    return np.interp(score_N, arrays["x"], arrays["y"])


def flops(arrays: mlp.Arrays) -> float:
    """Operations of one look-up: a binary search and one interpolation, or one exponential."""
    return 2.0 if "temperature" in arrays else float(np.ceil(np.log2(len(arrays["x"]))) + 2)


def _check_positive(score_N: np.ndarray) -> None:
    if (score_N < 0).any():
        raise InputError(
            f"temperature scaling got a signal of {score_N.min():.4g}; it needs a negative "
            "log-likelihood >= 0 such as chow_average, or method=isotonic"
        )
