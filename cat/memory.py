"""Bytes that a model takes on each device, to train and to serve, from shapes alone.

Nothing is allocated: shapes are traced through the code that will run, so the figures follow it.
Parameters, gradients and optimiser moments lie as ``cat.mesh.param_spec`` says; rows of batches and
caches are split over ``data`` and ``fsdp``, heads of a cache over ``tensor`` where they divide.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from cat import mesh as meshes
from cat import response
from cat.config import ArmConfig, ModelConfig, OptimizerConfig
from cat.models.cache import empty_cache
from cat.models.decoder import Decoder
from cat.objective import Whole, objective
from cat.step import make_optimizer
from cat.types import Batch
from routers.errors import InputError


class MeshSizes(NamedTuple):
    """How many devices there are along each axis; they need not be at hand."""

    data: int = 1
    fsdp: int = 1
    tensor: int = 1


@dataclasses.dataclass(frozen=True)
class Training:
    """Bytes per device at the peak of one optimiser step."""

    parameters: int
    gradients: int
    moments: int  # AdamW's two, in the parameters' type
    activations: int

    @property
    def total(self) -> int:
        """All of them at once."""
        return self.parameters + self.gradients + self.moments + self.activations


@dataclasses.dataclass(frozen=True)
class Serving:
    """Bytes per device while responses are generated."""

    parameters: int
    cache: int

    @property
    def total(self) -> int:
        """All of them at once."""
        return self.parameters + self.cache


def training(
    config: ModelConfig, mesh: MeshSizes, *, rows: int, tokens: int, response_tokens: int
) -> Training:
    """Bytes per device of a step of ``cat.step.dispatch`` on rows of fresh text.

    parameters + gradients + two AdamW moments, each of the parameters' size and type, + what
    ``kept`` counts for this device's share of the rows. Assumed: the loss of the arm ``xent``;
    no buffers beside these (the compiler may keep less, by computing elementwise work twice,
    or more; with ``fsdp`` one layer's parameters are whole while they are used); activations
    that ``tensor`` splits are counted whole; a teacher that is live takes its own parameters
    besides.

    Args:
        config: sizes; parameters, moments and products are of type ``config.dtype``.
        mesh: sizes of the mesh.
        rows: of a global batch.
        tokens: T of a row, prompt and response.
        response_tokens: places of a row that are unembedded.

    Raises:
        InputError: rows that do not divide, or counts below 1.
    """
    share = _share(rows, mesh)
    _at_least_one(tokens=tokens, response_tokens=response_tokens)
    optimizer = make_optimizer(OptimizerConfig())
    parameters = on_device(_parameters, config, mesh)
    moments = on_device(lambda c: jax.eval_shape(optimizer.init, _parameters(c)), config, mesh)
    activations = kept(config, share, tokens, min(response_tokens, tokens))
    return Training(parameters, parameters, moments, activations)


def serving(config: ModelConfig, mesh: MeshSizes, *, rows: int, context: int) -> Serving:
    """Bytes per device of parameters and key-value cache.

    The cache is 2 n S g k numbers a row for n layers, S = ``context`` slots and g key/value
    heads of size k, whether or not a layer has a window: all layers keep every slot. What one
    layer computes comes on top for as long as it runs: activations of the prefill, and keys and
    values transposed where the backend's products need that.

    Args:
        config: sizes; parameters and cache are of type ``config.dtype``.
        mesh: sizes of the mesh.
        rows: generated at a time, on all devices.
        context: tokens of the longest prompt and response together.

    Raises:
        InputError: rows that do not divide, or counts below 1.
    """
    share = _share(rows, mesh)
    _at_least_one(context=context)
    heads = config.kv_heads
    split = dataclasses.replace(
        config, kv_heads=heads // mesh.tensor if heads % mesh.tensor == 0 else heads
    )
    cache = _bytes(jax.eval_shape(lambda: empty_cache(split, share, context)))
    return Serving(on_device(_parameters, config, mesh), cache)


def on_device(shapes: Any, config: ModelConfig, mesh: MeshSizes) -> int:
    """Bytes of one device's part of a tree of parameters, or of what is laid out like them.

    Args:
        shapes: configuration to tree; asked for one layer, which then counts ``layers`` times.
        config: sizes.
        mesh: sizes of the mesh.
    """
    one = dataclasses.replace(config, layers=1, windows=config.windows[:1])
    total = 0
    for path, leaf in jax.tree_util.tree_flatten_with_path(shapes(one))[0]:
        times = config.layers if "'layers'" in jax.tree_util.keystr(path) else 1
        total += times * _part(path, leaf, mesh)
    return total


def _part(path: tuple[Any, ...], leaf: Any, mesh: MeshSizes) -> int:
    """Bytes of one device's part of one array, as ``param_spec`` splits it."""
    spec = tuple(meshes.param_spec(path, leaf.shape, mesh._asdict()))
    size = leaf.dtype.itemsize
    for i, length in enumerate(leaf.shape):
        axes = spec[i] if i < len(spec) and spec[i] is not None else ()
        names = (axes,) if isinstance(axes, str) else axes
        size *= -(-length // math.prod(getattr(mesh, name) for name in names))
    return size


def kept(config: ModelConfig, rows: int, tokens: int, response_tokens: int) -> int:
    """Bytes that the forward pass keeps for the backward pass, parameters apart.

    The sum of the residuals of ``jax.vjp`` of the training loss, traced on shapes for one
    layer of each window and a second one, since every further layer keeps as much as that.
    """

    def traced(*windows: int) -> int:
        few = dataclasses.replace(config, layers=len(windows), windows=windows)
        return _residuals(few, rows, tokens, response_tokens)

    kinds = Counter(config.window(layer) for layer in range(config.layers))
    first = next(iter(kinds))
    alone = traced(first)
    layer = {window: traced(first, window) - alone for window in kinds}
    return alone - layer[first] + sum(n * layer[window] for window, n in kinds.items())


def _residuals(config: ModelConfig, rows: int, tokens: int, response_tokens: int) -> int:
    """The same, by tracing the whole model."""
    graph, params = nnx.split(_skeleton(config))
    ids = jax.ShapeDtypeStruct((rows, tokens), jnp.int32)
    mask = jax.ShapeDtypeStruct((rows, tokens), jnp.float32)
    shapes = Batch(ids, ids, mask, ids, ids, teacher=None)

    def residuals(params: Any, batch: Batch) -> list[Any]:
        def loss(params: Any) -> Any:
            at, model = response.places(batch.mask, response_tokens), nnx.merge(graph, params)
            hidden = model.hidden(batch.tokens, batch.positions, batch.segments).hidden
            near, places = response.narrow(batch, at), response.take(hidden, at)
            whole = Whole(jnp.maximum(batch.mask.sum(), 1.0))
            return objective(ArmConfig(), model.unembedding(), places, near, None, None, whole)[0]

        given = {id(leaf) for leaf in jax.tree.leaves((params, batch))}
        leaves = jax.tree.leaves(jax.vjp(loss, params)[1])
        return list({id(leaf): leaf for leaf in leaves if id(leaf) not in given}.values())

    with jax.set_mesh(meshes.make_mesh(data=1)):
        return _bytes(jax.eval_shape(residuals, _typed(params, config), shapes))


def _skeleton(config: ModelConfig) -> Any:
    return nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0)))


def _parameters(config: ModelConfig) -> Any:
    return _typed(nnx.state(_skeleton(config), nnx.Param), config)


def _typed(params: Any, config: ModelConfig) -> Any:
    """Parameters in the type that ``huggingface.load`` gives them."""
    dtype = jnp.dtype(config.dtype)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), params)


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _share(rows: int, mesh: MeshSizes) -> int:
    """The rows of one device."""
    _at_least_one(**mesh._asdict())
    parts = mesh.data * mesh.fsdp
    if rows < 1 or rows % parts:
        raise InputError(
            f"batch of {rows} rows does not divide over {parts} devices (data x fsdp); "
            "use a positive multiple"
        )
    return rows // parts


def _at_least_one(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise InputError(f"{name}={count}; give at least 1")
