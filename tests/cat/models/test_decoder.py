"""The decoder against a NumPy forward pass, and the properties every family must keep."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference import forward, tiny

from cat import mesh as meshes
from cat.models.decoder import Decoder
from routers.errors import InputError


@pytest.fixture(autouse=True)
def one_device():
    with jax.set_mesh(meshes.make_mesh(data=1)):
        yield


def rows(tokens):
    """tokens, positions, segments of unpadded rows."""
    tokens = np.atleast_2d(np.asarray(tokens, np.int32))
    positions = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
    return jnp.asarray(tokens), jnp.asarray(positions), jnp.ones(tokens.shape, jnp.int32)


@jax.jit
def logits(model, tokens, positions, segments):
    return model.unembed(model.hidden(tokens, positions, segments).hidden)


def noisy(config, seed=0):
    """A model with no norm scale left at 1, so that a forgotten scale is seen."""
    model = Decoder(config, rngs=nnx.Rngs(seed))
    rng = np.random.default_rng(seed)
    for path, param in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        if path[-1] in ("scale", "bias"):
            param.set_value(jnp.asarray(rng.uniform(0.5, 1.5, param.shape), jnp.float32))
    return model


TOKENS = np.random.default_rng(0).integers(0, 13, (3, 9))


@pytest.mark.parametrize(
    ("kv_heads", "tied"),
    [(4, True), (2, True), (2, False), (1, False)],
    ids=["mha-tied", "gqa-tied", "gqa-untied", "mqa-untied"],
)
def test_equals_numpy_position_by_position(kv_heads, tied):
    model = noisy(tiny(kv_heads=kv_heads, tied_embeddings=tied, rope_base=100.0))
    got = jax.jit(lambda m, *a: m.hidden(*a).hidden)(model, *rows(TOKENS))
    for row, tokens in enumerate(TOKENS):
        hidden, expected = forward(model, tokens)
        np.testing.assert_allclose(got[row], hidden, rtol=0, atol=2e-5)
        np.testing.assert_allclose(model.unembed(got)[row], expected, rtol=0, atol=2e-5)


SWITCHES = {
    "bias": dict(qkv_bias=True),
    "head norm": dict(qk_norm="head"),
    "projection norm, norms after": dict(qk_norm="projection", norms="after"),
    "norms on both sides, stored less 1": dict(norms="both", norm_plus_one=True),
    "gelu, scaled embedding": dict(activation="gelu_tanh", scaled_embedding=True),
    "soft-caps and scale": dict(attention_softcap=0.7, logit_softcap=0.5, attention_scale=0.9),
    "windows, two bases": dict(windows=(3, 0), rope_local_base=20.0),
}


@pytest.mark.parametrize("switch", SWITCHES)
def test_every_switch_equals_numpy_and_changes_something(switch):
    config = tiny(rope_base=100.0, **SWITCHES[switch])
    model = noisy(config)
    got = logits(model, *rows(TOKENS))
    plain = Decoder(tiny(rope_base=100.0), rngs=nnx.Rngs(0))
    assert np.abs(got - logits(plain, *rows(TOKENS))).max() > 1e-3
    for row, tokens in enumerate(TOKENS):
        np.testing.assert_allclose(got[row], forward(model, tokens)[1], rtol=0, atol=2e-5)


def test_bfloat16_products_stay_close_and_logits_are_float32():
    model = noisy(tiny())
    half = nnx.merge(nnx.graphdef(noisy(tiny(dtype="bfloat16"))), nnx.state(model))
    got = logits(half, *rows(TOKENS))
    assert got.dtype == jnp.float32
    exact = logits(model, *rows(TOKENS))
    assert 0 < np.abs(got - exact).max() < 0.1 * np.abs(exact).max()


def test_jit_equals_no_jit():
    model = Decoder(tiny(layers=1), rngs=nnx.Rngs(0))
    tokens, positions, segments = rows(TOKENS[:1, :4])
    eager = model.unembed(model.hidden(tokens, positions, segments).hidden)
    np.testing.assert_allclose(logits(model, tokens, positions, segments), eager, atol=2e-6)


def test_trains_as_a_plain_tree_under_grad_and_scan():
    """The plain-tree uses the trainer makes of a model: split, grad, scan."""
    graph, params = nnx.split(Decoder(tiny(layers=1), rngs=nnx.Rngs(0)))
    batch = rows(TOKENS[:1])

    def loss(params):
        return -jax.nn.log_softmax(logits(nnx.merge(graph, params), *batch))[..., 3].mean()

    def step(params, _):
        value, grads = jax.value_and_grad(loss)(params)
        return jax.tree.map(lambda p, g: p - 0.5 * g, params, grads), value

    _, losses = jax.jit(lambda p: jax.lax.scan(step, p, length=5))(params)
    assert (np.diff(losses) < 0).all(), losses


def test_causal_by_gradient():
    """Logits at t do not move with the embeddings of later tokens: the gradient is exactly 0."""
    model = Decoder(tiny(vocab_size=9), rngs=nnx.Rngs(1))
    tokens, positions, segments = rows(np.arange(9))  # each position has its own embedding row

    def out_at(model, t):
        return jnp.sum(model.hidden(tokens, positions, segments).hidden[0, t])

    jacobian = jax.jit(jax.vmap(jax.grad(out_at), in_axes=(None, 0)))
    size = np.abs(jacobian(model, jnp.arange(9)).embed.embedding[...]).sum(-1)  # [t, source]
    assert (size[np.triu_indices(9, 1)] == 0).all()
    assert (size[np.tril_indices(9)] > 1e-6).all()


def test_packed_equals_unpacked():
    model = Decoder(tiny(layers=1), rngs=nnx.Rngs(2))
    lengths = (2, 4, 1)
    parts = [TOKENS[i, :n] for i, n in enumerate(lengths)]
    packed = np.concatenate([*parts, [0, 0]])[None]
    positions = np.concatenate([np.arange(n) for n in (*lengths, 2)])[None]
    segments = np.repeat([1, 2, 3, 0], (*lengths, 2))[None]
    got = logits(model, *(jnp.asarray(a, jnp.int32) for a in (packed, positions, segments)))
    assert np.isfinite(got).all(), "pads too must be finite, or gradients turn NaN"
    start = 0
    for part in parts:
        expected = forward(model, part)[1]
        np.testing.assert_allclose(got[0, start : start + len(part)], expected, rtol=0, atol=2e-5)
        start += len(part)


@jax.jit
def total_gradient(model, *args):
    return jax.grad(lambda m: logits(m, *args).sum())(model)


@pytest.mark.parametrize("side", ["left", "right"])
def test_pads_change_nothing_and_their_gradient_is_finite(side):
    model = Decoder(tiny(layers=1), rngs=nnx.Rngs(3))
    pad = (3, 0) if side == "left" else (0, 3)
    real = np.pad(np.ones(5, np.int32), pad)
    tokens = jnp.asarray(np.pad(TOKENS[0, :5], pad)[None], jnp.int32)
    positions = jnp.asarray(np.pad(np.arange(5), pad)[None], jnp.int32)
    args = (tokens, positions, jnp.asarray(real[None]))
    got = logits(model, *args)[0][real == 1]
    np.testing.assert_allclose(got, forward(model, TOKENS[0, :5])[1], rtol=0, atol=2e-5)
    grads = total_gradient(model, *args)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_gradient_of_tied_embedding_matches_finite_differences():
    """Both uses of the table, look-up and unembedding, must reach its gradient."""
    model = Decoder(tiny(layers=1), rngs=nnx.Rngs(4))
    args = rows(TOKENS[:1, :6])
    direction = jax.random.normal(jax.random.key(0), (13, 16))

    @jax.jit
    def loss(model):
        return jax.nn.log_softmax(logits(model, *args))[..., 2].sum()

    def moved(step):
        def move(path, p):
            return p + step * direction if ".embed" in jax.tree_util.keystr(path) else p

        return loss(jax.tree_util.tree_map_with_path(move, model))

    slope = jnp.vdot(jax.grad(loss)(model).embed.embedding[...], direction)
    h = 3e-3  # five-point rule: error h^4, so float32 rounding stays the smaller part
    near, far = moved(h) - moved(-h), moved(2 * h) - moved(-2 * h)
    np.testing.assert_allclose(slope, (8 * near - far) / (12 * h), rtol=0, atol=2e-3)
    assert abs(slope) > 0.1


def test_eight_devices_equal_one():
    model = Decoder(tiny(), rngs=nnx.Rngs(5))
    batch = tuple(np.asarray(a) for a in rows(np.tile(TOKENS[:2], (4, 1))))
    one = np.asarray(logits(model, *batch))
    with jax.set_mesh(meshes.make_mesh(4, 2)):
        sharded = logits(meshes.shard_params(model), *meshes.shard_batch(batch))
        spec = jax.typeof(sharded).sharding.spec
        assert spec[0] == ("data", "fsdp"), spec
        assert len(sharded.sharding.device_set) == 8
        np.testing.assert_allclose(sharded, one, rtol=0, atol=1e-5)


def test_a_large_config_has_shapes_without_memory():
    config = tiny(width=16384, layers=8, heads=128, kv_heads=8, head_dim=128, ffn=65536)
    model = jax.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0)))
    leaves = jax.tree.leaves(model)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)
    assert sum(leaf.size for leaf in leaves) > 2e10


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"vocab_size": 0}, "model.vocab_size=0; set it to the tokenizer's"),
        ({"heads": 4, "kv_heads": 3}, "model.kv_heads=3 does not divide model.heads=4"),
        ({"head_dim": 5}, "model.head_dim=5; must be even"),
        ({"ffn": 0}, "model.ffn=0; must be >= 1"),
    ],
)
def test_shapes_that_do_not_fit_are_one_clear_line(changes, says):
    with pytest.raises(InputError, match=says) as error:
        Decoder(tiny(**changes), rngs=nnx.Rngs(0))
    assert "\n" not in str(error.value)
