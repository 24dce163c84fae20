"""E[max] against SciPy's normal law, a large sample, and what must always hold."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from routers.expected_max import expected_max


def covariance(rng, answers):
    half = rng.normal(size=(answers, answers))
    return half @ half.T


@pytest.mark.parametrize("seed", range(5))
def test_two_answers_by_integration(seed):
    """E[max] = E[q_2] + E[(q_1 - q_2)+], the difference being normal."""
    rng = np.random.default_rng(seed)
    mean, matrix = rng.normal(size=2), covariance(rng, 2)
    spread = np.sqrt(np.array([1.0, -1.0]) @ matrix @ np.array([1.0, -1.0]))
    ahead = mean[0] - mean[1]
    above, _ = quad(lambda d: d * norm.pdf(d, ahead, spread), 0, ahead + 12 * spread)
    assert expected_max(mean[None], matrix)[0] == pytest.approx(mean[1] + above, abs=1e-9)


@pytest.mark.parametrize("answers", [3, 4, 5, 6])
def test_more_answers_by_sampling(answers):
    """Within 2 % of the largest standard deviation; the sample's own error is 0.3 % of it."""
    rng = np.random.default_rng(answers)
    for _ in range(3):
        matrix, mean_NM = covariance(rng, answers), rng.normal(size=(6, answers))
        drawn = rng.multivariate_normal(np.zeros(answers), matrix, size=100_000)
        want = [(mean + drawn).max(axis=1).mean() for mean in mean_NM]
        largest = np.sqrt(matrix.diagonal().max())
        np.testing.assert_allclose(expected_max(mean_NM, matrix), want, atol=0.02 * largest)


def test_independent_equal_answers_have_a_known_mean():
    """The mean of the largest of three standard normals is 3 / (2 sqrt(pi))."""
    got = expected_max(np.zeros((1, 3)), np.eye(3))[0]
    assert got == pytest.approx(3 / (2 * np.sqrt(np.pi)), abs=0.01)


@pytest.mark.parametrize("answers", [1, 2, 3, 5])
def test_never_below_the_best_mean_and_equal_without_doubt(answers):
    rng = np.random.default_rng(0)
    mean_NM, matrix = rng.normal(size=(50, answers)), covariance(rng, answers)
    best = mean_NM.max(axis=1)
    np.testing.assert_array_equal(expected_max(mean_NM, 0 * matrix), best)
    assert (expected_max(mean_NM, matrix) >= best - 1e-12).all()


def test_one_answer_is_its_mean_however_unsure():
    mean = np.array([[0.3], [0.9]])
    np.testing.assert_array_equal(expected_max(mean, np.array([[4.0]])), mean[:, 0])


def test_answers_that_move_together_gain_nothing():
    mean = np.array([[0.3, 0.4]])
    assert expected_max(mean, np.full((2, 2), 0.7))[0] == 0.4


def test_chunks_change_nothing(monkeypatch):
    import routers.expected_max as module

    rng = np.random.default_rng(0)
    mean_NM, matrix = rng.normal(size=(17, 4)), covariance(rng, 4)
    whole = expected_max(mean_NM, matrix)
    monkeypatch.setattr(module, "CHUNK", 3 * module.POINTS * 4)
    np.testing.assert_array_equal(expected_max(mean_NM, matrix), whole)
    assert len(expected_max(mean_NM[:0], matrix)) == 0
