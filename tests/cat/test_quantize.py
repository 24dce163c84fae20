"""Eight-bit weights: what is rounded, by how much, and that generation runs on them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cat.decode import forced_all, generate_all
from cat.mesh import make_mesh, shard_batch, shard_params
from cat.models.config import ModelConfig
from cat.models.decoder import Decoder
from cat.quantize import int8

SIZE = ModelConfig(width=32, layers=1, heads=2, kv_heads=1, head_dim=16, ffn=64, vocab_size=11)


@pytest.fixture(autouse=True)
def mesh():
    with jax.set_mesh(make_mesh(data=1)):
        yield


def named(model) -> dict[str, np.ndarray]:
    flat = nnx.to_flat_state(nnx.state(model))
    return {".".join(map(str, path)): np.asarray(param.get_value()) for path, param in flat}


def test_each_weight_is_rounded_to_the_nearest_of_its_channels_steps():
    model = shard_params(Decoder(SIZE, rngs=nnx.Rngs(0)))
    before, after = named(model), named(int8(model))
    kernels = [name for name in before if name.endswith(".kernel")]
    assert len(kernels) == 7
    for name in kernels:
        whole, scale = after[f"{name}.array.qvalue"], after[f"{name}.array.scale"]
        outputs = before[name].reshape(-1, scale.size)  # one scale per output channel
        steps = scale.reshape(-1).astype(np.float64)
        assert whole.dtype == np.int8
        np.testing.assert_allclose(steps, np.abs(outputs).max(axis=0) / 127.5, rtol=1e-6)
        errors = np.abs(whole.reshape(outputs.shape) * steps - outputs)
        slack = 1 + 256 * np.finfo(np.float32).eps  # of float32 division by the step, in halves
        assert (errors <= 0.5 * steps * slack).all()
    untouched = before.keys() - set(kernels)
    for name in untouched:
        np.testing.assert_array_equal(after[name], before[name])


def test_equals_a_model_with_those_weights():
    model = shard_params(Decoder(SIZE, rngs=nnx.Rngs(0)))
    rounded = int8(model)
    values = named(rounded)
    state = nnx.state(model)
    plain = shard_params(Decoder(SIZE, rngs=nnx.Rngs(1)))
    for path, param in nnx.to_flat_state(state):
        name = ".".join(map(str, path))
        if name.endswith(".kernel"):
            value = values[f"{name}.array.qvalue"] * values[f"{name}.array.scale"]
            param.set_value(jnp.asarray(value, jnp.float32))
    nnx.update(plain, state)
    tokens = np.random.default_rng(0).integers(0, 11, (2, 6)).astype(np.int32)
    places = np.broadcast_to(np.arange(6, dtype=np.int32), tokens.shape)
    batch = shard_batch((tokens, places, np.ones_like(tokens)))
    got = rounded.hidden(*batch).hidden
    np.testing.assert_allclose(got, plain.hidden(*batch).hidden, rtol=0, atol=2e-5)


def test_layers_take_a_quarter_of_the_bytes_and_generation_runs():
    model = shard_params(Decoder(SIZE, rngs=nnx.Rngs(0)))
    small = int8(model)

    def layer_bytes(of) -> int:
        return sum(leaf.nbytes for leaf in jax.tree.leaves(nnx.state(of)["layers"]))

    assert layer_bytes(small) < 0.3 * layer_bytes(model)
    kind = dict(topk=2, batch_size=2)
    own = generate_all(small, [[1, 5], [7]], max_new=4, eos_id=2, **kind)
    replies = [row[:n].tolist() for row, n in zip(own.tokens, own.lengths, strict=True)]
    given = forced_all(small, [[1, 5], [7]], replies, **kind)
    for row, n in enumerate(own.lengths):
        told = own.statistics.logprob[row, :n]
        np.testing.assert_allclose(told, given.statistics.logprob[row, :n], rtol=0, atol=1e-5)
