"""Chow-Sum by hand, and its bias by length."""

import numpy as np
from planted import from_rows

from routers.zoo.chow_sum import ChowSum


def test_scores_by_hand():
    inputs = from_rows(logprobs=[[-0.5, -1.5], [-0.25], [-1.0, -1.0, -1.0]])
    assert ChowSum().score(inputs).tolist() == [2.0, 0.25, 3.0]


def test_the_less_likely_answer_is_sent_on_and_longer_answers_score_higher():
    inputs = from_rows(logprobs=[[np.log(0.9)], [np.log(0.2)], [np.log(0.9)] * 30])
    sure, unsure, long = ChowSum().score(inputs)
    assert sure < unsure < long
