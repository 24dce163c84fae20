"""Checkpoints of a training run: parameters, optimiser, step and place in the data, together.

A run's folder holds ``checkpoints/<step>`` (the newest two; Orbax, written aside and renamed)
and ``training.json``, what the run is made of: a folder is only resumed by the same run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from jax.sharding import NamedSharding
from orbax.checkpoint import v1 as ocp

from cat.config import ModelConfig, to_dict
from cat.mesh import param_spec
from cat.models.decoder import Decoder
from routers.errors import InputError
from routers.files import written

KEEP = 2
RECIPE = "training.json"


@contextmanager
def opened(folder: Path) -> Iterator[ocp.training.Checkpointer]:
    """The run's sequence of checkpoints; leftovers of an interrupted save are removed."""
    # Any: the library's own policies do not match its annotation of this parameter.
    keep: Any = ocp.training.preservation_policies.LatestN(KEEP)
    with ocp.training.Checkpointer(
        str((folder / "checkpoints").resolve()),
        preservation_policy=keep,
        cleanup_tmp_directories=True,
    ) as checkpointer:
        yield checkpointer


def save(
    checkpointer: ocp.training.Checkpointer, step: int, params: Any, rest: Any, data: Any
) -> None:
    """Write all of it at ``step``; returns when it is on disk.

    Waiting is deliberate: the next dispatch overwrites these very buffers (donation), and a
    returned save is one that a killed process can count on.

    Args:
        params: tree of arrays; kept apart so that ``load_params`` reads nothing else.
        rest: any tree of arrays (optimiser state and step).
        data: a Grain iterator.
    """
    parts = {"params": _named(params), "rest": _named(rest), "data": data}
    checkpointer.save_checkpointables(step, parts, force=True)


def restore(
    checkpointer: ocp.training.Checkpointer, params: Any, rest: Any, data: Any
) -> tuple[Any, Any] | None:
    """(params, rest) of the newest checkpoint, laid out like these; None if there is none.

    ``data`` is moved to its place at that step.
    """
    if checkpointer.latest is None:
        return None
    wanted = {"params": _abstract(params), "rest": _abstract(rest), "data": data}
    found = checkpointer.load_checkpointables(checkpointer.latest.step, wanted)
    return _like(params, found["params"]), _like(rest, found["rest"])


def load_params(folder: Path, model_config: ModelConfig) -> Decoder:
    """The model of a run's newest checkpoint, on the current mesh.

    Raises:
        InputError: no checkpoint, or one of a model of other sizes.
    """
    graph, params = nnx.split(nnx.eval_shape(lambda: Decoder(model_config, rngs=nnx.Rngs(0))))
    return nnx.merge(graph, load_trained(folder, model_config, params))


def load_trained(folder: Path, model_config: ModelConfig, shapes: Any) -> Any:
    """What a run trained, from its newest checkpoint: a tree like ``shapes``, on the mesh.

    Raises:
        InputError: as ``load_params``.
    """
    if not (folder / "checkpoints").is_dir():
        raise InputError(f"{folder}: no checkpoints; train this model first")
    made = json.loads((folder / RECIPE).read_text())
    refuse_changed(folder, {"model": made["model"]}, {"model": to_dict(model_config)})
    with opened(folder) as checkpointer:
        if checkpointer.latest is None:
            raise InputError(f"{folder}: no finished checkpoint; train this model first")
        step = checkpointer.latest.step
        found = checkpointer.load_checkpointables(step, {"params": _placed(shapes)})
    return _like(shapes, found["params"])


def claim(path: Path, ingredients: Mapping[str, Any]) -> None:
    """Write what a result is made of to ``path``, or check that it is the same as before.

    Raises:
        InputError: the file names other ingredients; the message names which.
    """
    wanted = json.loads(json.dumps(ingredients))
    if path.exists():
        found = json.loads(path.read_text())
        refuse_changed(path.parent, found, wanted)
        return
    with written(path) as temporary:
        temporary.write_text(json.dumps(wanted, indent=2, sort_keys=True))


def refuse_changed(place: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise InputError with the dotted names of what differs, if anything does.

    >>> refuse_changed(Path("run"), {"arm": {"mask": "all"}}, {"arm": {"mask": "either_hit"}})
    Traceback (most recent call last):
    ...
    routers.errors.InputError: run was made with other arm.mask; use another folder or delete it
    """
    old, new = _leaves(found), _leaves(wanted)
    changed = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    if changed:
        raise InputError(
            f"{place} was made with other {', '.join(changed)}; use another folder or delete it"
        )


def _leaves(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names of a JSON tree's values."""
    return _named(dict(tree), is_leaf=lambda value: not isinstance(value, dict))


def _named(tree: Any, is_leaf: Any = None) -> dict[str, Any]:
    """Leaves by dotted path: plain names on disk, whatever containers the tree is made of."""
    pairs = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in pairs}


def _abstract(tree: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes, types and places of the leaves by name."""
    return {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
        for name, leaf in _named(tree).items()
    }


def _placed(params: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """The same for parameters that exist as shapes only, placed by the mesh's rule."""
    mesh = jax.sharding.get_mesh()

    def place(path: tuple[Any, ...], leaf: Any) -> jax.ShapeDtypeStruct:
        sharding = NamedSharding(mesh, param_spec(path, leaf.shape))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return _named(jax.tree_util.tree_map_with_path(place, params))


def _like(tree: Any, named: Mapping[str, Any]) -> Any:
    """The tree with its leaves replaced by name."""
    return jax.tree.unflatten(jax.tree.structure(tree), [named[name] for name in _named(tree)])
