"""Logistic regression per tier: the difference of two probabilities, or one of a gain."""

import numpy as np
from planted import planted

from routers import linear, mlp
from routers.zoo.logistic import Logistic


def test_gain_is_the_difference_of_two_regressions():
    inputs, outcomes = planted(200, graded=True)
    embedding = inputs.prompt_embedding.astype(np.float64)
    router = Logistic().fit(inputs, outcomes)
    small, large = (
        mlp.predict(linear.logistic(embedding, quality.astype(np.float64)), embedding)
        for quality in (outcomes.quality_small, outcomes.quality_large)
    )
    np.testing.assert_array_equal(router.score(inputs), large - small)
    # The intercept is not penalised, so mean predictions are mean qualities.
    np.testing.assert_allclose(small.mean(), outcomes.quality_small.mean(), atol=1e-3)
    assert set(router.flops_per_query(inputs)) == {2 * 2 * 16}


def test_fixes_is_one_regression_of_a_gain():
    inputs, outcomes = planted(200)
    router = Logistic(goal="fixes").fit(inputs, outcomes)
    score = router.score(inputs)
    assert ((score > 0) & (score < 1)).all()
    np.testing.assert_allclose(score.mean(), (outcomes.gain > 0).mean(), atol=1e-3)
    assert set(router.flops_per_query(inputs)) == {2 * 16}


def test_only_the_gain_sees_what_deferring_spoils():
    """Half the queries gain, half lose, told apart by nothing: ``fixes`` says 1/2, ``gain`` 0."""
    rng = np.random.default_rng(0)
    inputs, outcomes = planted(400)
    import dataclasses

    wins = rng.random(400) < 0.5
    mixed = dataclasses.replace(
        outcomes, quality_small=(~wins).astype(float), quality_large=wins.astype(float)
    )
    gain = Logistic().fit(inputs, mixed).score(inputs)
    fixes = Logistic(goal="fixes").fit(inputs, mixed).score(inputs)
    assert abs(gain.mean()) < 0.1
    assert abs(fixes.mean() - 0.5) < 0.05
