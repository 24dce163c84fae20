"""Checkpoints of a training run: parameters, optimiser, step and place in the data, together.

A run's folder holds ``checkpoints/<step>`` (the newest two; Orbax, written aside and renamed)
and ``training.json``, what the run is made of: a folder is only resumed by the same run.

A checkpoint is written while training goes on. One that ``restore`` can see is whole: it carries
sums of its arrays, and one that does not add up is set aside for the one before.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from jax.sharding import NamedSharding
from orbax.checkpoint import v1 as ocp

from cat import hosts
from cat.config import ModelConfig, to_dict
from cat.integrity import named, state_sum, sums
from cat.mesh import param_spec
from cat.models.decoder import Decoder
from cat.saver import Kept, Note, Place, place
from routers.errors import InputError
from routers.files import renamed, written

KEEP = 2
RECIPE = "training.json"


@contextmanager
def opened(folder: Path, *, writes: bool = True) -> Iterator[ocp.training.Checkpointer]:
    """The run's sequence of checkpoints; leftovers of an interrupted save are removed.

    What only reads works in the surrounding ``ocp.Context``.
    """
    # Any: the library's own policies do not match its annotation of this parameter.
    keep: Any = ocp.training.preservation_policies.LatestN(KEEP)
    # Trained numbers hardly shrink, and trying takes the processor from training.
    plain = ocp.Context()
    plain.array.saving.use_compression = False
    with (
        _without_tracebacks(),
        ocp.training.Checkpointer(
            str((folder / "checkpoints").resolve()),
            context=plain if writes else None,
            preservation_policy=keep,
            cleanup_tmp_directories=True,
        ) as checkpointer,
    ):
        yield checkpointer


@contextmanager
def _without_tracebacks() -> Iterator[None]:
    """Orbax's threads log every failure, five times, before it is raised here."""
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]

    def silent(record: logging.LogRecord) -> bool:
        return record.levelno < logging.ERROR

    for logger in loggers:
        logger.addFilter(silent)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(silent)


def restore(
    checkpointer: ocp.training.Checkpointer, params: Any, rest: Any, data: Any
) -> Kept | None:
    """The newest checkpoint that is whole, laid out like these; None if there never was one.

    ``data`` is moved to its place at that step. Newer ones that cannot be read, or whose arrays
    do not have the sums they were saved with, are renamed ``checkpoints/damaged-<step>``.

    Raises:
        InputError: there are checkpoints, and none is whole.
        MemoryError, jax.errors.JaxRuntimeError: there is no room for the arrays.
    """
    reasons: dict[int, str] = {}
    for found in reversed(checkpointer.checkpoints):
        kept, reason = None, ""
        try:
            kept = _read(checkpointer, found.step, params, rest, data)
        except Exception as error:  # whatever the reader of the damaged file raises
            if _no_room(error):
                raise
            reason = " ".join(str(error).split())[:120]
        if not hosts.any_says(kept is None) and kept is not None:
            _set_aside(checkpointer, reasons)
            return kept._replace(damaged=tuple(reasons))
        reasons[found.step] = reason or "on another process"
    if not reasons:
        return None
    said = "; ".join(f"{step}: {reason}" for step, reason in reasons.items())
    where = checkpointer.directory
    raise InputError(
        f"{where}: no checkpoint is whole ({said}); bring one back from a copy, "
        f"or remove {where.parent} to train anew"
    )


def _no_room(error: Exception) -> bool:
    """Whether memory was short: that says nothing about the file."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


def _read(
    checkpointer: ocp.training.Checkpointer, step: int, params: Any, rest: Any, data: Any
) -> Kept:
    """One checkpoint, checked against its sums."""
    wanted = {"params": _abstract(params), "rest": _abstract(rest), "data": Place(data)}
    if (checkpointer.directory / str(step) / "best").exists():
        wanted["best"] = _abstract(params)
    found, about = _verified(checkpointer, step, wanted)
    if about.get("data") not in (None, place(data)):
        raise ValueError("the place in the data is not the one that was saved")
    return Kept(
        _like(params, found["params"]),
        _like(rest, found["rest"]),
        about.get("notes", {}),
        _like(params, found["best"]) if "best" in found else None,
    )


def _verified(
    checkpointer: ocp.training.Checkpointer, step: int, wanted: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(arrays, what is said about them); ValueError when both disagree.

    A checkpoint made before there were sums has nothing to be checked against.
    """
    # One part after another: where one cannot be read, Orbax leaves the others' tasks behind.
    found = {
        name: checkpointer.load_checkpointables(step, {name: part})[name]
        for name, part in wanted.items()
    }
    folder = checkpointer.directory / str(step)
    if not (folder / "about").exists():
        before = [folder.parent / str(c.step) for c in checkpointer.checkpoints if c.step < step]
        if any((other / "about").exists() for other in before):
            raise ValueError("its sums are missing")
        return found, {}
    note = Note({})
    checkpointer.load_checkpointables(step, {"about": note})
    about = dict(note.value)
    if about.pop("sum", None) != state_sum(about):
        raise ValueError("its sums were changed")
    arrays = {name: part for name, part in found.items() if name != "data"}
    saved = {name: total for name, total in about["sums"].items() if _part(name) in arrays}
    lost = {_part(name) for name in about["sums"]} - {path.name for path in folder.iterdir()}
    if lost:
        raise ValueError(f"{min(lost)} is missing")
    changed = [name for name, _ in saved.items() ^ sums(arrays).items()]
    if changed:
        raise ValueError(f"{min(changed)} is not what was saved")
    return found, about


def _part(name: str) -> str:
    """The part of a checkpoint that a sum's dotted name begins with."""
    return name.partition(".")[0]


def _set_aside(checkpointer: ocp.training.Checkpointer, reasons: Mapping[int, str]) -> None:
    """Rename damaged checkpoints, so that their steps can be saved again."""
    if not reasons:
        return
    for step, reason in reasons.items():
        folder, name = Path(checkpointer.directory) / str(step), f"damaged-{step}"
        logging.getLogger(__name__).warning("%s is damaged (%s); kept as %s", folder, reason, name)
        if hosts.first():
            shutil.rmtree(folder.with_name(name), ignore_errors=True)
            renamed(folder, name)
    hosts.wait("damaged checkpoints set aside")
    checkpointer.reload()


def load_params(folder: Path, model_config: ModelConfig) -> Decoder:
    """The model of a run's newest checkpoint, on the current mesh: its best where it kept one.

    Raises:
        InputError: no checkpoint, a damaged one, or one of a model of other sizes.
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
    with opened(folder, writes=False) as checkpointer:
        if checkpointer.latest is None:
            raise InputError(f"{folder}: no finished checkpoint; train this model first")
        step = checkpointer.latest.step
        best = (checkpointer.directory / str(step) / "best").exists()
        part = "best" if best else "params"
        try:
            found, _ = _verified(checkpointer, step, {part: _abstract(placed(shapes))})
        except Exception as error:  # whatever the reader of the damaged file raises
            if _no_room(error):
                raise
            raise InputError(
                f"{folder}: checkpoint {step} is damaged ({' '.join(str(error).split())[:120]}); "
                "bring it back from a copy, or remove the folder and train this model again"
            ) from error
    return _like(shapes, found[part])


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
    return named(dict(tree), is_leaf=lambda value: not isinstance(value, dict))


def _abstract(tree: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes, types and places of the leaves by name."""
    return {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
        for name, leaf in named(tree).items()
    }


def placed(shapes: Any) -> Any:
    """A tree of shapes and types with places on the current mesh, by its rule for parameters."""
    mesh = jax.sharding.get_mesh()

    def place(path: tuple[Any, ...], leaf: Any) -> jax.ShapeDtypeStruct:
        sharding = NamedSharding(mesh, param_spec(path, leaf.shape))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree_util.tree_map_with_path(place, shapes)


def _like(tree: Any, found: Mapping[str, Any]) -> Any:
    """The tree with its leaves replaced by name."""
    return jax.tree.unflatten(jax.tree.structure(tree), [found[name] for name in named(tree)])
