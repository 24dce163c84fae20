"""The device mesh, and the one rule for where batches and parameters live.

Axes: ``data`` and ``fsdp`` split the rows of a batch, ``tensor`` is kept for splitting inside
a layer. All axes are Explicit: an array's type says how it is sharded, and a mistake is an
error at trace time. Work always happens inside ``jax.set_mesh(mesh)``; a laptop has a mesh of
one device.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from routers.errors import InputError

ROWS = ("data", "fsdp")
"""The mesh axes that split the rows of a batch."""


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1) -> Mesh:
    """A mesh of data x fsdp x tensor devices; one size may be -1: all devices that are left.

    Raises:
        InputError: the sizes ask for more devices than there are, or do not divide them.

    >>> dict(make_mesh(data=1).shape)
    {'data': 1, 'fsdp': 1, 'tensor': 1}
    """
    sizes, devices = [data, fsdp, tensor], jax.device_count()
    fixed = 1
    for size in sizes:
        fixed *= size if size != -1 else 1
    if sizes.count(-1) > 1 or fixed < 1 or (-1 in sizes and devices % fixed) or fixed > devices:
        raise InputError(
            f"mesh (data={data}, fsdp={fsdp}, tensor={tensor}) does not fit {devices} devices; "
            "use positive sizes whose product divides that number, at most one of them -1"
        )
    shape = tuple(devices // fixed if size == -1 else size for size in sizes)
    return jax.make_mesh(shape, ("data", "fsdp", "tensor"))


def row_count() -> int:
    """Into how many parts the current mesh splits the rows of a batch."""
    shape = jax.sharding.get_mesh().shape
    return shape["data"] * shape["fsdp"]


def shard_batch(batch: Any, *, axis: int = 0) -> Any:
    """The same tree of arrays on the current mesh, rows split over ``data`` and ``fsdp``.

    Args:
        batch: any tree of NumPy or JAX arrays whose axis ``axis`` is the batch axis, e.g.
            ``Batch``; with several processes, each passes its own rows.
        axis: 0 for [B, ...], 1 for [steps, B, ...].

    Raises:
        InputError: the rows of this process do not divide over its devices.
    """
    sharding = NamedSharding(jax.sharding.get_mesh(), PartitionSpec(*[None] * axis, ROWS))
    parts = max(1, row_count() // jax.process_count())

    def put(array: Any) -> Any:
        if array.shape[axis] % parts:
            raise InputError(
                f"batch of {array.shape[axis]} rows does not divide over {parts} devices; "
                "use a batch size that is a multiple, or a smaller mesh (data x fsdp)"
            )
        return jax.make_array_from_process_local_data(sharding, array)

    return jax.tree.map(put, batch)


def on_rows(array: jax.Array) -> jax.Array:
    """The array with axis 0 split as rows of the current mesh; as it is without a mesh.

    For use under ``jax.jit``, where arguments may come unsharded.
    """
    no_mesh = jax.sharding.get_abstract_mesh().empty
    return array if no_mesh else jax.reshard(array, PartitionSpec(ROWS))


def reshape(array: jax.Array, *shape: int) -> jax.Array:
    """``array.reshape(shape)`` with axis 0 split as it was.

    JAX's own forgets how an axis of length 1 was split, and a single row then no longer meets
    rows that remember (an error from JAX 0.12 on).
    """
    found = array.reshape(shape)
    wanted = jax.typeof(array).sharding
    if wanted.mesh.empty or jax.typeof(found).sharding.spec[:1] == wanted.spec[:1]:
        return found
    return jax.reshard(found, PartitionSpec(wanted.spec[0]))


def row_zeros(shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Zeros with axis 0 split as rows of the current mesh."""
    no_mesh = jax.sharding.get_abstract_mesh().empty
    return jnp.zeros(shape, dtype, out_sharding=None if no_mesh else PartitionSpec(ROWS))


def param_spec(path: tuple[Any, ...], shape: tuple[int, ...]) -> PartitionSpec:
    """How one parameter is split over the mesh: for now, not at all (a copy per device)."""
    del path, shape
    return PartitionSpec()


def shard_params(params: Any) -> Any:
    """A tree of parameters (or a whole module) laid out on the current mesh by ``param_spec``."""
    mesh = jax.sharding.get_mesh()
    return jax.tree_util.tree_map_with_path(
        lambda path, p: jax.device_put(p, NamedSharding(mesh, param_spec(path, p.shape))), params
    )
