"""A model split over fsdp and tensor is the model on one device: forward, gradient, cache."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cat.mesh import make_mesh, shard_batch, shard_params, to_host
from cat.models.cache import empty_cache
from cat.models.config import ModelConfig
from cat.models.decoder import Decoder

SIZE = ModelConfig(width=8, layers=1, heads=4, kv_heads=2, head_dim=4, ffn=12, vocab_size=10)
FAMILIES = {
    "one key/value head, norm per head": dict(kv_heads=1, qkv_bias=True, qk_norm="head"),
    "norm over heads, windows, both norms": dict(
        qk_norm="projection", layers=2, windows=(3, 0), norms="both"
    ),
    "caps, untied": dict(attention_softcap=5.0, logit_softcap=3.0, tied_embeddings=False),
    "blockwise, one key/value head": dict(attention="blockwise", kv_heads=1, attention_softcap=5.0),
    "odd sizes": dict(width=7, heads=3, kv_heads=3, ffn=9, vocab_size=11, tied_embeddings=False),
    "remat": dict(remat="layer", attention="blockwise"),
}
rng = np.random.default_rng(0)
TOKENS = rng.integers(0, 10, (8, 6)).astype(np.int32)
PLACES = np.broadcast_to(np.arange(6, dtype=np.int32), TOKENS.shape)
SEGMENTS = (rng.integers(3, 7, (8, 1)) > PLACES).astype(np.int32)
WEIGHTS = rng.normal(size=(8, 6, 11)).astype(np.float32)


def found(config, mesh):
    """Logits, and the gradient of a weighted sum of them, by name; how parameters lie."""
    with jax.set_mesh(make_mesh(*mesh)):
        graph, params = nnx.split(shard_params(Decoder(config, rngs=nnx.Rngs(3))))
        batch = shard_batch((TOKENS, PLACES, SEGMENTS, WEIGHTS[..., : config.vocab_size]))

        @jax.jit
        def both(params, tokens, positions, segments, weights):
            def total(params):
                model = nnx.merge(graph, params)
                logits = model.unembed(model.hidden(tokens, positions, segments).hidden)
                real = (segments > 0)[..., None]
                return jnp.sum(jnp.where(real, logits * weights, 0.0)), logits

            return jax.value_and_grad(total, has_aux=True)(params)

        (_, logits), grads = both(params, *batch)
        assert jax.tree.map(jax.typeof, grads) == jax.tree.map(jax.typeof, params)
        flat = jax.tree_util.tree_leaves_with_path(grads)
        named = {jax.tree_util.keystr(path): to_host(leaf) for path, leaf in flat}
        return to_host(logits), named


@pytest.mark.parametrize("family", FAMILIES)
def test_split_eight_ways_equals_one_device(family):
    config = dataclasses.replace(SIZE, **FAMILIES[family])
    logits, grads = found(dataclasses.replace(config, remat="none"), (1, 1, 1))
    for mesh in [(2, 2, 2), (1, 2, 4)][: 1 + family.startswith("one")]:
        split_logits, split_grads = found(config, mesh)
        real = SEGMENTS > 0
        np.testing.assert_allclose(split_logits[real], logits[real], rtol=0, atol=5e-6)
        for name in grads:
            largest = np.abs(grads[name]).max()
            np.testing.assert_allclose(
                split_grads[name], grads[name], rtol=0, atol=5e-6 * largest, err_msg=name
            )


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_a_cache_split_over_heads_tells_the_same_token_by_token(kv_heads):
    config = dataclasses.replace(SIZE, kv_heads=kv_heads)

    def run(mesh):
        with jax.set_mesh(make_mesh(*mesh)):
            graph, params = nnx.split(shard_params(Decoder(config, rngs=nnx.Rngs(3))))
            step = jax.jit(lambda p, *given: nnx.merge(graph, p).hidden(*given))
            cache, parts = empty_cache(config, 8, 6), []
            for t in range(0, 6, 2):
                columns = shard_batch([x[:, t : t + 2] for x in (TOKENS, PLACES, SEGMENTS)])
                hidden, cache = step(params, *columns, cache)
                parts.append(to_host(hidden))
            return np.concatenate(parts, 1), cache.layers[0].k

    alone, _ = run((1, 1, 1))
    split, k = run((2, 2, 2))
    real = SEGMENTS > 0
    np.testing.assert_allclose(split[real], alone[real], rtol=0, atol=5e-6)
    heads = kv_heads // 2 if kv_heads > 1 else 1
    assert k.addressable_shards[0].data.shape == (2, 6, heads, 4)
