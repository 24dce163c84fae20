"""Meshes of every shape, batches split over them, and errors a person can act on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cat import mesh as meshes
from routers.errors import InputError


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ((-1, 1, 1), (8, 1, 1)),
        ((-1, 2, 2), (2, 2, 2)),
        ((2, -1, 1), (2, 4, 1)),
        ((1, 1, 1), (1, 1, 1)),
    ],
)
def test_sizes(sizes, shape):
    mesh = meshes.make_mesh(*sizes)
    assert mesh.axis_names == ("data", "fsdp", "tensor")
    assert tuple(mesh.shape.values()) == shape
    assert all(t == jax.sharding.AxisType.Explicit for t in mesh.axis_types)


@pytest.mark.parametrize("sizes", [(16, 1, 1), (-1, 3, 1), (-1, -1, 1), (0, 1, 1), (-2, 1, 1)])
def test_sizes_that_do_not_fit(sizes):
    with pytest.raises(InputError, match="does not fit 8 devices") as error:
        meshes.make_mesh(*sizes)
    assert "\n" not in str(error.value)


def test_each_device_holds_its_own_rows():
    batch = {"x": np.arange(16, dtype=np.int32).reshape(8, 2), "y": jnp.arange(8.0), "none": None}
    with jax.set_mesh(meshes.make_mesh(2, 2, 2)):
        assert meshes.row_count() == 4
        got = meshes.shard_batch(batch)
        assert jax.typeof(got["x"]).sharding.spec[0] == ("data", "fsdp")
        assert got["none"] is None
        for shard in got["x"].addressable_shards:
            assert shard.data.shape == (2, 2)
            np.testing.assert_array_equal(shard.data, batch["x"][shard.index])
        np.testing.assert_array_equal(got["y"], batch["y"])


def test_batch_axis_may_come_second():
    with jax.set_mesh(meshes.make_mesh()):
        got = meshes.shard_batch(np.zeros((3, 8, 5), np.float32), axis=1)
        assert jax.typeof(got).sharding.spec == jax.P(None, ("data", "fsdp"), None)
        assert got.addressable_shards[0].data.shape == (3, 1, 5)


def test_rows_that_do_not_divide():
    with (
        jax.set_mesh(meshes.make_mesh()),
        pytest.raises(InputError, match="30 rows does not divide over 8") as error,
    ):
        meshes.shard_batch({"x": np.zeros((30, 2))})
    assert "\n" not in str(error.value)


def test_params_are_copied_to_every_device():
    with jax.set_mesh(meshes.make_mesh()):
        got = meshes.shard_params({"w": jnp.ones((3, 4)), "b": jnp.ones(4)})
    assert all(a.sharding.is_fully_replicated for a in got.values())
    assert all(len(a.sharding.device_set) == 8 for a in got.values())


@pytest.mark.parametrize(("data", "rows"), [(1, 1), (1, 2), (8, 8)])
def test_reshape_keeps_the_split_of_rows_also_of_a_single_one(data, rows):
    values = np.arange(rows * 6, dtype=np.float32).reshape(rows, 6)
    with jax.set_mesh(meshes.make_mesh(data=data)):
        split = jax.jit(lambda x: meshes.reshape(x, rows, 2, 3))(meshes.shard_batch(values))
        assert jax.typeof(split).sharding.spec[0] == meshes.ROWS
        np.testing.assert_array_equal(split, values.reshape(rows, 2, 3))
    plain = meshes.reshape(jnp.asarray(values), rows, 2, 3)
    np.testing.assert_array_equal(plain, values.reshape(rows, 2, 3))
