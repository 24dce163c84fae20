"""The pre-generation router against scikit-learn's ridge, and what it is charged."""

import dataclasses

import numpy as np
import pytest
from planted import planted
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from routers.errors import InputError
from routers.linear import RIDGE_PENALTIES
from routers.zoo.prompt import Prompt


def test_it_is_ridge_on_the_gain():
    inputs, outcomes = planted(200, graded=True)
    rows, unseen = np.arange(150), np.arange(150, 200)
    router = Prompt().fit(inputs.take(rows), outcomes.take(rows))
    oracle = make_pipeline(StandardScaler(), RidgeCV(alphas=RIDGE_PENALTIES))
    embedding = inputs.prompt_embedding.astype(np.float64)
    oracle.fit(embedding[rows], outcomes.gain[rows].astype(np.float64))
    got = router.score(inputs.take(unseen))
    np.testing.assert_allclose(got, oracle.predict(embedding[unseen]), rtol=1e-9, atol=1e-12)


def test_more_dimensions_than_queries_stay_finite_and_sane():
    inputs, outcomes = planted(60)
    wide = np.random.default_rng(0).normal(size=(60, 200)).astype(np.float32)
    inputs = dataclasses.replace(inputs, prompt_embedding=wide)
    score_N = Prompt().fit(inputs, outcomes).score(inputs)
    assert np.isfinite(score_N).all()
    assert np.abs(score_N).max() < 2.0


def test_the_embedding_is_charged_per_prompt_token():
    inputs, outcomes = planted(30)
    router = Prompt(embedding_flops=100.0).fit(inputs, outcomes)
    np.testing.assert_array_equal(
        router.flops_per_query(inputs), 2 * 16 + 100.0 * inputs.prompt_tokens
    )
    unknown = dataclasses.replace(inputs, prompt_tokens=None)
    with pytest.raises(InputError, match="prompt_tokens"):
        router.flops_per_query(unknown)
    free = dataclasses.replace(router, embedding_flops=0.0)
    assert set(free.flops_per_query(unknown)) == {2 * 16}


def test_another_embedding_width_is_refused():
    inputs, outcomes = planted(30)
    router = Prompt().fit(inputs, outcomes)
    other = dataclasses.replace(inputs, prompt_embedding=inputs.prompt_embedding[:, :5])
    with pytest.raises(InputError, match="fitted on 16 features per row but got 5"):
        router.score(other)
