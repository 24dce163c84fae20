"""Attention, rotary positions and the cache against loops and complex numbers."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference import tiny, turn

from cat import mesh as meshes
from cat.models.attention import Places, attend, path_of, visible
from cat.models.cache import Cache, empty_cache
from cat.models.config import RopeScaling
from cat.models.decoder import Decoder
from cat.models.positions import inverse_frequencies, rotate
from routers.errors import InputError

RNG = np.random.default_rng(7)


@pytest.fixture(autouse=True)
def one_device():
    with jax.set_mesh(meshes.make_mesh(data=1)):
        yield


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


@pytest.mark.parametrize("window", [0, 1, 2])
def test_visible_equals_its_sentence(window):
    q_pos, k_pos = RNG.integers(0, 4, (2, 5)), RNG.integers(0, 4, (2, 7))
    q_seg, k_seg = RNG.integers(0, 3, (2, 5)), RNG.integers(0, 3, (2, 7))
    got = np.asarray(visible(Places(*map(jnp.asarray, (q_pos, q_seg, k_pos, k_seg))), window))
    for b, t, s in np.ndindex(2, 5, 7):
        same = q_seg[b, t] == k_seg[b, s] and q_seg[b, t] > 0
        distance = q_pos[b, t] - k_pos[b, s]
        assert got[b, t, s] == (same and 0 <= distance < (window or 99))


@pytest.mark.parametrize(
    ("kv_heads", "scale", "softcap"), [(4, 6**-0.5, 0.0), (2, 0.3, 0.0), (1, 2.0, 1.5)]
)
def test_attend_equals_a_loop_and_jax(kv_heads, scale, softcap):
    q, k, v = normal(2, 3, 4, 6), normal(2, 5, kv_heads, 6), normal(2, 5, kv_heads, 6)
    mask = RNG.random((2, 3, 5)) < 0.6
    mask[:, :, 0] = True
    mask = jnp.asarray(mask)
    run = jax.jit(functools.partial(attend, scale=scale, softcap=softcap))
    got = np.asarray(run(q, k, v, mask))
    q64, k64, v64 = (np.asarray(a, np.float64) for a in (q, k, v))
    for b, t, h in np.ndindex(2, 3, 4):
        g = h // (4 // kv_heads)
        seen = [s for s in range(5) if mask[b, t, s]]
        scores = np.array([scale * np.dot(q64[b, t, h], k64[b, s, g]) for s in seen])
        p = np.exp(softcap * np.tanh(scores / softcap) if softcap else scores)
        expected = sum(w * v64[b, s, g] for w, s in zip(p / p.sum(), seen, strict=True))
        np.testing.assert_allclose(got[b, t, h], expected, rtol=0, atol=2e-6)
    if not softcap:
        library = jax.nn.dot_product_attention(q, k, v, mask=mask[:, None], scale=scale)
        np.testing.assert_allclose(got, library, rtol=0, atol=2e-6)


def test_a_query_that_sees_nothing_gives_zero_and_a_zero_gradient():
    q, k, v = normal(1, 2, 2, 4), normal(1, 3, 2, 4), normal(1, 3, 2, 4)
    mask = jnp.array([[[False, False, False], [True, True, False]]])
    out, back = jax.vjp(lambda q, k, v: attend(q, k, v, mask, scale=0.5)[:, 0], q, k, v)
    assert (out == 0).all()
    assert all((g == 0).all() for g in back(jnp.ones_like(out)))


def test_unseen_keys_do_not_count_even_when_huge():
    q, k, v = normal(1, 1, 1, 4), normal(1, 2, 1, 4), normal(1, 2, 1, 4)
    mask = jnp.array([[[True, False]]])
    k, v = k.at[0, 1].set(1e4), v.at[0, 1].set(1e30)
    np.testing.assert_allclose(attend(q, k, v, mask, scale=0.5)[0, 0], v[0, 0], rtol=1e-6)


def test_rotate_equals_complex_multiplication():
    x, positions = normal(2, 3, 2, 6), jnp.asarray(RNG.integers(0, 500, (2, 3)))
    got = np.asarray(rotate(x, positions, inverse_frequencies(6, 1000.0)))
    for b, t, h in np.ndindex(2, 3, 2):
        expected = turn(np.asarray(x[b, t, h], np.float64), int(positions[b, t]), 1000.0)
        np.testing.assert_allclose(got[b, t, h], expected, rtol=0, atol=1e-4)


def test_rotate_equals_transformers_formula():
    """x cos + rotate_half(x) sin with cos and sin repeated, as Llama checkpoints expect."""
    x, positions = normal(1, 4, 2, 8), jnp.arange(4)[None]
    frequencies = 1.0 / 10_000.0 ** (np.arange(0, 8, 2) / 8)
    angle = np.concatenate([np.outer(np.arange(4), frequencies)] * 2, axis=-1)[None, :, None]
    half = np.concatenate([-x[..., 4:], x[..., :4]], axis=-1)
    expected = x * np.cos(angle) + half * np.sin(angle)
    np.testing.assert_allclose(
        rotate(x, positions, inverse_frequencies(8, 10_000.0)), expected, rtol=0, atol=1e-6
    )


def test_linear_scaling_is_a_slower_walk():
    x, positions = normal(1, 4, 2, 8), jnp.arange(4)[None]
    slow = inverse_frequencies(8, 100.0, RopeScaling("linear", factor=2.0))
    twice = rotate(x, 2 * positions, slow)
    plain = rotate(x, positions, inverse_frequencies(8, 100.0))
    np.testing.assert_allclose(twice, plain, rtol=0, atol=1e-6)


def test_llama3_scaling_equals_its_cases_in_wavelengths():
    """The published rule, by wavelength and one frequency at a time."""
    factor, low, high, length = 8.0, 1.0, 4.0, 64
    scaling = RopeScaling("llama3", factor, low, high, length)
    got = np.asarray(inverse_frequencies(32, 10_000.0, scaling))
    kinds = set()
    for i, value in enumerate(got):
        plain = 10_000.0 ** (-2 * i / 32)
        wavelength = 2 * math.pi / plain
        if wavelength < length / high:
            expected, kind = plain, "kept"
        elif wavelength > length / low:
            expected, kind = plain / factor, "stretched"
        else:
            smooth = (length / wavelength - low) / (high - low)
            expected, kind = (1 - smooth) * plain / factor + smooth * plain, "between"
        kinds.add(kind)
        np.testing.assert_allclose(value, expected, rtol=2e-6)
    assert kinds == {"kept", "between", "stretched"}


def test_rotations_add_and_scores_depend_on_distance_only():
    q, k = normal(1, 1, 1, 8), normal(1, 1, 1, 8)

    def at(x, p):
        return rotate(x, jnp.full((1, 1), p, jnp.int32), inverse_frequencies(8, 100.0))

    np.testing.assert_allclose(at(at(q, 5), 9), at(q, 14), rtol=0, atol=2e-6)
    near, far = jnp.vdot(at(q, 7), at(k, 3)), jnp.vdot(at(q, 107), at(k, 103))
    np.testing.assert_allclose(near, far, rtol=0, atol=1e-4)


TOKENS = RNG.integers(1, 13, (3, 10)).astype(np.int32)
LENGTHS = (10, 7, 4)


def padded(side):
    """Rows of 10, 7 and 4 tokens: tokens, positions, segments."""
    tokens, positions, segments = (np.zeros((3, 10), np.int32) for _ in range(3))
    for row, n in enumerate(LENGTHS):
        place = slice(10 - n, 10) if side == "left" else slice(0, n)
        tokens[row, place] = TOKENS[row, :n]
        positions[row, place] = np.arange(n)
        segments[row, place] = 1
    return tokens, positions, segments


@jax.jit
def whole(model, tokens, positions, segments):
    return model.hidden(tokens, positions, segments).hidden


def in_pieces(model, batch, cuts, slots):
    """Hidden states when the columns come in pieces through the cache."""
    tokens, positions, segments = (jnp.asarray(a) for a in batch)
    cache, parts = empty_cache(model.config, len(tokens), slots), []
    for start, stop in itertools.pairwise(cuts):
        piece = (a[:, start:stop] for a in (tokens, positions, segments))
        out = model.hidden(*piece, cache)
        cache = out.cache
        parts.append(out.hidden)
    return jnp.concatenate(parts, axis=1), cache


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("cuts", [(0, 10), (0, 6, 7, 8, 9, 10), (0, 1, 4, 10)])
def test_cache_equals_no_cache_for_any_split(side, cuts):
    model = Decoder(tiny(layers=1), rngs=nnx.Rngs(0))
    batch = padded(side)
    run = jax.jit(in_pieces, static_argnums=(2, 3))
    got, cache = run(model, batch, cuts, 12)
    real = batch[2] == 1
    expected = whole(model, *batch)
    np.testing.assert_allclose(np.asarray(got)[real], np.asarray(expected)[real], rtol=0, atol=1e-5)
    assert cache.next_slot == 10
    np.testing.assert_array_equal(cache.segments, np.pad(batch[2], ((0, 0), (0, 2))))


def test_a_rejected_slot_is_as_if_never_written():
    model = Decoder(tiny(layers=1), rngs=nnx.Rngs(1))
    tokens, positions, segments = padded("right")
    tokens, positions, segments = tokens[:1], positions[:1], segments[:1]

    @jax.jit
    def with_rejection(model):
        cache = empty_cache(model.config, 1, 9)
        args = [jnp.asarray(a) for a in (tokens, positions, segments)]
        cache = model.hidden(*(a[:, :5] for a in args), cache).cache
        assert isinstance(cache, Cache)
        cache = cache._replace(segments=cache.segments.at[:, 3:5].set(0))  # drop tokens 3 and 4
        other = jnp.array([[9, 2]], jnp.int32)
        return model.hidden(other, args[1][:, 3:5], args[2][:, 3:5], cache).hidden

    plain = np.concatenate([tokens[:, :3], [[9, 2]]], axis=1)
    expected = whole(model, plain, positions[:, :5], segments[:, :5])[:, 3:]
    np.testing.assert_allclose(with_rejection(model), expected, rtol=0, atol=1e-5)


def test_cache_keeps_the_sharding_of_its_rows():
    with jax.set_mesh(meshes.make_mesh()):
        model = meshes.shard_params(Decoder(tiny(layers=1), rngs=nnx.Rngs(0)))
        batch = tuple(np.tile(a[:2], (4, 1)) for a in padded("left"))
        sharded = meshes.shard_batch(batch)
        run = jax.jit(in_pieces, static_argnums=(2, 3))
        got, cache = run(model, sharded, (0, 7, 10), 10)
        for array in (got, cache.layers[0].k, cache.segments):
            assert jax.typeof(array).sharding.spec[0] == ("data", "fsdp")
        expected = whole(model, *sharded)
        real = batch[2] == 1
        np.testing.assert_allclose(
            np.asarray(got)[real], np.asarray(expected)[real], rtol=0, atol=1e-5
        )


def test_the_path_is_the_one_asked_for_and_auto_goes_by_size():
    assert path_of("auto", 512, 512, cached=False) == "plain"
    assert path_of("auto", 512, 513, cached=False) == "blockwise"
    assert path_of("auto", 1, 8192, cached=True) == "plain"
    for cached in (False, True):
        assert path_of("blockwise", 2, 2, cached=cached) == "blockwise"
        assert path_of("plain", 8192, 8192, cached=cached) == "plain"
    for kernel in ("cudnn", "splash"):
        assert path_of(kernel, 2, 2, cached=False) == kernel
        assert path_of(kernel, 2, 2, cached=True) == "plain"
        assert path_of(kernel, 8192, 8192, cached=True) == "blockwise"


def test_the_decoder_takes_the_path_of_its_configuration():
    sizes = dict(layers=1, windows=(4,), attention_softcap=0.7)
    batch, expected, loops = padded("left"), None, []
    for attention in ("plain", "blockwise"):
        model = Decoder(tiny(attention=attention, **sizes), rngs=nnx.Rngs(0))
        traced = whole.trace(model, *batch)
        loops.append("while" in str(traced.jaxpr))
        got = np.asarray(traced.lower().compile()(model, *batch))[batch[2] == 1]
        expected = got if expected is None else expected
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)
    assert loops == [False, True]


def test_a_cached_call_needs_no_kernel_and_any_other_is_refused():
    model = Decoder(tiny(layers=1, attention="splash"), rngs=nnx.Rngs(0))
    batch = tuple(map(jnp.asarray, padded("right")))
    assert model.hidden(*batch, empty_cache(model.config, 3, 12)).hidden.shape == (3, 10, 16)
    with pytest.raises(InputError, match="attention=splash needs a TPU"):
        model.hidden(*batch)
