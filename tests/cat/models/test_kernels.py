"""Library kernels against the plain formula, as far as a machine without GPU and TPU can tell.

Splash attention runs interpreted and is lowered for a TPU. cuDNN's call is answered by JAX's own
implementation of the same function, so what is tested is what we ask for, not cuDNN.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cat import mesh as meshes
from cat.models import kernels
from cat.models.config import ModelConfig, check_model
from cat.models.plain import Places, attend, visible
from routers.errors import InputError

RNG = np.random.default_rng(5)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def same_tokens(positions, segments):
    positions, segments = np.asarray(positions, np.int32), np.asarray(segments, np.int32)
    return Places(positions, segments, positions, segments)


def plain(*arrays, places, window=0, **settings):
    arrays, places = jax.tree.map(jnp.asarray, (arrays, places))
    return attend(*arrays, visible(places, window), **settings)


def both_ways(path, arrays, cotangent):
    out, back = jax.vjp(path, *arrays)
    return out, *back(cotangent)


def compare(path, places, window, kv_heads, wrong=(), **settings):
    """Output and gradients of rows that a kernel can serve; NaN and 0 for the rows in ``wrong``."""
    B, T = places.q_positions.shape
    arrays = normal(B, T, 4, 8), normal(B, T, kv_heads, 8), normal(B, T, kv_heads, 8)

    @jax.jit
    def run(places, *arrays):
        each = (
            functools.partial(f, places=Places(*places), window=window, **settings)
            for f in (path, plain)
        )
        return tuple(both_ways(f, arrays[:-1], arrays[-1]) for f in each)

    got, expected = run(places, *arrays, normal(*arrays[0].shape))
    good = [row for row in range(B) if row not in wrong]
    for x, y in zip(got, expected, strict=True):
        np.testing.assert_allclose(x[np.array(good)], y[np.array(good)], rtol=0, atol=2e-5)
    for row in wrong:
        assert np.isnan(got[0][row]).all()


AT = np.arange(140)
PACKED = np.searchsorted([50, 51, 130], AT, side="right") + 1  # four texts, one of one token
STARTS = np.array([0, 0, 50, 51, 130])
ROWS = same_tokens(
    [AT - STARTS[PACKED], np.maximum(AT - 9, 0), AT, AT // 2],
    [np.where(AT < 137, PACKED, 0), AT >= 9, AT < 100, AT >= 0],
)  # packed, left pads, right pads, and one whose positions do not go up by one


@pytest.mark.parametrize(
    ("kv_heads", "window", "softcap"), [(4, 0, 0.0), (2, 20, 1.5)], ids=["mha", "gqa capped window"]
)
def test_splash_equals_the_plain_path_or_is_nan(kv_heads, window, softcap):
    path = functools.partial(kernels.splash, interpret=True)
    compare(path, ROWS, window, kv_heads, wrong=[3], scale=0.4, softcap=softcap)


def test_splash_on_a_mesh_equals_one_device():
    places = same_tokens([AT[:20]] * 4, [AT[:20] < n for n in (20, 7, 3, 0)])
    arrays = normal(4, 20, 2, 8), normal(4, 20, 1, 8), normal(4, 20, 1, 8)
    expected = plain(*arrays, places=places, scale=0.4)
    with jax.set_mesh(meshes.make_mesh(data=2, fsdp=2)):
        run = jax.jit(functools.partial(kernels.splash, scale=0.4, interpret=True))
        got = run(*meshes.shard_batch(arrays), meshes.shard_batch(places))
        assert jax.typeof(got).sharding.spec[0] == ("data", "fsdp")
        np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5)


def test_splash_lowers_for_a_tpu():
    """Forward, dq and dk-dv kernels, at a length that fills no block."""
    path = functools.partial(kernels._splash, scale=1.0, window=9, softcap=2.0, interpret=False)
    x, segments = jnp.zeros((2, 300, 4, 64)), jnp.ones((2, 300), jnp.int32)
    run = jax.jit(lambda x: jax.vjp(lambda *a: path(*a, segments), x, x, x)[1](x))
    text = run.trace(x).lower(lowering_platforms=("tpu",)).as_text()
    assert text.count("tpu_custom_call") == 3


@pytest.fixture
def gpu(monkeypatch):
    """A stand-in for the GPU: the same function of JAX, computed by its own implementation."""
    library = jax.nn.dot_product_attention

    def answer(*arrays, implementation, **settings):
        assert implementation == "cudnn"
        return library(*arrays, implementation="xla", **settings)

    monkeypatch.setattr(jax.nn, "dot_product_attention", answer)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")


@pytest.mark.parametrize(("kv_heads", "window"), [(4, 0), (2, 3)])
def test_cudnn_is_asked_for_the_plain_path_or_gives_nan(gpu, kv_heads, window):
    at = np.arange(9)
    places = same_tokens(
        [at, at, at, at % 5, np.maximum(at - 2, 0)],
        [at >= 0, 4 * (at < 6), at < 0, 1 + at // 5, at >= 2],
    )  # whole, right pads, pads alone; packed and left pads are not for cuDNN
    compare(kernels.cudnn, places, window, kv_heads, wrong=[3, 4], scale=0.4)


def test_cudnn_runs_on_each_devices_rows(gpu):
    places = same_tokens([AT[:6]] * 4, [AT[:6] < n for n in (6, 4, 1, 0)])
    arrays = normal(4, 6, 2, 8), normal(4, 6, 1, 8), normal(4, 6, 1, 8)
    expected = plain(*arrays, places=places, scale=0.4)
    with jax.set_mesh(meshes.make_mesh(data=2, fsdp=2)):
        run = jax.jit(functools.partial(kernels.cudnn, scale=0.4))
        got = run(*meshes.shard_batch(arrays), meshes.shard_batch(places))
        np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("window", [0, 2])
def test_in_order_means_that_columns_stand_for_positions(window):
    """Over all rows of four columns with segments 0 .. 2 and positions 0 .. 2."""
    digits = np.indices((3,) * 8).reshape(8, -1).T
    places = same_tokens(digits[:, :4], digits[:, 4:])
    column = np.arange(4)
    distance = column[:, None] - column
    near = (distance >= 0) & (distance < (window or 9))
    segments = places.q_segments
    by_column = (segments[:, :, None] == segments[:, None]) & (segments[:, :, None] > 0) & near
    fine = np.asarray(kernels.in_order(Places(*map(jnp.asarray, places))))
    rule = np.asarray(visible(Places(*map(jnp.asarray, places)), window))
    assert 50 < fine.sum() < len(fine) / 2
    np.testing.assert_array_equal(by_column[fine], rule[fine])


def test_a_cache_is_not_in_order():
    at, ones = jnp.arange(4)[None], jnp.ones((1, 4), jnp.int32)
    whole = Places(at, ones, at, ones)
    assert kernels.in_order(whole).tolist() == [True]
    assert kernels.in_order(whole._replace(k_segments=ones.at[0, 3].set(0))).tolist() == [False]
    assert kernels.in_order(whole._replace(k_positions=at[:, ::-1])).tolist() == [False]
    assert kernels.in_order(Places(at[:, 3:], ones[:, 3:], at, ones)).tolist() == [False]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (kernels.splash, "attention=splash needs a TPU and this process runs on cpu; use auto"),
        (kernels.cudnn, "attention=cudnn needs an NVIDIA GPU and this process runs on cpu; use"),
    ],
)
def test_a_kernel_without_its_device_is_refused(path, message):
    x, at = jnp.zeros((1, 2, 1, 8)), jnp.zeros((1, 2), jnp.int32)
    with pytest.raises(InputError, match=message):
        path(x, x, x, Places(at, at, at, at), scale=1.0)


CUDNN = ModelConfig(attention="cudnn", dtype="bfloat16")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(attention_softcap=50.0), r"small.attention=cudnn has no soft-cap"),
        (dict(dtype="float32"), r"small.attention=cudnn computes in bfloat16, not small.dtype=f"),
        (dict(head_dim=12), r"heads of 8, 16 .. 256, not small.head_dim=12; use auto or blockw"),
        (dict(head_dim=264), r"not small.head_dim=264"),
    ],
)
def test_what_cudnn_cannot_compute_is_refused_with_the_model(changes, message):
    check_model("small", CUDNN)
    with pytest.raises(InputError, match=message):
        check_model("small", dataclasses.replace(CUDNN, **changes))
    check_model("small", dataclasses.replace(CUDNN, attention="auto", **changes))
