"""How a run begins: new parameters lie in parts, and no second copy of the state stays alive."""

import dataclasses
import gc

import jax
import numpy as np
import pytest
from flax import nnx
from kill_driver import MODEL, OPTIMIZER, rows

from cat import step, train
from cat.config import ArmConfig, ModelConfig
from cat.mesh import make_mesh, param_spec
from cat.models.decoder import Decoder

WIDE = ModelConfig(width=32, layers=1, heads=4, kv_heads=2, head_dim=8, ffn=64, vocab_size=256)
MESHES = [{"data": 1}, {"data": 8}, {"data": 1, "fsdp": 8}, {"data": 2, "fsdp": 2, "tensor": 2}]


@pytest.mark.parametrize("sizes", MESHES)
def test_new_parameters_are_the_same_numbers_on_every_mesh(sizes):
    alone = jax.tree.leaves(nnx.state(Decoder(WIDE, rngs=nnx.Rngs(jax.random.key(7)))))
    with jax.set_mesh(make_mesh(**sizes)):
        found = step.fresh(WIDE, 7)
    assert jax.tree.structure(found) == jax.tree.structure(step.fresh_shapes(WIDE))
    for a, b in zip(jax.tree.leaves(found), alone, strict=True):
        # One rounding of the largest number: what is compiled together differs by the mesh.
        np.testing.assert_allclose(a, b, atol=1.2e-7 * np.abs(b).max(), rtol=0)


def test_new_parameters_lie_where_the_mesh_wants_them():
    mesh = make_mesh(data=1, fsdp=4, tensor=2)
    with jax.set_mesh(mesh):
        for path, leaf in jax.tree_util.tree_flatten_with_path(step.fresh(WIDE, 0))[0]:
            wanted = jax.NamedSharding(mesh, param_spec(path, leaf.shape))
            assert leaf.sharding.is_equivalent_to(wanted, leaf.ndim)
            assert leaf.ndim < 2 or leaf.addressable_shards[0].data.size == leaf.size // 8


def test_shapes_are_those_of_what_start_makes():
    with jax.set_mesh(make_mesh(data=1)):
        params = step.fresh(MODEL, 0)
        begun = step.start(params, OPTIMIZER)
        for like in (params, step.fresh_shapes(MODEL)):
            shapes = step.shapes(like, OPTIMIZER)
            assert jax.tree.structure(shapes) == jax.tree.structure(begun)
            for a, b in zip(jax.tree.leaves(shapes), jax.tree.leaves(begun), strict=True):
                assert (a.shape, a.dtype) == (b.shape, b.dtype)


def tables() -> int:
    """Arrays alive that are as large as the model's embedding."""
    gc.collect()  # what other tests left in cycles is not ours to count
    size = (MODEL.vocab_size, MODEL.width)
    return sum(array.shape == size for array in jax.live_arrays())


def test_training_holds_its_state_once_also_a_resumed_run(tmp_path, monkeypatch):
    """Parameters and AdamW's two moments: three, whether drawn or read."""
    optimizer = dataclasses.replace(
        OPTIMIZER, steps=40, validate_every=0, select="last", checkpoint_every=1000
    )
    before, alive = tables(), []

    def stop(count, note):
        if note != "resumed":
            alive.append(tables() - before)
            if len(alive) in (2, 4):
                raise KeyboardInterrupt

    def begin():
        return train.train(MODEL, optimizer, ArmConfig(), rows(16, 0), folder=tmp_path,
                           progress=stop)  # fmt: skip

    with jax.set_mesh(make_mesh(data=1)):
        with pytest.raises(KeyboardInterrupt):
            begin()
        for unneeded in ("start", "fresh"):
            monkeypatch.setattr(train, unneeded, lambda *_: pytest.fail("made, although read"))
        with pytest.raises(KeyboardInterrupt):
            begin()
    assert alive == [3] * 4
