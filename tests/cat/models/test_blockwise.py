"""Attention in blocks against the plain formula: values, gradients, memory, meshes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend.core import ClosedJaxpr, Jaxpr
from reference import tiny

from cat import mesh as meshes
from cat.models import blockwise as module
from cat.models.blockwise import blockwise
from cat.models.decoder import Decoder
from cat.models.plain import Places, attend, visible

RNG = np.random.default_rng(3)
BLOCK = 4
TEXT = np.arange(11)


@pytest.fixture(autouse=True)
def one_device():
    with jax.set_mesh(meshes.make_mesh(data=1)):
        yield


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def qkv(rows, queries, keys, heads=4, kv_heads=2, size=6):
    shapes = (queries, heads), (keys, kv_heads), (keys, kv_heads)
    return tuple(normal(rows, *shape, size) for shape in shapes)


def pair(positions, segments, queries=None):
    """Places of one batch of rows; with ``queries``, only those columns ask."""
    ask = slice(None) if queries is None else queries
    positions, segments = np.asarray(positions, np.int32), np.asarray(segments, np.int32)
    arrays = positions[:, ask], segments[:, ask], positions, segments
    return Places(*map(np.ascontiguousarray, arrays))


def random_places(rows, queries, keys):
    """Any positions and segments at all, in no order."""
    shapes = (rows, queries), (rows, queries), (rows, keys), (rows, keys)
    return Places(
        *(
            RNG.integers(0, high, s).astype(np.int32)
            for high, s in zip((9, 3) * 2, shapes, strict=True)
        )
    )


WHOLE = pair([TEXT, TEXT], np.ones((2, 11)))
LEFT = pair([np.maximum(TEXT - 3, 0), TEXT], [TEXT >= 3, TEXT >= 0])
RIGHT = pair([TEXT, TEXT], [TEXT < 5, TEXT < 9])
PACKED = pair(
    [[0, 1, 2, 3, 4, 0, 1, 0, 1, 2, 0], [0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9]],
    [[1, 1, 1, 1, 1, 2, 2, 3, 3, 3, 0], [1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2]],
)
ONE = pair([TEXT, TEXT], [TEXT != 4, TEXT < 9], slice(8, 9))  # a rejected slot, empty slots
PIECE = pair([TEXT, TEXT], [TEXT < 9, TEXT < 8], slice(3, 9))
SETTINGS = {
    "mha": (4, dict(scale=0.4)),
    "gqa, window": (2, dict(scale=0.7, window=3)),
    "mqa, window, soft-cap": (1, dict(scale=0.7, window=6, softcap=1.5)),
}
PLACES = {
    "whole": WHOLE,
    "packed": PACKED,
    "left pads": LEFT,
    "right pads": RIGHT,
    "decode one": ONE,
    "decode a piece": PIECE,
    "anything": random_places(2, 8, 12),  # whole blocks, and no order
}


STATIC = ("scale", "window", "softcap")


@functools.partial(jax.jit, static_argnames=STATIC)
def in_blocks(q, k, v, places, **settings):
    return blockwise(q, k, v, Places(*places), block=BLOCK, **settings)


@functools.partial(jax.jit, static_argnames=STATIC)
def plain(q, k, v, places, window=0, **settings):
    return attend(q, k, v, visible(Places(*places), window), **settings)


@functools.partial(jax.jit, static_argnames=("path", *STATIC))
def both_ways(path, arrays, places, cotangent, **settings):
    """The output and the gradients of q, k and v."""
    out, back = jax.vjp(lambda *a: path(*a, places, **settings), *arrays)
    return out, *back(cotangent)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("place", PLACES)
def test_values_and_gradients_equal_the_plain_path(setting, place):
    (kv_heads, settings), places = SETTINGS[setting], PLACES[place]
    (rows, queries), keys = places.q_positions.shape, places.k_positions.shape[1]
    arrays = qkv(rows, queries, keys, 4, kv_heads)
    cotangent = normal(*arrays[0].shape)
    got = both_ways(in_blocks, arrays, places, cotangent, **settings)
    expected = both_ways(plain, arrays, places, cotangent, **settings)
    assert max(np.abs(x).max() for x in expected) > 0.1
    for x, y in zip(got, expected, strict=True):
        assert x.dtype == jnp.float32
        np.testing.assert_allclose(x, y, rtol=0, atol=2e-5)


def test_a_query_that_sees_nothing_gives_zero_and_a_zero_gradient():
    pads = pair([TEXT, TEXT], [TEXT * 0, TEXT < 6])  # a row of pads, and a row's last block
    q, k, v = qkv(2, 11, 11)
    k[0] = 1e30
    out, *gradients = both_ways(in_blocks, (q, k, v), pads, np.ones_like(q), scale=1.0)
    assert (out[1, :6] != 0).all()
    for x in (out, *gradients):
        assert (x[0] == 0).all()
        assert (x[1, 6:] == 0).all()


def test_unseen_keys_do_not_count_even_when_huge():
    """Only the last query sees the last key, and its output is not asked about."""
    q, k, v = qkv(2, 11, 11)
    cotangent = normal(*q.shape)
    cotangent[:, 10] = 0
    expected = both_ways(plain, (q, k, v), WHOLE, cotangent, scale=1.0)
    k[:, 10], v[:, 10] = 1e20, 1e30
    got = both_ways(in_blocks, (q, k, v), WHOLE, cotangent, scale=1.0)
    for x, y in zip(got, expected, strict=True):
        np.testing.assert_allclose(x[:, :10], y[:, :10], rtol=0, atol=2e-5)
    for x in got[1:]:
        assert (x[:, 10] == 0).all()


def test_large_scores_do_not_overflow():
    q, k, v = qkv(2, 11, 11)
    q *= 100
    got, expected = (path(q, k, v, WHOLE, scale=1.0) for path in (in_blocks, plain))
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-4)  # scores to 1e3 in float32


@functools.partial(jax.jit, static_argnums=(1, 2))
def reach(places, size, window):
    return module._reach(Places(*(module._split(x, min(size, x.shape[1])) for x in places)), window)


@pytest.mark.parametrize("window", [0, 2])
@pytest.mark.parametrize("kind", ["packed", "left pads", "decode a piece", "anything"])
def test_the_range_of_key_blocks_holds_every_visible_pair(kind, window):
    places = PLACES[kind]
    first, end = map(np.asarray, reach(places, BLOCK, window))
    seen = np.asarray(visible(Places(*map(jnp.asarray, places)), window)).any(0)
    assert seen.any()
    for t, s in zip(*np.nonzero(seen), strict=True):
        assert first[t // BLOCK] <= s // BLOCK < end[t // BLOCK]


def test_blocks_that_nobody_sees_are_not_visited():
    at, ones = np.arange(32)[None], np.ones((1, 32))
    ranges = {
        "causal": (pair(at, ones), 0, [(0, 1), (0, 2), (0, 3), (0, 4)]),
        "window": (pair(at, ones), 8, [(0, 1), (0, 2), (1, 3), (2, 4)]),
        "packed": (pair(at % 16, 1 + at // 16), 0, [(0, 1), (0, 2), (2, 3), (2, 4)]),
        "pads": (pair(at, at < 10), 0, [(0, 1), (0, 2), (0, 0), (0, 0)]),
        "decode": (pair(at, at < 20, slice(19, 20)), 0, [(0, 3)]),
    }
    for name, (places, window, expected) in ranges.items():
        first, end = reach(places, 8, window)
        assert list(zip(first.tolist(), end.tolist(), strict=True)) == expected, name


def test_rows_split_over_a_mesh_inside_scan_and_grad():
    """Eight devices, a scan over two steps: the same numbers as one device, split the same way."""
    places, arrays = Places(*(np.tile(x, (4, 1)) for x in PACKED)), qkv(8, 11, 11)

    def loss(path, places, q, k, v):
        def step(x, _):
            return x + path(x, k, v, places, scale=0.5, window=6), None

        return jnp.sum(jax.lax.scan(step, q, None, length=2)[0] ** 2)

    one = jax.jit(jax.grad(functools.partial(loss, plain), (1, 2, 3)))(places, *arrays)
    with jax.set_mesh(meshes.make_mesh(data=4, fsdp=2)):
        run = jax.jit(jax.grad(functools.partial(loss, in_blocks), (1, 2, 3)))
        many = run(*meshes.shard_batch((places, *arrays)))
        for got, expected in zip(many, one, strict=True):
            assert jax.typeof(got).sharding.spec[0] == ("data", "fsdp")
            scale = np.abs(expected).max()
            np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5 * scale)


def test_bfloat16_is_as_close_to_the_truth_as_the_plain_path():
    low = tuple(x.astype(jnp.bfloat16) for x in qkv(2, 11, 11))
    truth = plain(*(x.astype(np.float32) for x in low), PACKED, scale=0.4)
    paths = [path(*low, PACKED, scale=0.4) for path in (in_blocks, plain)]
    assert all(x.dtype == jnp.bfloat16 for x in paths)
    error, allowed = (np.abs(np.asarray(x, np.float32) - truth).max() for x in paths)
    assert 0 < error <= 1.5 * allowed


T = 8192


def arrays_within(jaxpr):
    """Every array of a program, those inside loops and branches included."""
    for equation in jaxpr.eqns:
        for variable in equation.outvars:
            yield variable.aval
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=is_program):
            if is_program(inner):
                yield from arrays_within(inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner)


def is_program(x):
    return isinstance(x, ClosedJaxpr | Jaxpr)


def training_gradient(attention):
    """value_and_grad of a one-layer decoder with a window and a soft-cap, and its arguments."""
    config = tiny(layers=1, attention=attention, windows=(4096,), attention_softcap=5.0)
    model = nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0)))
    graph, params = nnx.split(model)

    def loss(params, tokens, positions):
        model = nnx.merge(graph, params)
        hidden = model.hidden(tokens, positions, jnp.ones_like(tokens)).hidden
        return jnp.mean(model.unembed(hidden) ** 2)

    row = jax.ShapeDtypeStruct((1, T), jnp.int32)
    return jax.jit(jax.value_and_grad(loss)), (params, row, row)


def largest(traced):
    """Numbers in the largest array of a traced program."""
    return max(x.size for x in arrays_within(traced.jaxpr.jaxpr))


def test_training_at_8192_tokens_holds_no_array_of_tokens_squared():
    run, arguments = training_gradient("auto")
    traced = run.trace(*arguments)
    assert largest(traced) <= T * T / 64
    memory = traced.lower().compile().memory_analysis()
    assert memory.temp_size_in_bytes < 64 * 2**20  # one [T, T] float32 array is 256 MiB


def test_the_walk_sees_the_plain_path_hold_one_for_each_head():
    run, arguments = training_gradient("plain")
    assert largest(run.trace(*arguments)) == 4 * T * T
