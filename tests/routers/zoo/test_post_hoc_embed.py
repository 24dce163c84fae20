"""Post-Hoc-Embed: the features, and an embedding that knows what quantiles cannot."""

import dataclasses

import numpy as np
import pytest
from planted import planted
from sklearn.metrics import roc_auc_score

from routers.errors import InputError
from routers.features import quantile_vector
from routers.zoo.post_hoc import PostHoc
from routers.zoo.post_hoc_embed import PostHocEmbed


@pytest.mark.parametrize(("embed", "width"), [("both", 19), ("prompt", 16), ("response", 3)])
def test_features_are_quantiles_then_embeddings(embed, width):
    inputs, _ = planted(20)
    got = PostHocEmbed(embed=embed)._features(inputs)
    assert got.shape == (20, 13 + width)
    np.testing.assert_array_equal(got[:, :13], quantile_vector(inputs.token_logprob))
    last = inputs.prompt_embedding if embed == "prompt" else inputs.response_embedding
    np.testing.assert_array_equal(got[:, -last.shape[1] :], last)


def test_the_embedding_adds_what_quantiles_do_not_tell():
    """The gain is a coordinate of the embedding; the quantiles are independent of it."""
    inputs, outcomes = planted(500)
    rng = np.random.default_rng(0)
    embedding = rng.normal(size=(500, 3)).astype(np.float32)
    gain = (embedding[:, 0] > 0).astype(float)
    inputs = dataclasses.replace(inputs, response_embedding=embedding)
    outcomes = dataclasses.replace(outcomes, quality_small=np.zeros(500), quality_large=gain)
    fit, fresh = np.arange(350), np.arange(350, 500)
    areas = [
        roc_auc_score(
            gain[fresh],
            router.fit(inputs.take(fit), outcomes.take(fit)).score(inputs.take(fresh)),
        )
        for router in (
            PostHocEmbed(learner="booster", embed="response"),
            PostHoc(learner="booster"),
        )
    ]
    assert areas[0] > 0.95
    assert abs(areas[1] - 0.5) < 0.15  # standard error 0.047


def test_costs_and_the_column_it_needs():
    inputs, outcomes = planted(15)
    router = PostHocEmbed().fit(inputs, outcomes)
    assert isinstance(router, PostHocEmbed)
    bare = dataclasses.replace(inputs, response_embedding=None)
    with pytest.raises(InputError, match="response_embedding"):
        router.score(bare)
    alone = PostHocEmbed(embed="prompt").fit(bare, outcomes)
    assert set(alone.flops_per_query(bare)) == {2 * (13 + 16)}  # 15 queries: a constant, one layer
