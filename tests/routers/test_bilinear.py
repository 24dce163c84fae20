"""The bilinear score: its gradient by finite differences, its optimum by logistic regression."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from routers import bilinear, mlp
from routers.errors import InputError

DIM = 3


def problem(n=40, features=5, seed=0):
    rng = np.random.default_rng(seed)
    flat = rng.normal(size=2 * DIM + features * DIM + DIM)
    return flat, rng.normal(size=(n, features)), rng.random(n)


def test_loss_equals_a_loop():
    flat, x, y = problem()
    model, projection, head = bilinear.unflatten(flat, DIM)
    loss = 0.0
    for row, preference in zip(x, y, strict=True):
        delta = []
        for v in model:
            v = v / np.sqrt(sum(v * v))
            hidden = [sum(row[f] * projection[f, d] for f in range(5)) for d in range(DIM)]
            delta.append(sum(head[d] * v[d] * hidden[d] for d in range(DIM)))
        p = 1 / (1 + np.exp(delta[0] - delta[1]))
        loss -= (preference * np.log(p) + (1 - preference) * np.log(1 - p)) / len(x)
    loss += 0.05 * ((projection**2).sum() + (head**2).sum())
    np.testing.assert_allclose(bilinear.loss_and_slope(flat, x, y, DIM, 0.1)[0], loss, rtol=1e-12)


@pytest.mark.parametrize("penalty", [0.0, 0.3])
def test_slope_equals_finite_differences(penalty):
    flat, x, y = problem()
    _, slope = bilinear.loss_and_slope(flat, x, y, DIM, penalty)
    for i in range(len(flat)):
        up, down = flat.copy(), flat.copy()
        up[i] += 1e-5
        down[i] -= 1e-5
        rise = [bilinear.loss_and_slope(p, x, y, DIM, penalty)[0] for p in (up, down)]
        np.testing.assert_allclose(slope[i], (rise[0] - rise[1]) / 2e-5, rtol=1e-6, atol=1e-9)


def test_without_a_penalty_the_fit_is_logistic_regression():
    rng = np.random.default_rng(1)
    x = np.column_stack([rng.normal(size=(500, 4)), np.ones(500)])
    y = (rng.random(500) < mlp.sigmoid(x @ [1.0, -1.0, 0.5, 0.0, 0.3])).astype(float)
    start = bilinear._start(rng, 5, DIM)
    model, projection, head = bilinear.unflatten(bilinear._minimise(start, x, y, DIM, 0.0), DIM)
    unit = model / np.linalg.norm(model, axis=1, keepdims=True)
    got = projection @ ((unit[1] - unit[0]) * head)
    oracle = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-8).fit(x, y)
    np.testing.assert_allclose(got, oracle.coef_[0], atol=2e-2)


def test_predict_equals_the_two_models_scores_one_by_one():
    rng = np.random.default_rng(2)
    embedding = rng.normal(size=(200, 6))
    fitted = bilinear.train(embedding, (rng.random(200) < 0.5).astype(float), DIM, seed=0)
    np.testing.assert_allclose(np.linalg.norm(fitted["model"], axis=1), 1.0, rtol=1e-12)
    got = bilinear.predict(fitted, embedding)
    for i in range(0, 200, 23):
        row = np.append((embedding[i] - embedding.mean(0)) / embedding.std(0), 1.0)
        small, large = (
            (v * (row @ fitted["projection"])) @ fitted["head"] for v in fitted["model"]
        )
        np.testing.assert_allclose(got[i], large - small, rtol=1e-9, atol=1e-12)


def test_nothing_to_learn_is_the_laplace_log_odds():
    embedding = np.random.default_rng(0).normal(size=(3, 2))
    fitted = bilinear.train(embedding, np.array([1.0, 1.0, 0.5]), DIM, seed=0)
    np.testing.assert_allclose(bilinear.predict(fitted, embedding), np.log(3.5 / 1.5), rtol=1e-12)
    with pytest.raises(InputError, match="width 2 but got 3"):
        bilinear.predict(fitted, np.ones((1, 3)))


def test_noise_takes_a_strong_penalty_and_signal_a_weak_one():
    rng = np.random.default_rng(3)
    embedding = rng.normal(size=(400, 8))
    noise = bilinear.train(embedding, rng.integers(0, 2, 400) / 1.0, DIM, seed=0)
    signal = bilinear.train(embedding, (embedding[:, 0] > 0).astype(float), DIM, seed=0)
    spread = [bilinear.predict(fitted, embedding).std() for fitted in (noise, signal)]
    assert spread[0] < 0.5
    assert spread[1] > 2.0
