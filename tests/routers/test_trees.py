"""Exported trees against scikit-learn's own predictions."""

import numpy as np
import pytest
from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor

from routers import trees
from routers.errors import InputError


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    features = np.round(rng.normal(size=(300, 4)), 1)  # rounded: many ties with thresholds
    return features, features[:, 0] * features[:, 1] + 0.1 * rng.normal(size=300)


def options(seed):
    return {
        "n_estimators": 100,
        "max_depth": 3,
        "learning_rate": 0.1,
        "min_samples_leaf": 20,
        "random_state": seed,
    }


def test_classifier_equals_scikit_learn(data):
    features, value = data
    label = (value > 0.1).astype(np.float64)
    arrays = trees.train(features[:200], label[:200], "bce", seed=3)
    model = GradientBoostingClassifier(**options(3)).fit(features[:200], label[:200])
    want = model.predict_proba(features)[:, 1]
    np.testing.assert_allclose(trees.predict(arrays, features), want, rtol=1e-12)


def test_regressor_equals_scikit_learn(data):
    features, value = data
    arrays = trees.train(features[:200], value[:200], "squared")
    model = GradientBoostingRegressor(**options(0)).fit(features[:200], value[:200])
    np.testing.assert_allclose(
        trees.predict(arrays, features), model.predict(features), rtol=1e-12, atol=1e-13
    )


def test_too_few_rows_give_no_tree_and_a_constant(data):
    features, _ = data
    arrays = trees.train(features[:10], np.array([1.0] * 4 + [0.0] * 6), "bce")
    assert arrays["feature"].shape[0] == 0
    np.testing.assert_allclose(trees.predict(arrays, features[:5]), 5 / 12, rtol=1e-14)
    assert trees.flops(arrays) == 0


def test_operations_are_a_comparison_a_level_and_an_addition_a_tree(data):
    features, value = data
    assert trees.flops(trees.train(features, value, "squared")) == 100 * (3 + 1)


def test_another_feature_count_is_refused(data):
    features, value = data
    arrays = trees.train(features, value, "squared")
    with pytest.raises(InputError, match="fitted on 4 features per row but got 2"):
        trees.predict(arrays, features[:, :2])
