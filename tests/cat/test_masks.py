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
    "before | large": lambda s, l, b: b or l,
    "small & ~(large | before)": lambda s, l, b: s and not l and not b,
    "~either_hit | both_hit": lambda s, l, b: (not s and not l) or (s and l),
    "all": lambda s, l, b: True,
    "either_hit": lambda s, l, b: not (not s and not l),
    "large_handles": lambda s, l, b: not (l and not s),
    "large_hit": lambda s, l, b: l,
    "small_hit": lambda s, l, b: s,
    "both_hit": lambda s, l, b: s and l,
}


def random_hits(seed=0, shape=(6, 9)) -> Hits:
    rng = np.random.default_rng(seed)
    small, large, mask, before = (rng.random(shape) < p for p in (0.4, 0.6, 0.7, 0.5))
    on = jnp.asarray(mask, jnp.float32)
    return Hits(jnp.asarray(small), jnp.asarray(large), on, jnp.asarray(before))


def test_every_name_has_an_oracle_and_every_arm_a_mask():
    assert set(masks.NAMED) - set(ORACLES) == {"random_like"}
    for arm in ARMS.values():
        masks.parse(arm.mask)


@pytest.mark.parametrize("name", ORACLES)
def test_equals_a_loop_over_tokens(name):
    hits = random_hits()
    small, large, on, before = (np.asarray(x) for x in hits)
    expected = np.zeros(small.shape, np.float32)
    for place in np.ndindex(*small.shape):
        expected[place] = on[place] and ORACLES[name](small[place], large[place], before[place])
    alpha = masks.weights(name, hits, jax.random.key(0))
    assert alpha.dtype == jnp.float32
    np.testing.assert_array_equal(alpha, expected)


@pytest.mark.parametrize("name", [*ORACLES, "random_like"])
def test_prompt_and_pad_are_never_kept(name):
    hits = random_hits()
    alpha = masks.weights(name, hits, jax.random.key(1))
    np.testing.assert_array_equal(np.asarray(alpha)[np.asarray(hits.mask_BT) == 0], 0)
    assert alpha.sum() > 0


def test_either_hit_with_a_large_model_that_is_always_right_is_all():
    hits = random_hits()._replace(large_BT=jnp.ones((6, 9), bool))
    np.testing.assert_array_equal(masks.weights("either_hit", hits), masks.weights("all", hits))


def test_a_large_model_that_copies_the_labels_keeps_every_response_token_and_shifted_does_not():
    rng = np.random.default_rng(3)
    targets = jnp.asarray(rng.integers(0, 11, (4, 12)))
    mask = jnp.asarray(rng.random((4, 12)) < 0.6, jnp.float32)
    wrong = jnp.zeros((4, 12), bool)
    copied, shifted = (
        masks.weights("either_hit", Hits(wrong, losses.hit(jax.nn.one_hot(ids, 11), targets), mask))
        for ids in (targets, jnp.roll(targets, 1, axis=1))
    )
    np.testing.assert_array_equal(copied, mask)
    assert shifted.sum() < 0.5 * mask.sum()


def test_random_like_keeps_the_rate_of_either_hit_but_other_tokens():
    hits = random_hits(4, (64, 64))
    rate = float(masks.weights("either_hit", hits).sum() / hits.mask_BT.sum())
    draws = np.stack([masks.weights("random_like", hits, jax.random.key(i)) for i in range(20)])
    tokens = float(hits.mask_BT.sum()) * len(draws)
    # five standard errors of a Bernoulli mean
    assert abs(draws.sum() / tokens - rate) < 5 * np.sqrt(rate * (1 - rate) / tokens)
    on = np.asarray(hits.mask_BT) > 0
    either = np.asarray(masks.weights("either_hit", hits))[on]
    assert abs(np.corrcoef(draws[0][on], either)[0, 1]) < 0.1
    np.testing.assert_array_equal(draws[3], masks.weights("random_like", hits, jax.random.key(3)))
    assert (draws[3] != draws[4]).any()


def test_random_like_without_response_tokens_keeps_none():
    hits = random_hits()._replace(mask_BT=jnp.zeros((6, 9)))
    assert masks.weights("random_like", hits, jax.random.key(0)).sum() == 0


def test_no_gradient_flows_through_a_mask():
    def loss(mask_BT):
        return masks.weights(
            "random_like", random_hits()._replace(mask_BT=mask_BT), jax.random.key(0)
        ).sum()

    np.testing.assert_array_equal(jax.grad(loss)(random_hits().mask_BT), 0)


def test_two_by_two_counts_every_response_token_once():
    hits = random_hits(5)
    small, large, on = (np.asarray(x) for x in hits[:3])
    cells = [(s, l) for s, l, m in zip(small.flat, large.flat, on.flat, strict=True) if m]
    expected = [cells.count(cell) for cell in [(1, 1), (1, 0), (0, 1), (0, 0)]]
    assert [int(n) for n in masks.two_by_two(hits)] == expected


@pytest.mark.parametrize("name", [*ORACLES, "random_like", "random(before)"])
def test_a_mask_says_which_models_it_reads_and_is_refused_without(name):
    read = masks.reads(name)
    for word, hint in (("large", "pass teacher="), ("before", "pass before=")):
        hits = random_hits()._replace(**{f"{word}_BT": None})
        if word in read:
            with pytest.raises(InputError, match=hint):
                masks.weights(name, hits, jax.random.key(0))
        else:
            assert masks.weights(name, hits, jax.random.key(0)).shape == (6, 9)


def test_a_lot_keeps_the_rate_of_any_expression_and_two_lots_differ():
    hits = random_hits(6, (80, 90))
    tokens = float(hits.mask_BT.sum())
    for inner in ("large_handles", "before & large", "1"):
        rate = float(masks.weights(inner, hits).sum()) / tokens
        kept = float(masks.weights(f"random({inner})", hits, jax.random.key(7)).sum()) / tokens
        assert abs(kept - rate) <= 5 * np.sqrt(rate * (1 - rate) / tokens)
    both = masks.weights("random(small) & random(small)", hits, jax.random.key(0)).sum() / tokens
    rate = float(masks.weights("small", hits).sum()) / tokens
    assert abs(float(both) - rate**2) < 5 * np.sqrt(rate**2 / tokens)


def test_parts_of_a_batch_draw_as_the_whole():
    hits, key = random_hits(8, (8, 5)), jax.random.key(3)
    whole = masks.weights("random(either_hit) | before", hits, key)
    lots, rates = (
        masks.draw("random(either_hit) | before", key, (8, 5)),
        masks.rates("random(either_hit) | before", hits),
    )
    for part in (slice(0, 3), slice(3, 8)):
        piece = Hits(*[column[part] for column in hits])
        got = masks.weigh("random(either_hit) | before", piece, lots[:, part], rates)
        np.testing.assert_array_equal(got, whole[part])


def test_probabilities_count_as_independent_events():
    rng = np.random.default_rng(9)
    small, large, before = (rng.random((4, 6)).astype(np.float32) for _ in range(3))
    hits = Hits(jnp.asarray(small), jnp.asarray(large), jnp.ones((4, 6)), jnp.asarray(before))
    expected = {
        "either_hit": 1 - (1 - small) * (1 - large),
        "large_handles": 1 - large * (1 - small),
        "both_hit": small * large,
        "before & ~large": before * (1 - large),
    }
    for name, wanted in expected.items():
        np.testing.assert_allclose(masks.weights(name, hits), wanted, rtol=0, atol=1e-6)


def test_who_gives_no_number_is_not_right():
    nan = jnp.array([[jnp.nan, jnp.log(0.9)]])
    right = masks.rightness(nan, 0.5)
    assert right[0, 0] == 0 < right[0, 1] < 1
    known = masks.Hits(right, jnp.zeros((1, 2)), jnp.ones((1, 2)))
    assert masks.weights("small | large", known)[0, 0] == 0


def test_rightness_is_the_probability_sharpened():
    p = np.array([[1e-6, 0.2, 0.5, 0.8, 1 - 1e-5]])
    for temperature in (0.1, 0.5, 1.0, 3.0):
        odds = (p / (1 - p)) ** (1 / temperature)
        got = masks.rightness(jnp.log(jnp.asarray(p, jnp.float32)), temperature)
        np.testing.assert_allclose(got, odds / (1 + odds), rtol=2e-3, atol=1e-6)
    certain = masks.rightness(jnp.zeros((1, 1)), 1.0)
    assert 0.999 < float(certain[0, 0]) <= 1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("either_hti", "did you mean 'either_hit'"),
        ("small | lagre", "did you mean 'large'"),
        ("two_by_two", "use small, before, large"),
        ("small ||", "it is not an expression"),
        ("small + large", "'small + large' is not part of the language"),
        ("2", "'2' is not part"),
        ("__import__('os')", "is not part of the language"),
        ("random(random(small))", "is not part of the language"),
        ("random(small, large)", "is not part of the language"),
        ("small.real", "is not part of the language"),
        ("", "it is not an expression"),
    ],
)
def test_what_is_no_mask_is_refused(wrong, said):
    with pytest.raises(InputError, match=said.replace("(", "\\(").replace("+", "\\+")):
        masks.parse(wrong)
