"""Training: the loss by NumPy, the fold by the JAX forward pass, what it learns, its guards."""

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from routers import learn, mlp
from routers.learn import Recipe, Rows

SMALL = Recipe(hidden=(8,), epochs=40, patience=10, batch_size=64)


@pytest.fixture(scope="module")
def coin():
    """(features, labels, true probabilities): a linear logit."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(1500, 2)) * [1.0, 30.0] + [0.0, 500.0]
    logit = 2.0 * features[:, 0] - (features[:, 1] - 500.0) / 30.0
    truth = 1 / (1 + np.exp(-logit))
    return features, (rng.random(1500) < truth).astype(np.float64), truth


def rows_of(n=12, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n, 3)), rng.integers(0, 2, n), rng.uniform(0.5, 2.0, n)
    return Rows(*(a.astype(np.float32) for a in values))


@pytest.mark.parametrize("loss", ["bce", "squared"])
@pytest.mark.parametrize(("coverage", "weight"), [(0.0, 0.0), (0.9, 2.0), (0.01, 2.0)])
def test_loss_equals_numpy(loss, coverage, weight):
    rows = rows_of()
    logit = np.random.default_rng(1).normal(size=12).astype(np.float32)
    recipe = Recipe(loss=loss, coverage=coverage, coverage_weight=weight)
    r = 1 / (1 + np.exp(-logit.astype(np.float64)))
    target = rows.target.astype(np.float64)
    cross = -(target * np.log(r) + (1 - target) * np.log(1 - r))
    each = cross if loss == "bce" else (logit - target) ** 2
    want = np.mean(rows.weight * each) + weight * max(0.0, coverage - np.mean(1 - r))
    got = learn._loss(*jax.device_put((logit, rows)), recipe)
    np.testing.assert_allclose(got, want, rtol=2e-6)


@pytest.mark.parametrize("norm", [False, True])
def test_numpy_scores_equal_the_jax_forward_pass(norm):
    rng = np.random.default_rng(3)
    rows = rows_of(50)
    layers = learn._initial(rng, 3, Recipe(hidden=(7, 5), batch_norm=norm))
    for layer in layers:
        layer["b"] = rng.normal(size=layer["b"].shape).astype(np.float32)
        if "scale" in layer:
            layer["scale"] = rng.uniform(0.5, 2, layer["scale"].shape).astype(np.float32)
            layer["shift"] = rng.normal(size=layer["shift"].shape).astype(np.float32)
    want = learn._forward(jax.device_put(layers), jax.device_put(rows.features))[0]
    arrays = learn._fold(layers, rows.features.astype(np.float64))
    arrays |= {"mean": np.zeros(3), "scale": np.ones(3), "sigmoid": np.array(False)}
    got = mlp.predict(arrays, rows.features.astype(np.float64))
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


def test_it_learns_a_linear_logit_about_as_well_as_logistic_regression(coin):
    features, label, truth = coin
    ours = mlp.predict(learn.train(features, label, SMALL), features)
    theirs = LogisticRegression().fit(mlp.standardise(mlp.standardiser(features), features), label)
    standard = mlp.standardise(mlp.standardiser(features), features)
    best = np.abs(theirs.predict_proba(standard)[:, 1] - truth).mean()
    assert np.abs(ours - truth).mean() < best + 0.04
    assert np.abs(ours - truth).mean() < 0.06


def test_the_seed_decides_everything(coin):
    features, label, _ = coin
    one, two = (learn.train(features, label, SMALL) for _ in range(2))
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])


def test_weights_shift_the_answer_towards_the_heavier_class(coin):
    features, label, _ = coin
    heavy = np.where(label > 0, 8.0, 1.0)
    plain = mlp.predict(learn.train(features, label, SMALL), features)
    shifted = mlp.predict(learn.train(features, label, SMALL, heavy), features)
    assert shifted.mean() > plain.mean() + 0.1


def test_a_diverging_run_falls_back_on_its_best_weights(coin):
    features, label, _ = coin
    wild = Recipe(hidden=(8,), epochs=3, batch_size=64, learning_rate=1e30)
    assert np.isfinite(mlp.predict(learn.train(features, label, wild), features)).all()


def test_the_epoch_with_the_least_held_out_loss_is_kept():
    # Noise labels: what is learned later only hurts the held-out rows, so stopping early, or
    # training on for 100 or 200 epochs, must return the very same weights.
    rng = np.random.default_rng(0)
    features, label = rng.normal(size=(60, 20)), rng.integers(0, 2, 60).astype(np.float64)
    early, hundred, whole = (
        learn.train(features, label, Recipe((8,), epochs=epochs, patience=patience, batch_size=16))
        for epochs, patience in ((200, 5), (100, 200), (200, 200))
    )
    for name in whole:
        np.testing.assert_allclose(early[name], whole[name], rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(hundred[name], whole[name], rtol=1e-6, atol=1e-7)


def test_too_few_rows_give_a_constant_without_training(monkeypatch):
    monkeypatch.setattr(learn, "_fit", None)
    label = np.tile([0.0, 1.0], 9)
    arrays = learn.train(np.random.default_rng(0).normal(size=(18, 2)), label, SMALL)
    assert mlp.predict(arrays, np.ones((3, 2))).tolist() == [0.5] * 3


def test_it_runs_where_implicit_transfers_are_forbidden(coin):
    features, label, _ = coin
    with jax.transfer_guard("disallow"):
        arrays = learn.train(features, label, SMALL)
    assert np.isfinite(mlp.predict(arrays, features)).all()
