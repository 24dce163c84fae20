"""Two models' embeddings against a projection of the prompt's: fitted by SciPy, read by NumPy.

The arrays: ``model`` [2, D] (small, large), ``projection`` [E + 1, D], ``head`` [D], and the
``mean``, ``scale`` [E] of the embeddings.

Letters: N rows, E embedding width, D factors.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float64

from routers import linear, mlp
from routers.embedding import check_width

PENALTIES = (1e-1, 1e-2, 1e-3)
"""Of the mean squared projection and head, strongest first; the best on a held-out tenth."""


def train(
    embedding_NE: Float[np.ndarray, "N E"],
    preference_N: Float[np.ndarray, " N"],
    dim: int,
    seed: int,
) -> mlp.Arrays:
    """Factors minimising cross-entropy + penalty / 2 (|W|^2 + |h|^2); y in [0, 1] = large.

    Where there is nothing to learn (``mlp.learnable``) only the constant coordinate is used.
    """
    scaler = mlp.standardiser(embedding_NE)
    if not mlp.learnable(preference_N):
        constant = mlp.constant_logit(preference_N, "bce")
        return {**scaler, **_constant(embedding_NE.shape[1], constant)}
    x_NF = _with_one(mlp.standardise(scaler, embedding_NE))
    generator = np.random.default_rng(seed)
    order_N = generator.permutation(len(x_NF))
    held, rest = np.split(order_N, [max(1, len(x_NF) // 10)])
    start = _start(generator, x_NF.shape[1], dim)
    with linear.one_thread():
        penalty = _penalty(start, x_NF, preference_N, dim, rest, held)
        flat = _minimise(start, x_NF, preference_N, dim, penalty)
    model_2D, projection_FD, head_D = unflatten(flat, dim)
    return {**scaler, "model": _unit(model_2D), "projection": projection_FD, "head": head_D}


def predict(
    arrays: mlp.Arrays, embedding_NE: Float[np.ndarray, "N E"]
) -> Float64[np.ndarray, " N"]:
    """delta(L, x) - delta(S, x) of each row. Raises InputError on another embedding width."""
    check_width(len(arrays["mean"]), embedding_NE.astype(np.float64))
    hidden_ND = _with_one(mlp.standardise(arrays, embedding_NE)) @ arrays["projection"]
    return hidden_ND @ ((arrays["model"][1] - arrays["model"][0]) * arrays["head"])


def loss_and_slope(
    flat: Float64[np.ndarray, " P"],
    x_NF: Float64[np.ndarray, "N F"],
    preference_N: Float64[np.ndarray, " N"],
    dim: int,
    penalty: float,
) -> tuple[float, Float64[np.ndarray, " P"]]:
    """Mean cross-entropy plus the penalty, and its gradient, at flattened parameters.

    Parameters: model embeddings before they are brought to unit length, projection, head.
    """
    raw_2D, projection_FD, head_D = unflatten(flat, dim)
    model_2D = _unit(raw_2D)
    difference_D = model_2D[1] - model_2D[0]
    # Matrix-vector products only: the [N, D] projections of the prompts are never needed.
    logit_N = x_NF @ (projection_FD @ (difference_D * head_D))
    loss = np.mean(np.logaddexp(0.0, logit_N) - preference_N * logit_N)
    loss += 0.5 * penalty * ((projection_FD**2).sum() + (head_D**2).sum())
    error_N = (mlp.sigmoid(logit_N) - preference_N) / len(x_NF)
    error_F = error_N @ x_NF
    pull_D = error_F @ projection_FD
    slope_FD = np.outer(error_F, difference_D * head_D) + penalty * projection_FD
    slope_2D = np.stack([-pull_D * head_D, pull_D * head_D])
    # Along the sphere only: v = u / |u|, dv/du = (1 - v v') / |u|.
    radial_2D = model_2D * (model_2D * slope_2D).sum(axis=1, keepdims=True)
    raw_slope_2D = (slope_2D - radial_2D) / np.linalg.norm(raw_2D, axis=1, keepdims=True)
    head_slope_D = pull_D * difference_D + penalty * head_D
    slope = np.concatenate([raw_slope_2D.ravel(), slope_FD.ravel(), head_slope_D])
    return float(loss), slope


def unflatten(
    flat: Float64[np.ndarray, " P"], dim: int
) -> tuple[Float64[np.ndarray, "2 D"], Float64[np.ndarray, "F D"], Float64[np.ndarray, " D"]]:
    """Model embeddings, projection and head from one vector."""
    model, projection, head = np.split(flat, [2 * dim, len(flat) - dim])
    return model.reshape(2, dim), projection.reshape(-1, dim), head


def _start(generator: np.random.Generator, features: int, dim: int) -> np.ndarray:
    """Random parameters, flattened, of a size that makes the first logits small."""
    return np.concatenate(
        [
            generator.normal(size=2 * dim),
            generator.normal(size=features * dim) / np.sqrt(features),
            generator.normal(size=dim) / np.sqrt(dim),
        ]
    )


def _penalty(
    start: np.ndarray,
    x_NF: np.ndarray,
    preference_N: np.ndarray,
    dim: int,
    rest: np.ndarray,
    held: np.ndarray,
) -> float:
    """The penalty whose fit on ``rest`` has the least cross-entropy on ``held``."""
    losses = []
    for penalty in PENALTIES:
        flat = _minimise(start, x_NF[rest], preference_N[rest], dim, penalty)
        losses.append(loss_and_slope(flat, x_NF[held], preference_N[held], dim, 0.0)[0])
    return PENALTIES[int(np.argmin(losses))]


def _minimise(
    start: np.ndarray, x_NF: np.ndarray, preference_N: np.ndarray, dim: int, penalty: float
) -> np.ndarray:
    """The flattened parameters that L-BFGS reaches."""
    from scipy.optimize import minimize

    arguments = (x_NF, preference_N, dim, penalty)
    options = {"maxiter": 200}
    return minimize(
        loss_and_slope, start, arguments, jac=True, method="L-BFGS-B", options=options
    ).x


def _constant(width: int, logit: float) -> mlp.Arrays:
    """One factor that answers ``logit`` whatever it is given."""
    projection_F1 = np.zeros((width + 1, 1))
    projection_F1[-1] = logit
    return {
        "model": np.array([[-1.0], [1.0]]),
        "projection": projection_F1,
        "head": np.array([0.5]),
    }


def _with_one(rows_NE: np.ndarray) -> np.ndarray:
    """[N, E + 1] with a constant 1 at the end."""
    return np.column_stack([rows_NE, np.ones(len(rows_NE))])


def _unit(rows: np.ndarray) -> np.ndarray:
    """Each row at length 1."""
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
