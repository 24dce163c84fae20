"""Chunked sums from hidden states against the same from whole logits, on one device and many."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from cat import losses, vocab
from cat.mesh import ROWS, make_mesh
from cat.models.unembedding import Unembedding
from cat.statistics import statistics
from cat.vocab import chunk_count, summed, token_statistics

B, R, D, V = 8, 7, 6, 20
RNG = np.random.default_rng(0)
HIDDEN = RNG.normal(size=(B, R, D)).astype(np.float32)
TARGETS = RNG.integers(0, V, (B, R)).astype(np.int32)
MASK = (RNG.random((B, R)) < 0.7).astype(np.float32)
TABLE = RNG.normal(size=(V, D)).astype(np.float32)
MESHES = [(1, 1, 1), (8, 1, 1), (2, 2, 2), (1, 4, 2), (1, 1, 4)]


def weighted(unembedding, hidden, columns, constants):
    targets, mask = columns
    logits = unembedding(hidden)
    loss = losses.cross_entropy(logits, targets) + 0.1 * losses.to_uniform(logits)
    return losses.masked_sum(loss, mask) / constants, (losses.hit(logits, targets), loss)


def in_float64(table, hidden, cap):
    """Loss and both gradients from whole logits, by NumPy."""
    logits = hidden.astype(np.float64) @ table.T.astype(np.float64)
    bent = cap * np.tanh(logits / cap) if cap else logits
    p = np.exp(bent - bent.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    label = np.eye(V)[TARGETS]
    entropy = -(p * np.log(p)).sum(-1, keepdims=True)
    loss = -np.log((p * label).sum(-1)) + 0.1 * (np.log(V) - entropy[..., 0])
    by_bent = p - label + 0.1 * p * (np.log(p) + entropy)
    by_logits = by_bent * (1 - (bent / cap) ** 2 if cap else 1) * MASK[..., None] / 3
    by_table = np.einsum("brv,brd->vd", by_logits, hidden)
    return (loss * MASK).sum() / 3, loss, by_table, by_logits @ table


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(vocab, "CHUNK_BYTES", 4 * V * B * 2)


@pytest.mark.parametrize("sizes", MESHES)
@pytest.mark.parametrize("cap", [0.0, 5.0])
@pytest.mark.usefixtures("small_chunks")
def test_values_and_gradients_are_those_of_whole_logits(sizes, cap):
    data, fsdp, tensor = sizes
    with jax.set_mesh(make_mesh(data, fsdp, tensor)) as mesh:
        table, hidden, *columns = (
            jax.device_put(array, NamedSharding(jax.sharding.get_mesh(), spec))
            for array, spec in zip(
                (TABLE, HIDDEN, TARGETS, MASK),
                (PartitionSpec("tensor"), *[PartitionSpec(ROWS)] * 3),
                strict=True,
            )
        )
        run = jax.jit(jax.value_and_grad(chunked, argnums=(0, 1), has_aux=True))
        found = jax.device_get(run(Unembedding(table, True, "float32", cap), hidden, columns))
    (value, (hits, loss)), (by_table, by_hidden) = found
    wanted = in_float64(TABLE, HIDDEN, cap)
    np.testing.assert_allclose(value, wanted[0], rtol=1e-5)
    np.testing.assert_allclose(loss, wanted[1], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(by_table.table, wanted[2], rtol=0, atol=1e-5)
    np.testing.assert_allclose(by_hidden, wanted[3], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(hits, (HIDDEN @ TABLE.T).argmax(-1) == TARGETS)
    del mesh


def chunked(unembedding, hidden, columns):
    return summed(weighted, unembedding, hidden, tuple(columns), jnp.float32(3.0))


@pytest.mark.parametrize("places", [1, 2, 3, 4, 7])
def test_any_chunk_gives_the_same(places, monkeypatch):
    monkeypatch.setattr(vocab, "CHUNK_BYTES", 4 * V * B * places)
    assert chunk_count(B, R, V) == -(-R // places)
    unembedding = Unembedding(jnp.asarray(TABLE.T), False, "float32")
    run = jax.jit(jax.value_and_grad(chunked, argnums=(0, 1), has_aux=True))
    (value, _), (table, hidden) = run(unembedding, jnp.asarray(HIDDEN), (TARGETS, MASK))
    wanted = in_float64(TABLE, HIDDEN, 0.0)
    np.testing.assert_allclose(value, wanted[0], rtol=1e-5)
    np.testing.assert_allclose(table.table.T, wanted[2], rtol=0, atol=1e-5)
    np.testing.assert_allclose(hidden, wanted[3], rtol=0, atol=1e-5)


@pytest.mark.usefixtures("small_chunks")
def test_the_upstream_gradient_scales_both():
    unembedding = Unembedding(jnp.asarray(TABLE), True, "float32")

    def scaled(factor, unembedding, hidden):
        columns = jnp.asarray(TARGETS), jnp.asarray(MASK)
        return factor * chunked(unembedding, hidden, columns)[0]

    once, twice = (
        jax.grad(functools.partial(scaled, f), argnums=(0, 1))(unembedding, jnp.asarray(HIDDEN))
        for f in (1.0, -2.5)
    )
    for a, b in zip(jax.tree.leaves(once), jax.tree.leaves(twice), strict=True):
        np.testing.assert_allclose(-2.5 * a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.usefixtures("small_chunks")
def test_no_array_holds_all_logits():
    """In the compiled program of value and gradient, nothing is [B, R, V] or [B R, V]."""
    unembedding = Unembedding(jnp.asarray(TABLE), True, "float32")
    run = jax.jit(jax.value_and_grad(chunked, argnums=(0, 1), has_aux=True))
    text = run.lower(unembedding, jnp.asarray(HIDDEN), (TARGETS, MASK)).compile().as_text()
    assert f"[{B},2,{V}]" in text or f"[{B * 2},{V}]" in text
    for whole in (f"[{B},{R},{V}]", f"[{B * R},{V}]", f"[{B},{R + 1},{V}]", f"[4,{B},2,{V}]"):
        assert whole not in text


@pytest.mark.usefixtures("small_chunks")
def test_the_tables_gradient_is_summed_over_devices_once():
    with jax.set_mesh(make_mesh(8)):
        rows = NamedSharding(jax.sharding.get_mesh(), PartitionSpec(ROWS))
        hidden, *columns = (jax.device_put(a, rows) for a in (HIDDEN, TARGETS, MASK))
        run = jax.jit(jax.value_and_grad(chunked, argnums=(0, 1), has_aux=True))
        unembedding = Unembedding(jax.device_put(TABLE, jax.P()), True, "float32")
        text = run.lower(unembedding, hidden, columns).compile().as_text()
    sums = [line for line in text.splitlines() if " all-reduce(" in line]
    assert len(sums) == 1
    assert "while" not in sums[0].partition("metadata")[2]


@pytest.mark.usefixtures("small_chunks")
def test_bfloat16_products_keep_float32_gradients_of_the_table():
    unembedding = Unembedding(jnp.asarray(TABLE), True, "bfloat16")
    run = jax.jit(jax.value_and_grad(chunked, argnums=(0, 1), has_aux=True))
    hidden = jnp.asarray(HIDDEN, jnp.bfloat16)
    (value, _), (table, by_hidden) = run(unembedding, hidden, (TARGETS, MASK))
    assert (table.table.dtype, by_hidden.dtype) == (jnp.float32, jnp.bfloat16)
    wanted = in_float64(TABLE, HIDDEN, 0.0)
    np.testing.assert_allclose(value, wanted[0], rtol=2e-2)
    np.testing.assert_allclose(table.table, wanted[2], rtol=0, atol=5e-2)


@pytest.mark.usefixtures("small_chunks")
def test_token_statistics_are_those_of_whole_logits():
    unembedding = Unembedding(jnp.asarray(TABLE), True, "float32")
    found = jax.jit(token_statistics, static_argnums=3)(unembedding, HIDDEN, TARGETS, 4)
    wanted = statistics(unembedding(jnp.asarray(HIDDEN)), jnp.asarray(TARGETS), 4)
    for got, whole in zip(found.statistics, wanted, strict=True):
        np.testing.assert_allclose(got, whole, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(found.hit, (HIDDEN @ TABLE.T).argmax(-1) == TARGETS)
