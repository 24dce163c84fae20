"""Adapters: nothing at first, all that is trained, and the same function once merged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cat.config import LoraConfig
from cat.lora import adapt, merged, split
from cat.mesh import make_mesh, shard_batch, shard_params
from cat.models.config import ModelConfig
from cat.models.decoder import Decoder

SIZE = ModelConfig(width=16, layers=1, heads=2, kv_heads=1, head_dim=6, ffn=24, vocab_size=11)
LORA = LoraConfig(rank=2, alpha=3.0)


@pytest.fixture(autouse=True, params=[(1, 1, 1), (8, 1, 1), (2, 2, 2)], ids=str)
def mesh(request):
    with jax.set_mesh(make_mesh(*request.param)):
        yield


def batch():
    tokens = np.random.default_rng(0).integers(0, 11, (8, 5)).astype(np.int32)
    places = np.broadcast_to(np.arange(5, dtype=np.int32), tokens.shape)
    return shard_batch((tokens, places, np.ones_like(tokens)))


def base():
    return shard_params(Decoder(SIZE, rngs=nnx.Rngs(0)))


def random_like(adapters):
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: jnp.asarray(
            rng.normal(size=leaf.shape), leaf.dtype, out_sharding=leaf.sharding
        ),
        adapters,
    )


def test_adapters_start_as_nothing_and_are_the_only_thing_trained():
    model = base()
    graph, adapters, frozen = split(adapt(model, LORA, seed=3))
    rows = batch()
    adapted = jax.jit(lambda a, f: nnx.merge(graph, a, f).hidden(*rows).hidden)
    plain = jax.jit(lambda m: m.hidden(*rows).hidden)(model)
    np.testing.assert_allclose(adapted(adapters, frozen), plain, rtol=0, atol=2e-6)
    # 7 products a layer: q, k, v, o, gate, up, down; two factors each
    assert len(jax.tree.leaves(adapters)) == 14
    grads = jax.jit(jax.grad(lambda a: adapted(a, frozen).sum()))(adapters)
    out = grads["layers"][0]["attention"]["out"]
    assert float(jnp.abs(out["kernel_lora_b"].get_value()).max()) > 0
    assert float(jnp.abs(out["kernel_lora_a"].get_value()).max()) == 0  # B is zero


def test_merged_is_the_adapted_function_and_the_sum_by_hand():
    model = base()
    graph, adapters, frozen = split(adapt(model, LORA, seed=3))
    adapters = random_like(adapters)
    before = jax.tree.map(np.asarray, nnx.state(model))
    alone = merged(model, adapters, LORA)
    rows = batch()
    adapted = jax.jit(lambda a, f: nnx.merge(graph, a, f).hidden(*rows).hidden)
    expected = adapted(adapters, frozen)
    assert not np.allclose(expected, model.hidden(*batch()).hidden, atol=1e-2)
    np.testing.assert_allclose(alone.hidden(*batch()).hidden, expected, rtol=0, atol=2e-5)
    out = adapters["layers"][0]["attention"]["out"]
    a, b = (np.asarray(out[f"kernel_lora_{k}"].get_value(), np.float64) for k in "ab")
    by_hand = np.asarray(before["layers"][0]["attention"]["out"]["kernel"], np.float64)
    by_hand = by_hand + 1.5 * sum(a[..., r, None] * b[r] for r in range(2))
    got = nnx.state(alone)["layers"][0]["attention"]["out"]["kernel"]
    np.testing.assert_allclose(got.get_value(), by_hand, rtol=0, atol=1e-6)
    for old, now in zip(*map(jax.tree.leaves, (before, nnx.state(model))), strict=True):
        np.testing.assert_array_equal(old, now)  # the frozen model is left alone


def test_only_the_named_modules():
    adapters = split(adapt(base(), LoraConfig(rank=1, modules="ffn"), seed=0))[1]
    assert set(adapters["layers"][0]) == {"ffn"}
