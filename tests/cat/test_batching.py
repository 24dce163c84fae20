"""Batches and buckets lose no row, mix up none, and have few widths."""

import numpy as np
import pytest

from cat.batching import by_bucket, check_prompts, in_batches, pad, round_up
from routers.errors import InputError

LENGTHS = [5, 11, 1, 8, 33, 9, 2, 16, 17, 64]


def test_pad_fills_rows_and_width():
    tokens, lengths = pad([[1] * 9, [2]], rows=4)
    assert tokens.shape == (4, 16)
    assert tokens.sum(axis=1).tolist() == [9, 2, 0, 0]
    assert lengths.tolist() == [9, 1, 0, 0]
    assert pad([[1]], rows=1, width=5)[0].tolist() == [[1, 0, 0, 0, 0]]


@pytest.mark.parametrize(("length", "width"), [(1, 8), (8, 8), (9, 16), (17, 24)])
def test_round_up(length, width):
    assert round_up(length) == width


@pytest.mark.parametrize("batch_size", [1, 3, 4, 10, 16])
def test_results_come_back_in_order_whatever_the_batch(batch_size):
    seen, calls = [], []

    def run(rows):
        seen.append([LENGTHS[i] for i in rows])
        filled = np.full(batch_size, -1)
        filled[: len(rows)] = rows
        return {"row": filled, "twice": np.stack([filled, filled], axis=1)}

    out = in_batches(run, LENGTHS, batch_size, lambda *c: calls.append(c))
    assert out["row"].tolist() == [*range(10)]
    assert out["twice"].tolist() == [[i, i] for i in range(10)]
    assert [n for rows in seen for n in rows] == sorted(LENGTHS), "like lengths share a batch"
    assert calls[-1] == (10, 10)
    assert len(calls) == -(-10 // batch_size)


@pytest.mark.parametrize("rows", [1, 2, 10])
def test_buckets_hold_every_index_once_in_powers_of_two(rows):
    groups = by_bucket(LENGTHS, rows)
    assert sorted(i for _, found in groups for i in found) == [*range(10)]
    assert [width for width, _ in groups] == sorted(width for width, _ in groups)
    assert {width for width, _ in groups} == {8, 16, 32, 64}
    for width, found in groups:
        assert 1 <= len(found) <= rows
        assert all(LENGTHS[i] <= width and (width == 8 or LENGTHS[i] > width // 2) for i in found)


@pytest.mark.parametrize(("lengths", "batch_size"), [([], 1), ([3, 0], 1), ([3], 0)])
def test_nothing_to_do_is_refused(lengths, batch_size):
    with pytest.raises(InputError, match="give at least one of each"):
        check_prompts(lengths, batch_size)
