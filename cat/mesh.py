"""The device mesh, and the one rule for where batches and parameters live.

Axes: ``data`` and ``fsdp`` split the rows of a batch; ``fsdp`` also splits parameters, their
gradients and moments, and a layer gathers its own when it runs; ``tensor`` splits what a layer
computes: heads, feed-forward width, vocabulary. All axes are Explicit: an array's type says how
it is sharded, and a mistake is an error at trace time. Work always happens inside
``jax.set_mesh(mesh)``; a laptop has a mesh of one device.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

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


def own_mesh() -> Mesh:
    """A mesh of this process's devices alone, all along ``data``: work that others do not share."""
    found = np.array(jax.local_devices()).reshape(-1, 1, 1)
    return Mesh(found, ("data", "fsdp", "tensor"), axis_types=(AxisType.Explicit,) * 3)


def row_count() -> int:
    """Into how many parts the current mesh splits the rows of a batch; 1 without a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else mesh.shape["data"] * mesh.shape["fsdp"]


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
    mesh = jax.sharding.get_mesh()
    here = sum(device.process_index == jax.process_index() for device in mesh.devices.flat)
    parts = max(1, row_count() * here // mesh.devices.size)

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
    wanted, got = jax.typeof(array).sharding, jax.typeof(found).sharding
    if wanted.mesh.empty or got.spec[:1] == wanted.spec[:1]:
        return found
    return jax.reshard(found, PartitionSpec(wanted.spec[0], *got.spec[1:]))


def row_zeros(shape: tuple[int, ...], dtype: Any, *, heads: int | None = None) -> jax.Array:
    """Zeros with axis 0 split as rows of the current mesh, and axis ``heads`` as heads are."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return jnp.zeros(shape, dtype)
    split = heads is not None and _divides(mesh.shape, "tensor", shape[heads])
    between = [None] * (heads - 1) if heads is not None else []
    spec = PartitionSpec(ROWS, *between, "tensor") if split else PartitionSpec(ROWS)
    return jnp.zeros(shape, dtype, out_sharding=spec)


def gathered(array: jax.Array, axis: str = "fsdp") -> jax.Array:
    """The array whole along one mesh axis: each device has the parts of the others there.

    Products gather parameters from ``fsdp``; along ``tensor`` they stay split.
    """
    sharding = jax.typeof(array).sharding
    if sharding.mesh.empty or axis not in sharding.spec:
        return array
    return jax.reshard(array, PartitionSpec(*[None if a == axis else a for a in sharding.spec]))


TENSOR_AXIS = {
    **dict(query=1, key=1, value=1, out=0),  # heads
    **dict(gate=1, up=1, down=0),  # feed-forward width
    **dict(embed=0, head=1),  # vocabulary
}
"""The axis of a module's matrix that ``tensor`` splits."""


def param_spec(
    path: tuple[Any, ...], shape: tuple[int, ...], sizes: Mapping[str, int] | None = None
) -> PartitionSpec:
    """How one parameter is split over the mesh; what is kept per parameter lies like it.

    ``tensor`` splits heads, the feed-forward width and the vocabulary; ``fsdp`` splits the longest
    axis that is left. A length that does not divide stays whole on that axis (``whole`` says
    which). Vectors, biases and low-rank adapters are small: every device has a copy.

    Args:
        path: of the leaf; may lie inside another tree, such as an optimiser's state.
        shape: the whole parameter's.
        sizes: devices by mesh axis; None = the current mesh.

    Source: the columns-then-rows split of Megatron-LM (1909.08053), section 3, and ZeRO stage 3
    (1910.02054), section 5.3; that fsdp takes the longest axis is our choice.

    >>> keys = tuple(map(jax.tree_util.DictKey, ("layers", 0, "ffn", "down", "kernel")))
    >>> tuple(param_spec(keys, (192, 64), {"fsdp": 2, "tensor": 4}))
    ('tensor', 'fsdp')
    """
    sizes = dict(jax.sharding.get_abstract_mesh().shape) if sizes is None else sizes
    names = jax.tree_util.keystr(path, simple=True, separator=".").split(".")
    if len(shape) < 2 or "bias" in names or any("_lora_" in name for name in names):
        return PartitionSpec()
    axes: list[str | None] = [None] * len(shape)
    wide = next((TENSOR_AXIS[name] for name in names if name in TENSOR_AXIS), None)
    if wide is not None and _divides(sizes, "tensor", shape[wide]):
        axes[wide] = "tensor"
    free = [i for i, axis in enumerate(axes) if not axis and _divides(sizes, "fsdp", shape[i])]
    if free:
        axes[max(free, key=lambda i: shape[i])] = "fsdp"
    return PartitionSpec(*axes)


def _divides(sizes: Mapping[str, int], axis: str, length: int) -> bool:
    """Whether a mesh axis of several devices splits that length evenly."""
    parts = sizes.get(axis, 1)
    return parts > 1 and length % parts == 0


def whole(params: Any, sizes: Mapping[str, int] | None = None) -> list[str]:
    """Matrices that a mesh axis of several devices leaves whole, one line for all layers alike.

    >>> table = {"embed": {"embedding": jax.ShapeDtypeStruct((11, 4), "float32")}}
    >>> whole(table, {"fsdp": 2, "tensor": 2})
    ['embed.embedding [11, 4] is not split over tensor=2']
    """
    sizes = dict(jax.sharding.get_abstract_mesh().shape) if sizes is None else sizes
    found: dict[str, None] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")
        names = name.split(".")
        asked = [a for a in ("fsdp", "tensor") if sizes.get(a, 1) > 1 and leaf.ndim > 1]
        asked = [a for a in asked if a == "fsdp" or not TENSOR_AXIS.keys().isdisjoint(names)]
        for axis in asked:
            if axis not in param_spec(path, leaf.shape, sizes) and "bias" not in names:
                alike = ".".join("*" if part.isdigit() else part for part in names)
                found[f"{alike} {list(leaf.shape)} is not split over {axis}={sizes[axis]}"] = None
    return list(found)


def to_host(array: jax.Array) -> np.ndarray:
    """The whole array on this host, also where other hosts hold parts of it (all must call)."""
    if not array.is_fully_addressable:
        array = jax.reshard(array, PartitionSpec())
    return np.asarray(array)


def shard_params(params: Any) -> Any:
    """A tree of parameters (or a whole module) laid out on the current mesh by ``param_spec``."""
    mesh = jax.sharding.get_mesh()
    return jax.tree_util.tree_map_with_path(
        lambda path, p: jax.device_put(p, NamedSharding(mesh, param_spec(path, p.shape))), params
    )
