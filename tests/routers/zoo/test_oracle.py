"""Oracle: the gain of each query by its id, and an error for any other query."""

import dataclasses

import numpy as np
import pytest
from planted import planted

from routers.errors import InputError
from routers.zoo.oracle import Oracle


def test_scores_are_the_gains_in_any_order():
    inputs, outcomes = planted(50, graded=True)
    oracle = Oracle().fit(inputs, outcomes)
    np.testing.assert_array_equal(oracle.score(inputs), outcomes.gain.astype(np.float64))
    rows = np.array([7, 3, 3, 49])
    np.testing.assert_array_equal(oracle.score(inputs.take(rows)), outcomes.gain[rows])


def test_an_unknown_query_is_named():
    inputs, outcomes = planted(10)
    oracle = Oracle().fit(inputs.take(np.arange(9)), outcomes.take(np.arange(9)))
    with pytest.raises(InputError, match="'query-9' was not among those"):
        oracle.score(inputs)


def test_one_id_with_two_gains_is_refused_but_a_repeated_row_is_fine():
    inputs, outcomes = planted(30)
    twice = np.array([0, 1, 1])
    same = Oracle().fit(inputs.take(twice), outcomes.take(twice))
    np.testing.assert_array_equal(same.score(inputs.take(twice)), outcomes.gain[twice])
    clash = dataclasses.replace(inputs, query_id=np.array(["x"] * 30))
    with pytest.raises(InputError, match="occurs twice"):
        Oracle().fit(clash, outcomes)
