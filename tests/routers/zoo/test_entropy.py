"""Entropy by hand, mean and maximum."""

import pytest
from planted import from_rows

from routers.zoo.entropy import Entropy


@pytest.mark.parametrize(
    ("reduce", "want"), [("mean", [1.0, 0.25, 1.5]), ("max", [1.5, 0.25, 4.0])]
)
def test_scores_by_hand(reduce, want):
    inputs = from_rows(entropies=[[0.5, 1.5], [0.25], [0.0, 0.5, 4.0]])
    assert Entropy(reduce=reduce).score(inputs).tolist() == want
