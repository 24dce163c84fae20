"""Where parameters, moments and gradients lie, what a step sends, and what remat and bf16 keep."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import spmd_worker as worker
from flax import nnx
from jax.sharding import PartitionSpec as P

from cat import mesh as meshes
from cat import step
from cat.config import ARMS, ModelConfig, OptimizerConfig
from cat.decode import generate_all
from cat.models import huggingface
from cat.models.decoder import Decoder
from cat.quantize import int8

SIZE = ModelConfig(width=32, layers=1, heads=4, kv_heads=2, head_dim=8, ffn=64, vocab_size=64)
OPTIMIZER = OptimizerConfig(steps=4, batch_size=8)
GROUPS = {"fsdp": 2, "tensor": 2}


@pytest.mark.parametrize(
    ("name", "shape", "sizes", "spec"),
    [
        ("layers.0.attention.query.kernel", (32, 4, 8), GROUPS, P("fsdp", "tensor", None)),
        ("layers.0.attention.key.kernel", (32, 1, 8), GROUPS, P("fsdp", None, None)),
        ("layers.0.attention.out.kernel", (4, 8, 32), GROUPS, P("tensor", None, "fsdp")),
        ("layers.0.ffn.gate.kernel", (32, 64), GROUPS, P("fsdp", "tensor")),
        ("layers.0.ffn.gate.kernel", (32, 64), {"fsdp": 8}, P(None, "fsdp")),
        ("layers.0.ffn.down.kernel", (64, 32), GROUPS, P("tensor", "fsdp")),
        ("embed.embedding", (64, 32), GROUPS, P("tensor", "fsdp")),
        ("embed.embedding", (61, 32), GROUPS, P(None, "fsdp")),
        ("head.kernel", (32, 64), GROUPS, P("fsdp", "tensor")),
        ("head.kernel", (33, 61), GROUPS, P(None, None)),
        ("1.mu.layers.0.ffn.down.kernel", (64, 32), GROUPS, P("tensor", "fsdp")),
        ("layers.0.attention.query.bias", (4, 8), GROUPS, P()),
        ("layers.0.attention.query.kernel_lora_a", (32, 4), GROUPS, P()),
        ("norm.scale", (32,), GROUPS, P()),
        ("layers.0.ffn.down.kernel", (64, 32), {"data": 8, "fsdp": 1, "tensor": 1}, P(None, None)),
    ],
)
def test_the_rule(name, shape, sizes, spec):
    path = tuple(map(jax.tree_util.DictKey, name.split(".")))
    assert meshes.param_spec(path, shape, sizes) == spec


def test_what_stays_whole_is_named_once_for_all_layers():
    odd = dataclasses.replace(SIZE, kv_heads=1, vocab_size=61)
    params = nnx.state(nnx.eval_shape(lambda: Decoder(odd, rngs=nnx.Rngs(0))))
    assert meshes.whole(params, {"data": 4, "fsdp": 2, "tensor": 2}) == [
        "embed.embedding [61, 32] is not split over tensor=2",
        "layers.*.attention.key.kernel [32, 1, 8] is not split over tensor=2",
        "layers.*.attention.value.kernel [32, 1, 8] is not split over tensor=2",
    ]
    assert meshes.whole(params, {"data": 8, "fsdp": 1, "tensor": 1}) == []


def compiled(config, mesh):
    """(bytes of one device's share of the batches, the compiled step)."""
    with jax.set_mesh(meshes.make_mesh(*mesh)):
        state = step.start(step.fresh(config, 0), OPTIMIZER)
        text = worker.batch()._replace(teacher=None, before=None)
        batch = meshes.shard_batch(text, axis=1)
        lowered = step.dispatch.lower(
            state,
            batch,
            key=jax.random.key(0),
            large=None,
            large_graph=None,
            graph=step.skeleton(config),
            frozen=None,
            optimizer=OPTIMIZER,
            arm=ARMS["xent"],
            response_width=worker.T - 1,
        )
        rows = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(batch))
        return rows, lowered.compile()


def sent(program, kind):
    """Numbers in each result of a kind of collective."""
    results = re.findall(rf"= (.*?) {kind}(?:-start)?\(", program.as_text())
    shapes = [re.findall(r"\w+\[([\d,]*)\]", result) for result in results]
    return [int(np.prod([int(n) for n in s.split(",") if n])) for found in shapes for s in found]


def test_fsdp_gathers_parameters_scatters_gradients_and_keeps_an_eighth():
    (rows, copies), (own_rows, split) = compiled(SIZE, (8, 1, 1)), compiled(SIZE, (1, 8, 1))
    matrix = SIZE.width * SIZE.ffn
    assert sent(split, "all-gather").count(matrix) >= 3 * SIZE.layers
    assert sent(split, "reduce-scatter") + sent(split, "all-reduce")
    assert max([0, *sent(split, "all-to-all")]) < matrix
    assert not sent(copies, "all-gather")
    held = split.memory_analysis().argument_size_in_bytes - own_rows
    whole = copies.memory_analysis().argument_size_in_bytes - rows
    assert 1 / 8 <= held / whole < 1.1 / 8, held / whole


def test_moments_lie_like_their_parameters():
    with jax.set_mesh(meshes.make_mesh(2, 2, 2)):
        state = step.start(step.fresh(SIZE, 0), OPTIMIZER)
    adam = state.opt_state[1][0]
    # of the type, where P() and P(None) are one
    lie = lambda tree: jax.tree.map(lambda leaf: jax.typeof(leaf).sharding.spec, tree)  # noqa: E731
    assert lie(adam.mu) == lie(adam.nu) == lie(state.params)
    down = state.params["layers"][0]["ffn"]["down"]["kernel"].get_value()
    assert down.addressable_shards[0].data.shape == (32, 16)


def test_a_checkpoint_is_loaded_into_its_layout(tmp_path):
    config = dataclasses.replace(SIZE, tied_embeddings=False)
    with jax.set_mesh(meshes.make_mesh(data=1)):
        model = Decoder(config, rngs=nnx.Rngs(0))
        huggingface.save(model, tmp_path / "model")
    with jax.set_mesh(meshes.make_mesh(2, 2, 2)):
        loaded = nnx.state(huggingface.load(tmp_path / "model"))
        wanted = meshes.shard_params(nnx.state(model))
    for got, want in zip(jax.tree.leaves(loaded), jax.tree.leaves(wanted), strict=True):
        assert got.sharding == want.sharding
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("turned", [lambda model: model, int8], ids=["float32", "int8"])
def test_generation_with_split_heads_and_vocabulary(turned):
    """Tokens and their statistics, from a cache split over heads."""

    def run(mesh):
        with jax.set_mesh(meshes.make_mesh(*mesh)):
            model = turned(meshes.shard_params(Decoder(SIZE, rngs=nnx.Rngs(0))))
            kind = dict(max_new=3, eos_id=2, topk=2, batch_size=8)
            return generate_all(model, [[1, 5], [7, 9, 4]] * 4, **kind)

    alone, split = run((1, 1, 1)), run((2, 2, 2))
    np.testing.assert_array_equal(split.tokens, alone.tokens)
    for got, want in zip(split.statistics, alone.statistics, strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-5)


@pytest.mark.parametrize("remat", ["layer", "dots"])
def test_computed_again_the_numbers_are_the_same(remat):
    plain = worker.trajectory("xent", (1, 1, 1))
    again = worker.trajectory("xent", (1, 1, 1), remat=remat)
    for name in plain:
        np.testing.assert_allclose(again[name], plain[name], rtol=0, atol=1e-6, err_msg=name)


def test_what_is_computed_again():
    """Products in the program handed to XLA: each matrix of a layer once more, or none.

    XLA on a CPU finds that they are the same and undoes it, so its memory says nothing here; the
    bytes kept for the backward pass are those of tests/cat/test_memory.py.
    """
    rows = jax.ShapeDtypeStruct((8, 16), jnp.int32)

    def products(remat):
        config = dataclasses.replace(SIZE, remat=remat)
        graph, params = nnx.split(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0))))

        def loss(params, rows):
            return nnx.merge(graph, params).hidden(rows, rows, rows).hidden.sum()

        with jax.set_mesh(meshes.make_mesh(data=1)):
            text = jax.jit(jax.grad(loss)).lower(params, rows).as_text()
        return text.count("stablehlo.dot_general"), text.count("optimization_barrier")

    none, dots, layer = (products(remat) for remat in ("none", "dots", "layer"))
    in_attention = 2 * SIZE.layers  # q k and weights v: they have batch axes, and are not saved
    assert dots[0] == none[0] + in_attention
    assert layer[0] > dots[0] + 5 * SIZE.layers
    assert min(dots[1], layer[1]) > none[1]


def test_bfloat16_products_leave_the_weights_in_float32():
    with jax.set_mesh(meshes.make_mesh(2, 2, 2)):
        config = dataclasses.replace(worker.SIZE, dtype="bfloat16")
        state = step.start(step.fresh(config, 0), worker.OPTIMIZER)
        floats = {leaf.dtype for leaf in jax.tree.leaves(state) if leaf.ndim}
        assert floats == {np.dtype("float32")}
    half = worker.trajectory("xent", (2, 2, 2), dtype="bfloat16")
    full = worker.trajectory("xent", (1, 1, 1))
    assert all(value.dtype == np.float32 for value in half.values())
    np.testing.assert_allclose(half["loss"], full["loss"], rtol=0.02)
    assert np.abs(half["loss"] - full["loss"]).max() > 0
