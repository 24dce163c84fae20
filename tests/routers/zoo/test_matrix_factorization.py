"""Matrix factorisation: preferences from qualities, a planted win rate found again."""

import dataclasses

import numpy as np
import pytest
from planted import planted

from routers.errors import InputError
from routers.zoo.matrix_factorization import MatrixFactorization


def test_a_planted_win_rate_is_found():
    rng = np.random.default_rng(0)
    inputs, _ = planted(3000)
    embedding = rng.normal(size=(3000, 4)).astype(np.float32)
    truth = 1 / (1 + np.exp(-(embedding @ [1.0, -1.0, 0.5, 0.0] + 0.5)))
    wins = rng.random(3000) < truth
    _, outcomes = planted(3000)
    outcomes = dataclasses.replace(
        outcomes, quality_small=(~wins).astype(float), quality_large=wins.astype(float)
    )
    inputs = dataclasses.replace(inputs, prompt_embedding=embedding)
    router = MatrixFactorization(dim=8).fit(inputs, outcomes)
    # Standard error of a fitted probability is about 0.02 at 3,000 votes.
    assert np.abs(router.score(inputs) - truth).mean() < 0.03
    assert set(router.flops_per_query(inputs)) == {2 * 5 * 8 + 4 * 8}


def test_ties_count_half():
    """A third each of wins, losses and ties, told apart by nothing: no preference."""
    inputs, outcomes = planted(300)
    third = np.arange(300) % 3
    outcomes = dataclasses.replace(
        outcomes,
        quality_small=np.array([1.0, 0.0, 1.0])[third],
        quality_large=np.array([0.0, 1.0, 1.0])[third],
    )
    score = MatrixFactorization(dim=4).fit(inputs, outcomes).score(inputs)
    assert abs(score.mean() - 0.5) < 0.02


def test_swapping_the_models_mirrors_the_score():
    inputs, outcomes = planted(200)
    swapped = dataclasses.replace(
        outcomes, quality_small=outcomes.quality_large, quality_large=outcomes.quality_small
    )
    score = MatrixFactorization(dim=4).fit(inputs, outcomes).score(inputs)
    mirror = MatrixFactorization(dim=4).fit(inputs, swapped).score(inputs)
    # Two runs of L-BFGS end at points whose scores differ by about 1e-2.
    np.testing.assert_allclose(score, 1 - mirror, atol=0.05)


def test_no_factor_is_refused():
    with pytest.raises(InputError, match="dim is 0"):
        MatrixFactorization(dim=0)
