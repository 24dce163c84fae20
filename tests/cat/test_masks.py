"""Token masks against NumPy written another way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cat import losses, masks
from cat.config import ARMS
from cat.masks import Hits
from routers.errors import InputError

ORACLES = {
    "all": lambda s, l: True,
    "either_hit": lambda s, l: not (not s and not l),
    "large_handles": lambda s, l: not (l and not s),
    "large_hit": lambda s, l: l,
    "small_hit": lambda s, l: s,
    "both_hit": lambda s, l: s and l,
}


def random_hits(seed=0, shape=(6, 9)) -> Hits:
    rng = np.random.default_rng(seed)
    small, large, mask = (rng.random(shape) < p for p in (0.4, 0.6, 0.7))
    return Hits(jnp.asarray(small), jnp.asarray(large), jnp.asarray(mask, jnp.float32))


def test_the_names_are_the_masks_and_nothing_else():
    assert set(masks.names()) == {*ORACLES, "random_like"}
    assert {arm.mask for arm in ARMS.values()} <= set(masks.names())


@pytest.mark.parametrize("name", ORACLES)
def test_equals_a_loop_over_tokens(name):
    hits = random_hits()
    small, large, on = (np.asarray(x) for x in hits)
    expected = np.zeros(small.shape, np.float32)
    for place in np.ndindex(*small.shape):
        expected[place] = on[place] and ORACLES[name](small[place], large[place])
    alpha = masks.get(name)(hits, jax.random.key(0))
    assert alpha.dtype == jnp.float32
    np.testing.assert_array_equal(alpha, expected)


@pytest.mark.parametrize("name", [*ORACLES, "random_like"])
def test_prompt_and_pad_are_never_kept(name):
    hits = random_hits()._replace(small_BT=jnp.ones((6, 9), bool), large_BT=jnp.ones((6, 9), bool))
    alpha = masks.get(name)(hits, jax.random.key(1))
    np.testing.assert_array_equal(np.asarray(alpha)[np.asarray(hits.mask_BT) == 0], 0)
    assert alpha.sum() > 0


def test_either_hit_with_a_large_model_that_is_always_right_is_all():
    hits = random_hits()._replace(large_BT=jnp.ones((6, 9), bool))
    np.testing.assert_array_equal(masks.either_hit(hits, None), masks.all(hits, None))


def test_a_large_model_that_copies_the_labels_keeps_every_response_token_and_shifted_does_not():
    rng = np.random.default_rng(3)
    targets = jnp.asarray(rng.integers(0, 11, (4, 12)))
    mask = jnp.asarray(rng.random((4, 12)) < 0.6, jnp.float32)
    wrong = jnp.zeros((4, 12), bool)
    copied, shifted = (
        masks.either_hit(Hits(wrong, losses.hit(jax.nn.one_hot(ids, 11), targets), mask), None)
        for ids in (targets, jnp.roll(targets, 1, axis=1))
    )
    np.testing.assert_array_equal(copied, mask)
    assert shifted.sum() < 0.5 * mask.sum()


def test_random_like_keeps_the_rate_of_either_hit_but_other_tokens():
    hits = random_hits(4, (64, 64))
    rate = float(masks.either_hit(hits, None).sum() / hits.mask_BT.sum())
    draws = np.stack([masks.random_like(hits, jax.random.key(i)) for i in range(20)])
    tokens = float(hits.mask_BT.sum()) * len(draws)
    # five standard errors of a Bernoulli mean
    assert abs(draws.sum() / tokens - rate) < 5 * np.sqrt(rate * (1 - rate) / tokens)
    on = np.asarray(hits.mask_BT) > 0
    either = np.asarray(masks.either_hit(hits, None))[on]
    assert abs(np.corrcoef(draws[0][on], either)[0, 1]) < 0.1
    np.testing.assert_array_equal(draws[3], masks.random_like(hits, jax.random.key(3)))
    assert (draws[3] != draws[4]).any()


def test_random_like_without_response_tokens_keeps_none():
    hits = random_hits()._replace(mask_BT=jnp.zeros((6, 9)))
    assert masks.random_like(hits, jax.random.key(0)).sum() == 0


def test_no_gradient_flows_through_a_mask():
    def loss(mask_BT):
        return masks.random_like(random_hits()._replace(mask_BT=mask_BT), jax.random.key(0)).sum()

    np.testing.assert_array_equal(jax.grad(loss)(random_hits().mask_BT), 0)


def test_two_by_two_counts_every_response_token_once():
    hits = random_hits(5)
    small, large, on = (np.asarray(x) for x in hits)
    cells = [(s, l) for s, l, m in zip(small.flat, large.flat, on.flat, strict=True) if m]
    expected = [cells.count(cell) for cell in [(1, 1), (1, 0), (0, 1), (0, 0)]]
    assert [int(n) for n in masks.two_by_two(hits)] == expected


@pytest.mark.parametrize("name", masks.names())
def test_a_mask_that_reads_the_large_model_says_so(name):
    hits = random_hits()._replace(large_BT=None)
    if masks.reads_large(name):
        with pytest.raises(InputError, match="pass teacher="):
            masks.get(name)(hits, jax.random.key(0))
    else:
        assert masks.get(name)(hits, jax.random.key(0)).shape == (6, 9)
    assert masks.reads_large(name) == (name not in ("all", "small_hit"))


@pytest.mark.parametrize("name", ["either_hti", "two_by_two", "jnp", "_alpha"])
def test_an_unknown_name_is_refused(name):
    with pytest.raises(InputError, match="Known: all, both_hit, either_hit"):
        masks.get(name)
    with pytest.raises(InputError, match="did you mean 'either_hit'"):
        masks.get("either_hti")
