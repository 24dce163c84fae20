"""Linear models fitted by scikit-learn, stored as perceptrons of one layer (``routers.mlp``).

Letters: N rows, F features.
"""

from __future__ import annotations

import contextlib

import numpy as np
from jaxtyping import Float

from routers import mlp

RIDGE_PENALTIES = np.logspace(-1.0, 5.0, 13)
"""Of ``ridge``, chosen by leave-one-out error."""

LOGISTIC_PENALTIES = np.logspace(4.0, -1.0, 6)
"""Of ``logistic``, strongest first: lambda in sum of losses + lambda / 2 |w|^2."""

FOLDS = 5


def ridge(features_NF: Float[np.ndarray, "N F"], target_N: Float[np.ndarray, " N"]) -> mlp.Arrays:
    """w, b minimising sum (w . x + b - z)^2 + penalty |w|^2 on standardised features.

    The penalty is the best of ``RIDGE_PENALTIES`` by leave-one-out error; a constant where
    there is nothing to learn. Source: ridge regression (Hoerl and Kennard 1970); the grid is
    our choice.
    """
    if not mlp.learnable(target_N):
        return mlp.constant(features_NF.shape[1], target_N, "squared")
    from sklearn.linear_model import RidgeCV

    scaler = mlp.standardiser(features_NF)
    model = RidgeCV(alphas=RIDGE_PENALTIES).fit(mlp.standardise(scaler, features_NF), target_N)
    return _layer(scaler, np.asarray(model.coef_), model.intercept_, sigmoid=False)


def logistic(
    features_NF: Float[np.ndarray, "N F"],
    target_N: Float[np.ndarray, " N"],
    penalty: float | None = None,
) -> mlp.Arrays:
    """w, b of P(z = 1 | x) = sigmoid(w . x + b) on standardised features, z in [0, 1].

    A row with 0 < z < 1 counts as z of a one and 1 - z of a zero. Minimises the sum of
    cross-entropies + penalty / 2 |w|^2, the penalty (None) the best of ``LOGISTIC_PENALTIES`` by
    the loss on 5 held-out folds; the strongest where a class is too rare to be in every fold. A
    constant where there is nothing to learn. Source: logistic regression; soft labels as
    weighted rows and the grid are our choice.
    """
    if not mlp.learnable(target_N):
        return mlp.constant(features_NF.shape[1], target_N, "bce")
    scaler = mlp.standardiser(features_NF)
    standard_NF = mlp.standardise(scaler, features_NF)
    with one_thread():
        chosen = _penalty(standard_NF, target_N) if penalty is None else penalty
        model = _regression(standard_NF, target_N, chosen)
    return _layer(scaler, model.coef_[0], model.intercept_[0], sigmoid=True)


def one_thread() -> contextlib.AbstractContextManager[object]:
    """BLAS on one thread: for small problems many threads cost tenfold on a busy machine."""
    from threadpoolctl import threadpool_limits  # comes with scikit-learn

    return threadpool_limits(limits=1, user_api="blas")


def _layer(scaler: mlp.Arrays, w_F: np.ndarray, b: float, *, sigmoid: bool) -> mlp.Arrays:
    """One layer in the form ``mlp.predict`` reads."""
    line = {"w0": w_F[:, None], "b0": np.array([b]), "sigmoid": np.array(sigmoid)}
    return {**scaler, **line}


def _regression(features_NF: np.ndarray, target_N: np.ndarray, penalty: float):  # noqa: ANN202
    """A fitted scikit-learn LogisticRegression; every row once as a one and once as a zero."""
    from sklearn.linear_model import LogisticRegression

    weight = np.concatenate([target_N, 1.0 - target_N])
    counted = weight > 0
    label = np.repeat([1, 0], len(target_N))[counted]
    twice = np.concatenate([features_NF, features_NF])[counted]
    model = LogisticRegression(C=1.0 / penalty, max_iter=5000)
    return model.fit(twice, label, sample_weight=weight[counted])


def _penalty(features_NF: np.ndarray, target_N: np.ndarray) -> float:
    """The penalty with the least held-out cross-entropy."""
    rarest = min(int((target_N > 0).sum()), int((target_N < 1).sum()))
    if rarest < FOLDS:
        return float(LOGISTIC_PENALTIES[0])
    # Sorted by target (ties at random), so that every fold holds its share of each class.
    shuffled = np.random.default_rng(0).permutation(len(target_N))
    fold_N = np.empty(len(target_N), np.int64)
    fold_N[shuffled[np.argsort(target_N[shuffled], kind="stable")]] = (
        np.arange(len(target_N)) % FOLDS
    )
    losses = [
        sum(_held_out_loss(features_NF, target_N, fold_N == k, penalty) for k in range(FOLDS))
        for penalty in LOGISTIC_PENALTIES
    ]
    return float(LOGISTIC_PENALTIES[int(np.argmin(losses))])


def _held_out_loss(
    features_NF: np.ndarray, target_N: np.ndarray, held_N: np.ndarray, penalty: float
) -> float:
    """Summed cross-entropy of the held-out rows, in nats."""
    model = _regression(features_NF[~held_N], target_N[~held_N], penalty)
    logit = features_NF[held_N] @ model.coef_[0] + model.intercept_[0]
    target = target_N[held_N]
    return float((np.logaddexp(0.0, logit) - target * logit).sum())
