"""Margin by hand; a tie is the highest score."""

import pytest
from planted import from_rows

from routers.errors import InputError
from routers.zoo.margin import Margin


def test_scores_by_hand():
    topk = [
        [[-0.5, -2.5, -3.0], [-1.0, -2.0, -4.0]],
        [[-0.75, -0.75, -9.0]],
        [[-0.25, -4.25, -5.0]],
    ]
    assert Margin().score(from_rows(topk=topk)).tolist() == [-1.5, 0.0, -4.0]


def test_one_stored_probability_has_no_margin():
    with pytest.raises(InputError, match="holds 1 values per token"):
        Margin().score(from_rows(topk=[[[-0.5]]]))
