"""Ragged rows against plain lists."""

import numpy as np
import pytest

from routers.ragged import Ragged

ROWS = [[1.0, 2.0], [], [3.0], [4.0, 5.0, 6.0]]


def test_rows_come_back():
    ragged = Ragged.of(ROWS)
    assert len(ragged) == 4
    assert [ragged[i].tolist() for i in range(4)] == ROWS
    assert ragged.lengths.tolist() == [len(row) for row in ROWS]
    assert ragged.row_ids.tolist() == [i for i, row in enumerate(ROWS) for _ in row]


def test_rows_of_vectors():
    rows = [[[1.0, 2.0]], [], [[3.0, 4.0], [5.0, 6.0]]]
    ragged = Ragged.of(rows)
    assert ragged.values.shape == (3, 2)
    assert ragged[2].tolist() == rows[2]


@pytest.mark.parametrize("chosen", [[0, 1, 2, 3], [3, 0], [1, 1], [2, 3, 2], []])
def test_take_is_list_indexing(chosen):
    taken = Ragged.of(ROWS).take(np.array(chosen, int))
    assert [taken[i].tolist() for i in range(len(taken))] == [ROWS[i] for i in chosen]


def test_take_of_vectors():
    rows = [[[1.0, 2.0]], [[3.0, 4.0], [5.0, 6.0]]]
    assert Ragged.of(rows).take(np.array([1]))[0].tolist() == rows[1]


def test_nothing_at_all():
    empty = Ragged.of([[], []])
    assert len(empty) == 2
    assert empty.values.shape == (0,)
    assert len(Ragged.of([])) == 0


def test_dtype_is_kept():
    assert Ragged.of([[True, False]], bool).values.dtype == bool
    assert Ragged.of(ROWS).values.dtype == np.float32


@pytest.mark.parametrize("offsets", [[1, 3], [0, 2], [0, 3, 2, 3], [0, 4]])
def test_bad_offsets(offsets):
    with pytest.raises(ValueError, match="offsets must run from 0 to 3"):
        Ragged(np.arange(3.0), np.array(offsets))
