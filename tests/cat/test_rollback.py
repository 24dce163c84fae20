"""A cache after rounds of kept and rejected tokens against rows that never had the rejected."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cat import mesh as meshes
from cat.config import ModelConfig
from cat.models.decoder import Decoder
from cat.rollback import prefill, settle

V, W, T, N = 11, 3, 5, 9
SETTLED = T + N - 1
COUNTS = np.array([0, 2, 4, 1], np.int32)
STAYS = [[3, 1, 0, 2], [1, 3, 2, 3], [2, 3, 3, 1]]  # per round and row, of W tokens
RNG = np.random.default_rng(8)


prefill = jax.jit(prefill, static_argnames=("settled", "places"))
settle = jax.jit(settle, static_argnums=1)


@jax.jit
def read(model, tokens, positions, segments, cache=None):
    return model.hidden(tokens, positions, segments, cache)


def alone(model, row):
    """The hidden states of one row without a cache; pads after it cannot be seen."""
    padded = jnp.array([[*row] + [0] * (SETTLED + W - len(row))])
    at = jnp.arange(padded.shape[1])[None, :]
    return read(model, padded, at, jnp.ones_like(padded)).hidden[0, : len(row)]


@pytest.fixture
def model():
    config = ModelConfig(width=12, layers=2, heads=2, kv_heads=1, head_dim=4, ffn=16, vocab_size=V)
    with jax.set_mesh(meshes.make_mesh(data=1)):
        yield Decoder(config, rngs=nnx.Rngs(4))


def test_rows_forget_what_did_not_stay(model):
    tokens = RNG.integers(0, V, (4, T)).astype(np.int32)
    cache = prefill(model, *meshes.shard_batch((tokens, COUNTS)), settled=SETTLED, places=W)
    rows = [tokens[b, :n].tolist() for b, n in enumerate(COUNTS)]
    ones = np.ones((4, W), np.int32)
    for stays in STAYS:
        block = RNG.integers(0, V, (4, W)).astype(np.int32)
        positions = np.array([[len(row) + w for w in range(W)] for row in rows], np.int32)
        kept = np.arange(W)[None] < np.array(stays)[:, None]
        block, positions, real, kept = meshes.shard_batch((block, positions, ones, kept))
        hidden, cache = read(model, block, positions, real, cache)
        for b, row in enumerate(rows):
            whole = alone(model, [*row, *block[b].tolist()])
            np.testing.assert_allclose(hidden[b], whole[-W:], rtol=0, atol=2e-5)
            row += block[b, : stays[b]].tolist()
        cache = settle(cache, SETTLED, positions, kept)
        for b, row in enumerate(rows):
            used = np.asarray(cache.segments[b])
            assert used.sum() == len(row), "one slot a token that stayed, none for the others"
            assert cache.positions[b][used > 0].tolist() == [*range(len(row))]
        assert int(cache.next_slot) == SETTLED
    assert max(map(len, rows)) > T, "rows grow past the prompt's slots"
