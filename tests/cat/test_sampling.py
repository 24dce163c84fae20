"""Draws against the truncated law written as a Python loop; keys belong to (query, sample)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from cat.sampling import GREEDY, Sampling, check_draws, draw, row_keys, truncate
from routers.errors import InputError

V = 7
KEY = jax.random.key(5)
RNG = np.random.default_rng(6)
LOGITS = RNG.normal(0, 2, (40, V)).astype(np.float32)
LOGITS[5, 2] = -np.inf  # a token the model excludes
LOGITS[6:12] = np.round(LOGITS[6:12])  # ties


def law(logits, sampling):
    """Probability of each token, float64: tokens taken one by one, likeliest first."""
    order = sorted(range(len(logits)), key=lambda v: (-logits[v], v))
    weight = {v: np.exp((logits[v] - max(logits)) / sampling.temperature) for v in order}
    if sampling.top_k:
        order = order[: sampling.top_k]
    kept, reached, total = [], 0.0, sum(weight[v] for v in order)
    for v in order:
        kept.append(v)
        reached += weight[v] / total
        if reached >= sampling.top_p and sampling.top_p < 1:
            break
    out = np.zeros(len(logits))
    out[kept] = [weight[v] / sum(weight[u] for u in kept) for v in kept]
    return out


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(1.0),
        Sampling(0.7),
        Sampling(1.3, top_k=3),
        Sampling(1.0, top_k=1),
        Sampling(1.0, top_k=V + 5),
        Sampling(1.0, top_p=0.6),
        Sampling(2.0, top_p=0.95),
        Sampling(1.0, top_p=1e-6),
        Sampling(0.8, top_k=4, top_p=0.7),
    ],
    ids=repr,
)
def test_truncation_equals_the_loop(sampling):
    got = np.asarray(jax.nn.softmax(truncate(jnp.asarray(LOGITS), sampling), axis=-1))
    want = np.array([law(row.astype(np.float64), sampling) for row in LOGITS])
    np.testing.assert_array_equal(got > 0, want > 0)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [
        (0.3, [0]),
        (0.5, [0]),
        (0.51, [0, 1]),
        (0.75, [0, 1]),
        (0.76, [0, 1, 2]),
        (0.9, [0, 1, 2, 3]),
    ],
)
def test_nucleus_is_the_smallest_that_reaches_p(top_p, kept):
    """Probabilities that float32 holds exactly; the token that crosses is in."""
    logits = jnp.log(jnp.array([[0.5, 0.25, 0.125, 0.125]]))
    got = truncate(logits, Sampling(1.0, top_p=top_p))
    assert np.flatnonzero(np.isfinite(got[0])).tolist() == kept


def test_ties_go_to_the_lowest_ids():
    flat = jnp.zeros((1, 8))
    for sampling, count in ((Sampling(1.0, top_k=3), 3), (Sampling(1.0, top_p=0.5), 4)):
        kept = np.isfinite(truncate(flat, sampling)[0])
        assert np.flatnonzero(kept).tolist() == [*range(count)]
    assert np.isfinite(truncate(flat, GREEDY)[0]).tolist() == [True] + [False] * 7
    below = jnp.array([[-1.0, -0.0, 0.0, -0.0]])  # equal numbers that a sort tells apart
    kept = np.isfinite(truncate(below, Sampling(1.0, top_k=2))[0])
    assert np.flatnonzero(kept).tolist() == [1, 2]


def test_all_tokens_stay_at_p_one_whatever_rounding():
    """The float32 sum over 50,000 tokens passes 1 before its end."""
    logits = jnp.asarray(RNG.normal(0, 1, (1, 50_000)), jnp.float32)
    assert np.isfinite(truncate(logits, Sampling(1.0, top_k=49_999))[0]).sum() == 49_999


@pytest.mark.parametrize(
    "sampling", [Sampling(1.0), Sampling(0.6, top_k=4), Sampling(1.5, top_k=6, top_p=0.8)], ids=repr
)
def test_draws_have_the_truncated_law(sampling):
    """Chi-square over 20,000 rows of one batch, each with its own key; nothing else is drawn."""
    n, row = 20_000, np.linspace(-1, 1, V).astype(np.float32)[[3, 0, 6, 2, 5, 1, 4]]
    keys = row_keys(KEY, jnp.arange(n) // 2, jnp.arange(n) % 2)
    tokens = np.asarray(jax.jit(draw, static_argnums=2)(keys, jnp.tile(row, (n, 1)), sampling))
    want, count = law(row.astype(np.float64), sampling), np.bincount(tokens, minlength=V)
    possible = want > 0
    assert count[~possible].sum() == 0
    assert stats.chisquare(count[possible], n * want[possible]).pvalue > 0.01


def test_a_draw_belongs_to_its_query_and_sample():
    """Any order and any neighbours; other queries, samples and seeds draw anew."""
    logits = jnp.zeros((64, 1000))
    queries, samples = jnp.arange(64) % 16, jnp.arange(64) // 16
    tokens = draw(row_keys(KEY, queries, samples), logits, Sampling(1.0))
    order = RNG.permutation(64)[:10]
    some = draw(row_keys(KEY, queries[order], samples[order]), logits[:10], Sampling(1.0))
    np.testing.assert_array_equal(some, tokens[order])
    assert len(set(tokens.tolist())) > 55, "64 draws of 1000 have about two pairs in common"
    other = draw(row_keys(jax.random.key(6), queries, samples), logits, Sampling(1.0))
    assert (other == tokens).sum() < 5


def test_no_temperature_and_almost_none_are_greedy():
    distinct = jnp.asarray(LOGITS[12:])
    keys = row_keys(KEY, jnp.arange(28), jnp.zeros(28, jnp.int32))
    want = np.argmax(LOGITS[12:], axis=-1)
    for chosen in (draw(None, distinct, GREEDY), draw(keys, distinct, Sampling(1e-6))):
        assert chosen.dtype == jnp.int32
        np.testing.assert_array_equal(chosen, want)


def test_bfloat16_logits_are_truncated_in_float32():
    assert truncate(jnp.zeros((1, 4), jnp.bfloat16), Sampling(0.3)).dtype == jnp.float32


@pytest.mark.parametrize(
    ("field", "value"),
    [("temperature", -0.1), ("temperature", float("nan")), ("temperature", float("inf")),
     ("top_k", -1), ("top_p", 0.0), ("top_p", 1.01), ("top_p", float("nan"))],
)  # fmt: skip
def test_values_out_of_range(field, value):
    with pytest.raises(InputError, match=f"{field}={value}; use") as error:
        Sampling(**{field: value})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("sampling", "key", "samples", "says"),
    [
        (GREEDY, None, 0, "samples=0"),
        (GREEDY, KEY, 2, "2 greedy responses would all be equal"),
        (Sampling(1.0), None, 1, "has no key"),
    ],
)
def test_draws_that_cannot_be(sampling, key, samples, says):
    with pytest.raises(InputError, match=says):
        check_draws(sampling, key, samples)
