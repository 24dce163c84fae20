"""Linear models: against scikit-learn on literally repeated rows, and by their conditions."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, RidgeCV

from routers import linear, mlp


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(300, 4)) * [1.0, 5.0, 0.1, 1.0] + [0.0, 9.0, 0.0, 0.0]
    logit = features[:, 0] - 0.5 * (features[:, 1] - 9.0)
    return features, 1 / (1 + np.exp(-logit)), rng


def test_ridge_equals_scikit_learn_on_standardised_features(rows):
    features, target, _ = rows
    fitted = linear.ridge(features, target)
    scaled = (features - features.mean(0)) / features.std(0)
    oracle = RidgeCV(alphas=linear.RIDGE_PENALTIES).fit(scaled, target)
    np.testing.assert_allclose(mlp.predict(fitted, features), oracle.predict(scaled), rtol=1e-9)


def test_soft_labels_equal_rows_repeated_in_that_proportion(rows):
    features, _, rng = rows
    target = rng.integers(0, 5, 300) / 4
    fitted = linear.logistic(features, target)
    scaled = (features - features.mean(0)) / features.std(0)
    ones = (4 * target).astype(int)
    repeated = np.concatenate([np.repeat(scaled, ones, 0), np.repeat(scaled, 4 - ones, 0)])
    labels = np.repeat([1, 0], [ones.sum(), (4 - ones).sum()])
    # The penalty that was chosen, read back from the stationarity of the penalised loss.
    p = mlp.predict(fitted, features)
    slope = scaled.T @ (target - p)
    penalty = slope @ fitted["w0"][:, 0] / (fitted["w0"] ** 2).sum()
    nearest = linear.LOGISTIC_PENALTIES[np.abs(linear.LOGISTIC_PENALTIES / penalty - 1).argmin()]
    np.testing.assert_allclose(penalty, nearest, rtol=2e-2)  # L-BFGS stops at a slope of 1e-4
    oracle = LogisticRegression(C=1 / (4 * nearest), max_iter=5000).fit(repeated, labels)
    np.testing.assert_allclose(p, oracle.predict_proba(scaled)[:, 1], atol=1e-3)
    np.testing.assert_allclose((target - p).sum(), 0.0, atol=1e-2)  # the intercept is unpenalised


def test_the_penalty_is_the_best_of_a_plain_five_fold_loop(rows):
    features, probability, rng = rows
    target = (rng.random(300) < probability).astype(float)
    shuffled = np.random.default_rng(0).permutation(300)
    order = shuffled[np.argsort(target[shuffled], kind="stable")]
    losses = []
    with linear.one_thread():
        for penalty in linear.LOGISTIC_PENALTIES:
            model = LogisticRegression(C=1 / penalty, max_iter=5000)
            loss = 0.0
            for k in range(5):
                held = order[k::5]
                rest = np.setdiff1d(order, held)
                p = model.fit(features[rest], target[rest]).predict_proba(features[held])[:, 1]
                loss -= np.log(np.where(target[held] == 1, p, 1 - p)).sum()
            losses.append(loss)
    assert linear._penalty(features, target) == linear.LOGISTIC_PENALTIES[np.argmin(losses)]
    assert len(set(losses)) == len(losses)


def test_probabilities_are_found_again(rows):
    features, probability, rng = rows
    many = np.tile(features, (20, 1))
    target = (rng.random(6000) < np.tile(probability, 20)).astype(float)
    # Standard error of a coefficient at 6,000 rows is about 0.04, of a probability 0.01.
    assert np.abs(mlp.predict(linear.logistic(many, target), features) - probability).mean() < 0.02


def test_a_class_too_rare_for_every_fold_takes_the_strongest_penalty(rows):
    features, _, _ = rows
    target = np.zeros(300)
    target[:4] = 1.0
    assert linear._penalty(features, target) == linear.LOGISTIC_PENALTIES[0]
    p = mlp.predict(linear.logistic(features, target), features)
    np.testing.assert_allclose(p, 4 / 300, atol=0.01)


@pytest.mark.parametrize(("fit", "want"), [(linear.ridge, 0.5), (linear.logistic, 0.5)])
def test_nothing_to_learn_is_a_constant(fit, want):
    features = np.random.default_rng(0).normal(size=(30, 3))
    np.testing.assert_array_equal(mlp.predict(fit(features, np.full(30, 0.5)), features), want)
    few = mlp.predict(fit(features[:2], np.array([0.0, 1.0])), features)
    np.testing.assert_array_equal(few, want)


def test_one_thread_is_one_thread_and_only_inside():
    from threadpoolctl import threadpool_info

    def threads():
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    before = threads()
    with linear.one_thread():
        assert set(threads()) == {1}
    assert threads() == before
