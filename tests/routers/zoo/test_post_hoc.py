"""Post-Hoc-Quantile: both learners recover a planted probability; costs are counted."""

import numpy as np
import pytest
from planted import from_rows

from routers.base import Outcomes
from routers.zoo.post_hoc import PostHoc

# One token per response: P(large fixes it) = 1 - p, all information in the log-probability.
RNG = np.random.default_rng(0)
P = RNG.uniform(0.05, 1.0, 2000)
INPUTS = from_rows(logprobs=np.log(P)[:, None].tolist())
FIXED = (RNG.random(2000) > P).astype(float)
OUTCOMES = Outcomes(np.zeros(2000), FIXED, np.ones(2000), np.ones(2000))


@pytest.mark.parametrize(
    ("learner", "flops"),
    [
        ("booster", 100 * (3 + 1)),  # a comparison per level and an addition per tree
        ("mlp", 2 * (13 * 32 + 4 * 32 * 32 + 32)),  # 5 hidden layers of 32
    ],
)
def test_scores_track_the_true_probability_at_the_stated_cost(learner, flops):
    router = PostHoc(learner=learner).fit(INPUTS, OUTCOMES)
    # Sampling error of a bin of 100 rows is .05; a constant would be .24 off on average.
    assert np.abs(router.score(INPUTS) - (1 - P)).mean() < 0.06
    assert set(router.flops_per_query(INPUTS)) == {flops}
