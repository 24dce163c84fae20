"""Gradient-boosted trees as plain arrays: fitted by scikit-learn, scored by NumPy.

The arrays: ``feature, threshold, left, right, value`` [T, J], ``base`` and ``sigmoid``. A leaf
points to itself, so every row may take the same number of steps.

Letters: N rows, F features, T trees, J nodes of the largest tree.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Float64

from routers import mlp
from routers.errors import InputError

DEPTH = 3
TREES = 100
RATE = 0.1
LEAST_IN_LEAF = 20


def train(
    features_NF: Float[np.ndarray, "N F"],
    target_N: Float[np.ndarray, " N"],
    loss: mlp.Loss,
    seed: int = 0,
) -> mlp.Arrays:
    """Fitted trees; none, and a constant, where there is nothing to learn (``mlp.learnable``)."""
    width = np.array(features_NF.shape[1])
    if not mlp.learnable(target_N):
        base = mlp.constant_logit(target_N, loss)
        return {
            **_stack([]),
            "base": np.array(base),
            "sigmoid": np.array(loss == "bce"),
            "width": width,
        }
    from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor

    kind = GradientBoostingClassifier if loss == "bce" else GradientBoostingRegressor
    model = kind(
        n_estimators=TREES,
        max_depth=DEPTH,
        learning_rate=RATE,
        min_samples_leaf=LEAST_IN_LEAF,
        random_state=seed,
    ).fit(features_NF, target_N)
    mean = target_N.mean()
    base = np.log(mean / (1 - mean)) if loss == "bce" else mean
    trees = _stack([estimator.tree_ for estimator in model.estimators_[:, 0]])
    return {**trees, "base": np.array(base), "sigmoid": np.array(loss == "bce"), "width": width}


def predict(arrays: mlp.Arrays, features_NF: Float[np.ndarray, "N F"]) -> Float64[np.ndarray, " N"]:
    """Probability or gain of each row: base + sum over trees of the leaf it falls into."""
    if features_NF.shape[1] != arrays["width"]:
        raise InputError(
            f"the router was fitted on {arrays['width']} features per row but got "
            f"{features_NF.shape[1]}; score with the columns of the fit split"
        )
    # scikit-learn compares float32 features with float64 thresholds; so must we.
    x_NF = features_NF.astype(np.float32)
    tree_T = np.arange(len(arrays["feature"]))
    node_NT = np.zeros((len(x_NF), len(tree_T)), np.int64)
    for _ in range(DEPTH):
        value_NT = np.take_along_axis(x_NF, arrays["feature"][tree_T, node_NT], axis=1)
        below_NT = value_NT <= arrays["threshold"][tree_T, node_NT]
        node_NT = np.where(
            below_NT, arrays["left"][tree_T, node_NT], arrays["right"][tree_T, node_NT]
        )
    raw_N = arrays["base"] + arrays["value"][tree_T, node_NT].sum(axis=1)
    return mlp.sigmoid(raw_N) if arrays["sigmoid"] else raw_N


def flops(arrays: mlp.Arrays) -> float:
    """Operations of one row: no matmul; a comparison per level and an addition per tree."""
    return float(len(arrays["feature"]) * (DEPTH + 1))


def _stack(trees: list[Any]) -> mlp.Arrays:
    """scikit-learn trees side by side, padded to the largest; leaves point to themselves."""
    shape = (len(trees), max((tree.node_count for tree in trees), default=1))
    integers = {name: np.zeros(shape, np.int64) for name in ("feature", "left", "right")}
    numbers = {name: np.zeros(shape) for name in ("threshold", "value")}
    for t, tree in enumerate(trees):
        nodes = np.arange(tree.node_count)
        leaf = tree.children_left == -1
        integers["feature"][t, nodes] = np.where(leaf, 0, tree.feature)
        integers["left"][t, nodes] = np.where(leaf, nodes, tree.children_left)
        integers["right"][t, nodes] = np.where(leaf, nodes, tree.children_right)
        numbers["threshold"][t, nodes] = np.where(leaf, 0.0, tree.threshold)
        numbers["value"][t, nodes] = RATE * tree.value[:, 0, 0]
    return {**integers, **numbers}
