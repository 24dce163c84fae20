"""Bytes against the module, JAX's own list of residuals, and the compiler's account."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.ad_checkpoint import print_saved_residuals
from jax.sharding import PartitionSpec

from cat import mesh as meshes
from cat import objective, response, step
from cat.config import ArmConfig, ModelConfig, OptimizerConfig
from cat.decode import generate
from cat.flops import parameter_count
from cat.memory import MeshSizes, kept, on_device, serving, training
from cat.models.decoder import Decoder
from cat.types import Batch
from routers.errors import InputError

SIZES = ModelConfig(width=32, layers=3, heads=4, kv_heads=2, head_dim=8, ffn=64, vocab_size=50)
WINDOWS = dataclasses.replace(SIZES, windows=(4, 4, 0))
ROWS, TOKENS, RESPONSE = 4, 16, 6


def abstract(rows, tokens, *steps):
    ids = jax.ShapeDtypeStruct((*steps, rows, tokens), jnp.int32)
    mask = jax.ShapeDtypeStruct((*steps, rows, tokens), jnp.float32)
    return Batch(ids, ids, mask, ids, ids, teacher=None)


def split(config):
    return nnx.split(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0))))


BYTES = {"f32": 4, "i32": 4, "u32": 4, "bf16": 2, "bool": 1}


def printed(config, capsys):
    """What ``jax.ad_checkpoint.print_saved_residuals`` lists, arguments left out."""
    graph, params = split(config)
    ids = jnp.zeros((ROWS, TOKENS), jnp.int32)
    batch = Batch(ids, ids, jnp.ones((ROWS, TOKENS)), ids, ids, teacher=None)

    def loss(params):
        at, model = response.places(batch.mask, RESPONSE), nnx.merge(graph, params)
        near, hidden = response.narrow(batch, at), model.hidden(batch.tokens, ids, ids).hidden
        whole = objective.Whole(jnp.maximum(batch.mask.sum(), 1.0))
        given = (model.unembedding(), response.take(hidden, at), near, None, None, whole)
        return objective.objective(ArmConfig(), *given)[0]

    with jax.set_mesh(meshes.make_mesh(data=1)):
        print_saved_residuals(loss, params)
    total = 0
    for line in capsys.readouterr().out.splitlines():
        kind, shape, source = re.match(r"(\w+)\[([\d,]*)\S* (.*)", line).groups()
        size = BYTES[kind]
        for length in filter(None, shape.split(",")):
            size *= int(length)
        total += 0 if "from the argument" in source else size
    return total


@pytest.mark.parametrize("changes", [{}, dict(norms="both", qk_norm="head", qkv_bias=True)])
def test_activations_are_what_jax_says_it_saves(changes, capsys):
    """Of the whole model at once; ours is traced on one and two layers."""
    config = dataclasses.replace(WINDOWS, **changes)
    assert kept(config, ROWS, TOKENS, RESPONSE) == printed(config, capsys)


def test_parameters_gradients_and_moments():
    """AdamW keeps two numbers a parameter, and two step counters of 4 bytes."""
    count = parameter_count(SIZES)
    full = training(SIZES, MeshSizes(), rows=ROWS, tokens=TOKENS, response_tokens=RESPONSE)
    config = dataclasses.replace(SIZES, dtype="bfloat16")
    half = training(config, MeshSizes(), rows=ROWS, tokens=TOKENS, response_tokens=RESPONSE)
    for found, size in ((full, 4), (half, 2)):
        assert found.parameters == found.gradients == size * count
        assert found.moments == 2 * size * count + 8
        assert found.total == 4 * size * count + 8 + found.activations
    assert half.activations < 0.75 * full.activations  # softmaxes and norms stay float32


def test_a_step_takes_what_the_compiler_says():
    """All that the compiled step holds, arguments and temporaries, within 15 % of ours."""
    config, rows, tokens = dataclasses.replace(SIZES, layers=2, windows=()), 16, 64
    graph, params = split(config)
    optimizer = OptimizerConfig()
    moments = jax.eval_shape(step.make_optimizer(optimizer).init, params)
    state = step.State(params, moments, jax.ShapeDtypeStruct((), jnp.int32))
    batch = abstract(rows, tokens, 2)
    with jax.set_mesh(meshes.make_mesh(data=1)):
        given = dict(key=jax.random.key(0), large=None, large_graph=None, graph=graph, frozen=None)
        given |= dict(optimizer=optimizer, arm=ArmConfig(), response_width=tokens)
        real = step.dispatch.lower(state, batch, **given).compile().memory_analysis()
    batches = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(batch))
    taken = real.argument_size_in_bytes - batches + real.temp_size_in_bytes
    ours = training(config, MeshSizes(), rows=rows, tokens=tokens, response_tokens=tokens)
    assert ours.activations > 4 * ours.parameters, "else the test says little about activations"
    assert 0.85 < ours.total / taken < 1.15, ours.total / taken


def test_generation_takes_what_the_compiler_says():
    """Arguments and temporaries, within 5 %, of a prompt so short that the prefill is nothing.

    Attention transposes one layer's keys and values at a time, which we do not count.
    """
    config = dataclasses.replace(SIZES, layers=2, windows=(4, 0), kv_heads=4, head_dim=16)
    rows, prompt, new = 8, 1, 512
    model = nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0)))
    tokens = jax.ShapeDtypeStruct((rows, prompt), jnp.int32)
    lengths = jax.ShapeDtypeStruct((rows,), jnp.int32)
    with jax.set_mesh(meshes.make_mesh(data=1)):
        run = generate.lower(model, tokens, lengths, max_new=new, eos_id=1, topk=1)
        real = run.compile().memory_analysis()
    ours = serving(config, MeshSizes(), rows=rows, context=prompt + new - 1)
    assert ours.cache > 10 * ours.parameters
    taken = real.argument_size_in_bytes + real.temp_size_in_bytes
    transposed = ours.cache / config.layers
    assert 0.95 < (ours.total + transposed) / taken < 1.05, (ours, taken)


def test_the_cache_in_closed_form():
    """Keys and values of every slot in every layer, windows or not, and two integers a slot."""
    found = serving(WINDOWS, MeshSizes(), rows=6, context=40)
    numbers = 2 * SIZES.layers * SIZES.kv_heads * SIZES.head_dim
    assert found.cache == 6 * 40 * (4 * numbers + 2 * 4) + 4
    assert found.parameters == 4 * parameter_count(SIZES)
    half = serving(dataclasses.replace(SIZES, dtype="bfloat16"), MeshSizes(), rows=6, context=40)
    assert half.cache == 6 * 40 * (2 * numbers + 2 * 4) + 4


def test_rows_parameters_and_caches_are_split():
    sizes = dict(tokens=TOKENS, response_tokens=RESPONSE)
    one = training(SIZES, MeshSizes(), rows=2, **sizes)
    assert training(SIZES, MeshSizes(data=8), rows=16, **sizes) == one
    split = training(SIZES, MeshSizes(data=4, fsdp=2), rows=16, **sizes)
    norms = 4 * SIZES.width * (2 * SIZES.layers + 1)  # vectors are copied
    assert split.parameters == (one.parameters - norms) // 2 + norms
    assert split.moments == 2 * split.parameters + 8
    assert split.activations == one.activations
    alone = serving(SIZES, MeshSizes(), rows=2, context=9)
    halves = serving(SIZES, MeshSizes(tensor=2), rows=2, context=9)
    assert halves.parameters == split.parameters
    numbers = 4 * 2 * SIZES.layers * SIZES.kv_heads * SIZES.head_dim
    assert alone.cache - halves.cache == 2 * 9 * numbers // 2
    odd = dataclasses.replace(SIZES, kv_heads=1)  # one head is copied
    one_head = [serving(odd, MeshSizes(tensor=n), rows=2, context=9).cache for n in (1, 2)]
    assert one_head[0] == one_head[1]


def test_layers_that_are_computed_again_keep_their_input_alone():
    """Of a further layer: [B, T, D] in float32."""
    again = dataclasses.replace(SIZES, remat="layer", attention="plain")
    found = [kept(dataclasses.replace(again, layers=n), ROWS, TOKENS, RESPONSE) for n in (2, 3)]
    assert found[1] - found[0] == 4 * ROWS * TOKENS * SIZES.width
    dots = dataclasses.replace(again, remat="dots")
    some = kept(dots, ROWS, TOKENS, RESPONSE)
    assert found[1] < some < kept(SIZES, ROWS, TOKENS, RESPONSE)


def test_a_real_array_lies_as_the_rule_says(monkeypatch):
    """Another rule in ``cat.mesh`` is followed: bytes of one device's shards, leaf by leaf."""

    def rule(path, shape, sizes=None):
        if len(shape) < 2:
            return PartitionSpec()
        in_ffn = "ffn" in jax.tree_util.keystr(path)
        return PartitionSpec(("data", "fsdp"), "tensor") if in_ffn else PartitionSpec(None, "fsdp")

    monkeypatch.setattr(meshes, "param_spec", rule)
    with jax.set_mesh(meshes.make_mesh(2, 2, 2)):
        params = nnx.state(Decoder(SIZES, rngs=nnx.Rngs(0)), nnx.Param)
        placed = jax.tree.leaves(meshes.shard_params(params))
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in placed)
    sizes = MeshSizes(2, 2, 2)
    assert on_device(lambda config: split(config)[1], SIZES, sizes) == held
    assert held < 4 * parameter_count(SIZES)
    found = training(SIZES, sizes, rows=4, tokens=TOKENS, response_tokens=RESPONSE)
    assert (found.parameters, found.gradients, found.moments) == (held, held, 2 * held + 8)
    assert serving(SIZES, sizes, rows=4, context=9).parameters == held


@pytest.mark.parametrize(
    ("mesh", "changes", "says"),
    [
        (MeshSizes(2, 2), dict(rows=6), "batch of 6 rows does not divide over 4 devices"),
        (MeshSizes(), dict(rows=0), "batch of 0 rows does not divide over 1 devices"),
        (MeshSizes(tensor=0), {}, "tensor=0; give at least 1"),
        (MeshSizes(), dict(tokens=0), "tokens=0; give at least 1"),
        (MeshSizes(), dict(response_tokens=-1), "response_tokens=-1; give at least 1"),
    ],
)
def test_sizes_that_cannot_be(mesh, changes, says):
    with pytest.raises(InputError, match=says) as error:
        training(SIZES, mesh, **{**dict(rows=4, tokens=8, response_tokens=2), **changes})
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="context=0"):
        serving(SIZES, MeshSizes(), rows=4, context=0)
