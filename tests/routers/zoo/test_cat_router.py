"""The learned CAT router: its signals by a loop, its probabilities, its use of fewer top-K."""

import dataclasses

import numpy as np
import pytest
from planted import planted

from routers.errors import InputError
from routers.ragged import Ragged
from routers.zoo.cat_router import CatRouter


def test_features_equal_a_loop():
    inputs, _ = planted(20)
    got = CatRouter()._features(inputs, 3)
    assert got.shape == (20, 3 * (3 + 3) + 1)
    for i in range(20):
        logprob, entropy = inputs.token_logprob[i], inputs.token_entropy[i]
        top = inputs.topk_logprob[i].astype(np.float64)
        signals = [
            [float(logprob[t]), float(entropy[t]), top[t, 0] - top[t, 1], *top[t, :3]]
            for t in range(len(logprob))
        ]
        columns = list(zip(*signals, strict=True))
        want = [sum(c) / len(c) for c in columns] + [min(c) for c in columns]
        want += [max(c) for c in columns] + [np.log(1 + len(logprob))]
        np.testing.assert_allclose(got[i], want, rtol=1e-13)


@pytest.mark.parametrize("goal", ["gain", "fixes"])
def test_scores_are_near_the_planted_gains(goal):
    inputs, outcomes = planted(600)
    router = CatRouter(goal=goal).fit(inputs.take(np.arange(400)), outcomes.take(np.arange(400)))
    score_N = router.score(inputs.take(np.arange(400, 600)))
    fixable_N = outcomes.gain[400:] > 0
    if goal == "fixes":  # a probability
        assert ((score_N > 0) & (score_N < 1)).all()
    assert score_N[fixable_N].mean() > 0.9
    assert score_N[~fixable_N].mean() < 0.1
    # 2 FLOPs per weight: (3 (3 + 5) + 1) x 32, 32 x 32, 32 x 1.
    assert router.flops_per_query(inputs)[0] == 2 * (25 * 32 + 32 * 32 + 32)


def test_scoring_with_a_smaller_top_k_than_fitted_is_refused():
    inputs, outcomes = planted(15)
    router = CatRouter(topk=4).fit(inputs, outcomes)
    assert router.weights_["k"] == 4
    narrow = Ragged(inputs.topk_logprob.values[:, :3], inputs.topk_logprob.offsets)
    with pytest.raises(InputError, match="reads 4"):
        router.score(dataclasses.replace(inputs, topk_logprob=narrow))
