"""Chow-Quantile by hand; alpha 0 is the least certain token."""

import numpy as np
import pytest
from planted import from_rows

from routers.errors import InputError
from routers.zoo.chow_quantile import ChowQuantile

ROWS = [[-3.0, -1.0, -2.0], [-0.5], [-4.0, 0.0]]


@pytest.mark.parametrize(
    ("alpha", "want"),
    [
        (0.0, [3.0, 0.5, 4.0]),
        (0.25, [2.5, 0.5, 3.0]),
        (0.5, [2.0, 0.5, 2.0]),
        (1.0, [1.0, 0.5, 0.0]),
    ],
)
def test_scores_by_hand(alpha, want):
    assert ChowQuantile(alpha=alpha).score(from_rows(logprobs=ROWS)).tolist() == want


def test_one_bad_token_among_many_is_what_alpha_zero_sees():
    hidden = from_rows(logprobs=[[-0.01] * 50 + [-5.0], [-0.2] * 51])
    worst, mild = ChowQuantile(alpha=0.0).score(hidden)
    assert worst > mild
    worst, mild = ChowQuantile(alpha=0.5).score(hidden)
    assert worst < mild


@pytest.mark.parametrize("alpha", [-0.1, 1.1, np.nan])
def test_a_level_outside_the_unit_interval_is_refused(alpha):
    with pytest.raises(InputError, match="alpha"):
        ChowQuantile(alpha=alpha)
