"""Clusters: errors by a loop, well-separated prompts found again, few queries, repeats."""

import dataclasses

import numpy as np
import pytest
from planted import planted

from routers.errors import InputError
from routers.zoo.cluster import Cluster


def blobs(n=200):
    """Five tight blobs of prompts; the gain depends on the blob only."""
    inputs, outcomes = planted(n)
    rng = np.random.default_rng(0)
    blob = np.arange(n) % 5
    centre = 10 * rng.normal(size=(5, 4))
    embedding = (centre[blob] + 0.01 * rng.normal(size=(n, 4))).astype(np.float32)
    quality_large = np.array([0.0, 0.25, 0.5, 0.75, 1.0])[blob]
    outcomes = dataclasses.replace(
        outcomes, quality_small=np.full(n, 0.125), quality_large=quality_large
    )
    return dataclasses.replace(inputs, prompt_embedding=embedding), outcomes


def test_planted_clusters_are_found_and_scored_by_their_gain():
    inputs, outcomes = blobs()
    router = Cluster(clusters=5).fit(inputs, outcomes)
    np.testing.assert_allclose(router.score(inputs), outcomes.gain, rtol=1e-12)
    assert set(router.flops_per_query(inputs)) == {2 * 5 * 4}


def test_errors_equal_a_loop_over_the_nearest_centres():
    inputs, outcomes = planted(200, graded=True)
    router = Cluster(clusters=6).fit(inputs, outcomes)
    weights = router.weights_
    standard = (inputs.prompt_embedding - weights["mean"]) / weights["scale"]
    nearest = [
        min(range(6), key=lambda c: ((row - weights["centre"][c]) ** 2).sum())
        for row in np.clip(standard, -6, 6)
    ]
    for c in range(6):
        inside = [i for i in range(200) if nearest[i] == c]
        want = sum(1 - float(outcomes.quality_small[i]) for i in inside) / len(inside)
        np.testing.assert_allclose(weights["error_small"][c], want, rtol=1e-6)
    want = (weights["error_small"] - weights["error_large"])[nearest]
    np.testing.assert_array_equal(router.score(inputs), want)


@pytest.mark.parametrize(("n", "clusters"), [(200, 10), (45, 2), (3, 1)])
def test_fewer_queries_have_fewer_clusters(n, clusters):
    inputs, outcomes = planted(n)
    router = Cluster().fit(inputs, outcomes)
    assert len(router.weights_["centre"]) == clusters


def test_one_prompt_repeated_is_one_cluster():
    inputs, outcomes = planted(100)
    same = dataclasses.replace(inputs, prompt_embedding=np.ones((100, 3), np.float32))
    router = Cluster().fit(same, outcomes)
    np.testing.assert_allclose(router.score(same), outcomes.gain.mean(), rtol=1e-6)
    with pytest.raises(InputError, match="at least 1"):
        Cluster(clusters=0)
