"""The places of the response: against plain loops, whatever the mask looks like."""

import jax.numpy as jnp
import numpy as np
import pytest

from cat.response import narrow, places, take
from cat.types import Batch, Teacher

BATCH, TIME = 6, 9


def random_mask(seed: int) -> np.ndarray:
    """[B, T] of zeros and ones; row 0 has none, row 1 all."""
    mask = (np.random.default_rng(seed).random((BATCH, TIME)) < 0.4).astype(np.float32)
    mask[0], mask[1] = 0, 1
    return mask


def looped(mask, width: int) -> list[list[int]]:
    """Counted positions of each row in order, then the others in order, cut to ``width``."""
    rows = []
    for row in mask:
        counted = [t for t in range(len(row)) if row[t] > 0]
        others = [t for t in range(len(row)) if row[t] == 0]
        rows.append((counted + others)[:width])
    return rows


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("width", [1, 5, TIME])
def test_places_are_the_counted_positions_then_others(seed, width):
    mask = random_mask(seed)
    assert places(jnp.array(mask), width).tolist() == looped(mask, width)


def test_no_counted_position_is_lost_at_the_longest_response():
    mask = random_mask(4)
    mask[1, 3:] = 0
    width = int(mask.sum(axis=1).max())
    at = np.asarray(places(jnp.array(mask), width))
    for row, where in zip(mask, at, strict=True):
        assert set(np.flatnonzero(row)) <= set(where.tolist())


@pytest.mark.parametrize("inner", [(), (3,), (2, 4)])
def test_take_gathers_each_row_at_its_own_places(inner):
    rng = np.random.default_rng(0)
    column = rng.normal(size=(BATCH, TIME, *inner)).astype(np.float32)
    at = rng.integers(0, TIME, (BATCH, 4)).astype(np.int32)
    found = np.asarray(take(jnp.array(column), jnp.array(at)))
    assert found.shape == (BATCH, 4, *inner)
    for b in range(BATCH):
        for r in range(4):
            np.testing.assert_array_equal(found[b, r], column[b, at[b, r]])


@pytest.mark.parametrize("topk", [0, 2])
def test_narrow_keeps_every_column_aligned(topk):
    rng = np.random.default_rng(1)
    mask = random_mask(2)
    ids = rng.integers(0, 50, (4, BATCH, TIME)).astype(np.int32)
    told = Teacher(
        hit=rng.random((BATCH, TIME)) < 0.5,
        topk_ids=rng.integers(0, 50, (BATCH, TIME, topk)).astype(np.int32),
        topk_logprob=rng.normal(size=(BATCH, TIME, topk)).astype(np.float32),
        logprob=rng.normal(size=(BATCH, TIME)).astype(np.float32),
    )
    columns = (ids[0], ids[1], mask, ids[2], ids[3])
    at = places(jnp.array(mask), 5)
    small = narrow(Batch(*map(jnp.array, columns), Teacher(*map(jnp.array, told))), at)
    for whole, part in zip((*columns, *told), (*small[:5], *small.teacher), strict=True):
        wanted = [whole[b, where] for b, where in enumerate(np.asarray(at))]
        np.testing.assert_array_equal(np.asarray(part), np.stack(wanted))


def test_a_masked_sum_is_the_same_at_the_places():
    mask = random_mask(3)
    mask[1, 4:] = 0
    value = np.random.default_rng(2).integers(0, 100, mask.shape).astype(np.float32)
    width = int(mask.sum(axis=1).max())
    at = places(jnp.array(mask), width)
    inside = take(jnp.array(value), at) * take(jnp.array(mask), at)
    assert float(inside.sum()) == float((value * mask).sum())  # small integers: exact


def test_narrow_without_a_teacher():
    columns = [jnp.zeros((2, 3), jnp.int32)] * 2 + [jnp.ones((2, 3))]
    batch = Batch(*columns, *[jnp.zeros((2, 3), jnp.int32)] * 2)
    assert narrow(batch, places(batch.mask, 2)).teacher is None
