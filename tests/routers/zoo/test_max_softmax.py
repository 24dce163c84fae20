"""Max softmax by hand; for greedy tokens it is the mean token probability."""

import numpy as np
from planted import from_rows, planted

from routers.zoo.max_softmax import MaxSoftmax


def test_scores_by_hand():
    topk = [[[np.log(0.5), np.log(0.25)], [np.log(0.75), -9.0]], [[0.0, -50.0]]]
    np.testing.assert_allclose(MaxSoftmax().score(from_rows(topk=topk)), [0.375, 0.0], atol=1e-15)


def test_for_greedy_answers_it_is_one_minus_the_mean_probability():
    inputs, _ = planted(30)
    want = [1 - np.exp(inputs.token_logprob[i].astype(float)).mean() for i in range(30)]
    np.testing.assert_allclose(MaxSoftmax().score(inputs), want, rtol=1e-9)


def test_one_hopeless_token_counts_at_most_one():
    topk = [[[-0.01, -5.0]] * 9 + [[-90.0, -91.0]]]
    score = MaxSoftmax().score(from_rows(topk=topk))[0]
    np.testing.assert_allclose(score, (9 * (1 - np.exp(-0.01)) + 1) / 10, rtol=1e-9)
