"""k nearest neighbours against scikit-learn, with ties by hand."""

import dataclasses

import numpy as np
import pytest
from planted import planted
from sklearn.neighbors import NearestNeighbors

from routers.errors import InputError
from routers.zoo import knn
from routers.zoo.knn import Knn


def test_it_is_the_mean_gain_of_the_k_nearest_by_cosine():
    inputs, outcomes = planted(300, graded=True)
    rows, unseen = np.arange(200), np.arange(200, 300)
    got = Knn(k=7).fit(inputs.take(rows), outcomes.take(rows)).score(inputs.take(unseen))
    embedding = inputs.prompt_embedding.astype(np.float64)
    centred = embedding - embedding[rows].mean(0)
    oracle = NearestNeighbors(n_neighbors=7, metric="cosine").fit(centred[rows])
    _, near = oracle.kneighbors(centred[unseen])
    np.testing.assert_allclose(got, outcomes.gain[rows][near].mean(1), rtol=1e-6)


def test_repeated_prompts_all_count():
    inputs, outcomes = planted(4)
    embedding = np.array([[1, 0], [1, 0], [1, 0], [-3, 0]], np.float32)
    inputs = dataclasses.replace(inputs, prompt_embedding=embedding)
    gains = dataclasses.replace(
        outcomes,
        quality_small=np.zeros(4),
        quality_large=np.array([1.0, 0.0, 0.5, 0.25]),
    )
    assert Knn(k=1).fit(inputs, gains).score(inputs).tolist() == [0.5, 0.5, 0.5, 0.25]


def test_fewer_queries_than_k_give_their_mean():
    inputs, outcomes = planted(10)
    score = Knn(k=40).fit(inputs, outcomes).score(inputs)
    np.testing.assert_allclose(score, outcomes.gain.mean(), rtol=1e-6)


def test_chunks_do_not_change_the_score(monkeypatch):
    inputs, outcomes = planted(50)
    router = Knn(k=5).fit(inputs, outcomes)
    whole = router.score(inputs)
    monkeypatch.setattr(knn, "CHUNK", 120)
    np.testing.assert_allclose(router.score(inputs), whole, rtol=1e-12)


def test_cost_and_refusal():
    inputs, outcomes = planted(50)
    assert set(Knn().fit(inputs, outcomes).flops_per_query(inputs)) == {2 * 50 * 16}
    with pytest.raises(InputError, match="at least 1"):
        Knn(k=0)
