"""Calibration: isotonic by brute force, temperature by a fine grid, both on planted truth."""

import numpy as np
import pytest

from routers import calibration
from routers.errors import InputError


def pool_adjacent_violators(values):
    """Merge neighbours that fall until none does; every value its group's mean."""
    groups = [[v] for v in values]
    i = 0
    while i < len(groups) - 1:
        if np.mean(groups[i]) > np.mean(groups[i + 1]):
            groups[i : i + 2] = [groups[i] + groups[i + 1]]
            i = max(i - 1, 0)
        else:
            i += 1
    return np.concatenate([[np.mean(g)] * len(g) for g in groups])


def test_isotonic_is_pool_adjacent_violators():
    rng = np.random.default_rng(0)
    score = rng.permutation(60) / 7.0
    target = rng.random(60)
    arrays = calibration.isotonic(score, target)
    order = np.argsort(score)
    want = pool_adjacent_violators(target[order])
    np.testing.assert_allclose(calibration.predict(arrays, score[order]), want, rtol=1e-9)
    ends = calibration.predict(arrays, np.array([-1e9, 1e9]))
    np.testing.assert_allclose(ends, want[[0, -1]], rtol=1e-9)


def test_a_signal_that_points_the_wrong_way_becomes_the_mean():
    score = np.arange(10.0)
    arrays = calibration.isotonic(score, 1.0 - score / 9.0)
    np.testing.assert_allclose(calibration.predict(arrays, score), 0.5, rtol=1e-12)


@pytest.mark.parametrize("true_t", [0.05, 1.0, 20.0])
def test_temperature_finds_the_planted_one_and_the_grids_minimum(true_t):
    rng = np.random.default_rng(1)
    score = rng.exponential(true_t, 20_000)
    wrong = (rng.random(20_000) < 1 - np.exp(-score / true_t)).astype(float)
    found = float(calibration.temperature(score, wrong)["temperature"])
    np.testing.assert_allclose(found, true_t, rtol=0.05)  # standard error about 1 %

    def cross_entropy(t):
        p = np.clip(1 - np.exp(-score / t), 1e-6, 1 - 1e-6)
        return -np.mean(wrong * np.log(p) + (1 - wrong) * np.log(1 - p))

    grid = true_t * np.exp(np.linspace(-0.3, 0.3, 601))
    np.testing.assert_allclose(found, grid[np.argmin([cross_entropy(t) for t in grid])], rtol=2e-3)


def test_a_certain_answer_that_is_wrong_does_not_drown_the_rest():
    score = np.concatenate([np.zeros(5), np.random.default_rng(2).exponential(1.0, 5000)])
    wrong = (np.random.default_rng(3).random(5005) < 1 - np.exp(-score / 2.0)).astype(float)
    wrong[:5] = 1.0
    np.testing.assert_allclose(calibration.temperature(score, wrong)["temperature"], 2.0, rtol=0.1)


def test_temperature_keeps_the_order_and_refuses_negative_signals():
    arrays = {"temperature": np.array(3.0)}
    score = np.sort(np.random.default_rng(0).exponential(2.0, 100))
    p = calibration.predict(arrays, score)
    assert (np.diff(p) > 0).all()
    np.testing.assert_allclose(p, 1 - np.exp(-score / 3.0), rtol=1e-12)
    for call in (
        lambda: calibration.predict(arrays, np.array([-0.1])),
        lambda: calibration.temperature(np.array([-0.1, 1.0]), np.array([0.0, 1.0])),
    ):
        with pytest.raises(InputError, match="chow_average"):
            call()


def test_flops_of_a_look_up():
    assert calibration.flops({"temperature": np.array(1.0)}) == 2.0
    assert calibration.flops({"x": np.zeros(8), "y": np.zeros(8)}) == 5.0
    assert calibration.flops(calibration.constant(0.5)) == 2.0
