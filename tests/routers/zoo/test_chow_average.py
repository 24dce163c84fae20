"""Chow-Average by hand: r(x) of CAT."""

import numpy as np
from planted import from_rows

from routers.zoo.chow_average import ChowAverage
from routers.zoo.chow_sum import ChowSum


def test_scores_by_hand():
    inputs = from_rows(logprobs=[[-0.5, -1.5], [-0.25], [-1.0, -1.0, -4.0]])
    assert ChowAverage().score(inputs).tolist() == [1.0, 0.25, 2.0]


def test_a_sure_last_token_halves_the_score_of_a_one_token_answer():
    inputs = from_rows(logprobs=[[-1.0], [-1.0, 0.0]])
    assert ChowAverage().score(inputs).tolist() == [1.0, 0.5]


def test_it_is_the_sum_over_the_length():
    rng = np.random.default_rng(0)
    rows = [-rng.exponential(size=n) for n in rng.integers(1, 9, 30)]
    inputs = from_rows(logprobs=rows)
    lengths = np.array([len(row) for row in rows])
    np.testing.assert_allclose(
        ChowAverage().score(inputs) * lengths, ChowSum().score(inputs), rtol=1e-14
    )
