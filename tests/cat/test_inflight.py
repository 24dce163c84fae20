"""Rows that enter and leave at any time, in buffers that are handed on and not copied."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cat import mesh as meshes
from cat.batching import pad
from cat.config import ModelConfig
from cat.decode import generate
from cat.inflight import Rows, add_kept, admit, advance, grow, hold
from cat.models.decoder import Decoder
from cat.sampling import GREEDY

V, W, B, EOS = 13, 3, 4, 13  # no argmax is 13: nothing ends by itself
CONFIG = ModelConfig(width=16, layers=2, heads=4, kv_heads=2, head_dim=4, ffn=24, vocab_size=V)
HOW = dict(steps=W, eos_id=EOS, topk=2, sampling=GREEDY)
KEY = jax.random.key(0)
PROMPTS = [[3, 4, 5], [6, 7, 8, 9, 10], [11], [12, 3, 12, 4]]


@pytest.fixture(autouse=True)
def one_device():
    with jax.set_mesh(meshes.make_mesh(data=1)):
        yield


@pytest.fixture(scope="module")
def model():
    return Decoder(CONFIG, rngs=nnx.Rngs(3))


@pytest.fixture(scope="module")
def alone(model):
    """The first 9 tokens after each prompt, by ``generate``."""
    with jax.set_mesh(meshes.make_mesh(data=1)):
        out = generate(model, *map(jnp.asarray, pad(PROMPTS, 4)), max_new=9, eos_id=EOS, topk=2)
    return np.asarray(out.tokens)


def numbers(**values):
    zeros = np.zeros(B, np.int32)
    return Rows(**{n: np.array(values.get(n, zeros), np.int32) for n in Rows._fields})


def seat(model, held, rows):
    """Put prompts (their numbers) into rows: a map from row to prompt."""
    take = np.full(B, -1, np.int32)
    take[list(rows)] = range(len(rows))
    return admit(model, held, *pad([PROMPTS[p] for p in rows.values()], 2), take)


def step(model, held, rows, floor=0):
    cache, hidden, out = advance(model, held.cache, held.hidden, rows, jnp.int32(floor), KEY, **HOW)
    return held._replace(cache=cache, hidden=hidden), jax.device_get(out)


def test_rows_enter_while_others_go_on(model, alone):
    """Prompts 0 and 1 start; 1 is replaced by 2 while 0 goes on; 3 takes a row never used."""
    held, _ = seat(model, hold(CONFIG, B, 8 + 9 - 1 + W), {0: 0, 1: 1})
    held, out = step(model, held, numbers(read=[3, 5, 0, 0], left=[9, 2, 0, 0]))
    assert out.counts.tolist() == [3, 2, 0, 0]
    np.testing.assert_array_equal(out.tokens[0], alone[0, :3])
    np.testing.assert_array_equal(out.tokens[1], [*alone[1, :2], 0])
    held, _ = seat(model, held, {1: 2, 3: 3})
    rows = numbers(read=[6, 1, 0, 4], emitted=[3, 0, 0, 0], left=[6, 9, 0, 9])
    for n in range(2):
        held, out = step(model, held, rows)
        np.testing.assert_array_equal(out.tokens[0], alone[0, 3 + 3 * n : 6 + 3 * n])
        np.testing.assert_array_equal(out.tokens[1], alone[2, 3 * n : 3 * n + 3])
        np.testing.assert_array_equal(out.tokens[3], alone[3, 3 * n : 3 * n + 3])
        assert out.counts.tolist() == [3, 3, 0, 3]
        went = np.array([3, 3, 0, 3], np.int32)
        rows = Rows(*rows[:2], rows.read + went, rows.emitted + went, rows.left - went)


def test_stops_as_soon_as_few_rows_go_on(model):
    """Rows end after 1, 2 and 9 tokens: with a floor of 1, two steps; of 2, one."""
    for floor, steps in ((0, 3), (1, 2), (2, 1)):
        held, _ = seat(model, hold(CONFIG, B, 19), {0: 0, 1: 1})
        held, _ = seat(model, held, {2: 2})
        rows = numbers(read=[3, 5, 1, 0], left=[1, 2, 9, 0])
        _, out = step(model, held, rows, floor)
        assert out.counts[2] == steps


def test_growing_keeps_what_rows_have_read(model, alone):
    held, _ = seat(model, hold(CONFIG, B, 8 + W), {0: 0, 1: 1})
    held, out = step(model, held, numbers(read=[3, 5, 0, 0], left=[9, 9, 0, 0]))
    held = grow(held, 40)
    rows = numbers(read=[6, 8, 0, 0], emitted=[3, 3, 0, 0], left=[6, 6, 0, 0])
    held, out = step(model, held, rows)
    np.testing.assert_array_equal(out.tokens[:2], alone[:2, 3:6])
    assert {a.shape[1] for a in jax.tree.leaves(held.cache) if a.ndim > 1} == {40}


def bytes_of(tree):
    return sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(tree))


def test_buffers_are_handed_on(model):
    """What goes in is deleted, and dispatches do not add up to more live arrays."""
    held, _ = seat(model, hold(CONFIG, B, 19), {0: 0, 1: 1})
    alive = []
    for _ in range(3):
        before = jax.tree.leaves((held.cache.layers, held.hidden))
        rows = numbers(read=[3, 5, 0, 0], left=[9, 9, 0, 0])
        held, out = step(model, held, rows)
        held = held._replace(total=add_kept(held.total, out.hidden, out.counts))
        assert all(array.is_deleted() for array in before)
        before = jax.tree.leaves((held.cache.layers, held.total))
        held, _ = seat(model, held, {2: 2})
        assert all(array.is_deleted() for array in before)
        del before
        alive.append(bytes_of(jax.live_arrays()))
    assert alive[0] == alive[1] == alive[2]


def test_one_copy_of_the_cache():
    """The new cache is the old one's memory; a layer more adds no slots to the temporaries."""
    temporaries = []
    for layers in (1, 2):
        config = dataclasses.replace(CONFIG, layers=layers)
        model = nnx.eval_shape(lambda config=config: Decoder(config, rngs=nnx.Rngs(0)))
        held = jax.eval_shape(lambda config=config: hold(config, B, 2000))
        arguments = held.cache, held.hidden, numbers(), jnp.int32(0), KEY
        made = advance.lower(model, *arguments, **HOW).compile().memory_analysis()
        slots = bytes_of(held.cache.layers)
        assert made.alias_size_in_bytes >= slots
        temporaries.append(made.temp_size_in_bytes)
    assert temporaries[1] - temporaries[0] < 0.5 * slots / 2


def test_sums_count_the_tokens_kept():
    hidden = np.random.default_rng(0).normal(size=(B, W, 5)).astype(np.float32)
    kept = np.array([0, 1, 2, 3], np.int32)
    got = add_kept(jnp.ones((B, 5)), hidden, kept)
    want = [1 + hidden[b, :n].astype(np.float64).sum(axis=0) for b, n in enumerate(kept)]
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)
