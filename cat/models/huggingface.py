"""Checkpoint folders in Hugging Face format: into a ``Decoder``, and back out of one.

``transformers.AutoModelForCausalLM.from_pretrained`` and vLLM load what ``save`` writes.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding

from cat.mesh import param_spec
from cat.models import families, tensors
from cat.models.config import ModelConfig
from cat.models.decoder import Decoder
from cat.models.families import llama
from routers.errors import InputError

CONFIG = "config.json"
GENERATION = "generation_config.json"
BESIDE = (
    GENERATION,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
)
"""Files that travel with a checkpoint unchanged."""

Named = dict[str, tuple[str, tuple[int, ...]]]
"""Our parameter names, each with the checkpoint's name and our shape."""


def read_json(folder: Path, name: str = CONFIG) -> dict[str, Any]:
    """A JSON file of a checkpoint folder.

    Raises:
        InputError: no folder, no file, or not a JSON object.
    """
    path = folder / name
    if not folder.is_dir():
        raise InputError(f"checkpoint '{folder}' does not exist; give a folder with a {CONFIG}")
    if not path.is_file():
        raise InputError(f"{folder}: no {name}; is it a checkpoint in Hugging Face format?")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}); download it again") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: not a JSON object; is it the right file?")
    return values


def read_config(folder: Path) -> ModelConfig:
    """The decoder that the folder's ``config.json`` describes.

    Raises:
        InputError: an unknown architecture, or a field that is not supported, by name.
    """
    return families.read(read_json(folder), str(folder / CONFIG))


def load(folder: Path, *, dtype: str = "float32") -> Decoder:
    """The checkpoint as a decoder on the current mesh, read tensor by tensor.

    Each parameter goes to its devices before the next is read, so that the host never holds
    two models.

    Args:
        folder: ``config.json`` and safetensors, whole or in shards, of any float type.
        dtype: of parameters and products, float32 or bfloat16.

    Raises:
        InputError: as ``read_config``; tensors missing, extra or of another shape, all listed.
    """
    values = read_json(folder)
    config = families.read(values, str(folder / CONFIG))
    shapes = _abstract(config)
    named = _names(values, shapes)
    listing = _with_tied(tensors.listing(folder), config)
    _compare(folder, named, listing, tied=config.tied_embeddings)
    mesh = jax.sharding.get_mesh()

    def put(path: tuple[Any, ...], leaf: Any) -> jax.Array:
        theirs, shape = named[_dotted(path)]
        value = _ours(_dotted(path), tensors.read(listing[theirs]), shape)
        sharding = NamedSharding(mesh, param_spec(path, shape))
        placed = jax.device_put(value.astype(jnp.dtype(dtype), copy=False), sharding)
        return jax.block_until_ready(placed)  # or copies of many tensors wait on the host

    params = jax.tree_util.tree_map_with_path(put, shapes)
    graph = nnx.graphdef(_skeleton(_typed(config, dtype)))
    return nnx.merge(graph, params)


def save(model: Decoder, folder: Path, *, like: Path | None = None, dtype: str = "") -> None:
    """Write the model as a checkpoint folder, whole or not at all.

    Args:
        model: the decoder.
        folder: where to; must not exist, or be empty.
        like: the checkpoint it came from: its ``config.json``, tokenizer and generation files
            go along. Without one the model is written as a Llama, and without a tokenizer.
        dtype: of the stored tensors; none named = as ``like`` says, else float32.

    Raises:
        InputError: the folder is taken, the disk is full, or the model does not fit ``like``.
    """
    values = llama.write(model.config) if like is None else read_json(like)
    if like is not None and families.read(values, str(like / CONFIG)) != _typed(model.config):
        raise InputError(f"{like}: config.json describes another model than the one to export")
    dtype = dtype or str(values.get("dtype", values.get("torch_dtype", "float32")))
    values = {**values, "dtype": dtype, "torch_dtype": dtype}
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder}: exists and is not empty; export to a new folder")
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        _write(partial, values, model, dtype, like)
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise InputError(f"{folder}: no space left on the disk; nothing was exported") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(
    folder: Path, values: dict[str, Any], model: Decoder, dtype: str, like: Path | None
) -> None:
    """All files of a checkpoint."""
    (folder / CONFIG).write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
    tensors.write(folder, _tensors(values, model, dtype))
    for name in BESIDE:
        if like is not None and (like / name).is_file():
            shutil.copyfile(like / name, folder / name)


def _tensors(
    values: dict[str, Any], model: Decoder, dtype: str
) -> Iterator[tuple[str, np.ndarray]]:
    """Every parameter under its foreign name, in the checkpoint's layout."""
    params = nnx.state(model, nnx.Param)
    named = _names(values, params)
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        ours = _dotted(path)
        value = np.asarray(leaf).astype(jnp.dtype(dtype), copy=False)
        yield named[ours][0], _theirs(ours, value)


def _skeleton(config: ModelConfig) -> Any:
    """The decoder with shapes for arrays."""
    return nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0)))


def _abstract(config: ModelConfig) -> Any:
    """Its parameters' shapes."""
    return nnx.state(_skeleton(config), nnx.Param)


def _typed(config: ModelConfig, dtype: Any = "float32") -> ModelConfig:
    """The configuration with that type of products."""
    return dataclasses.replace(config, dtype=dtype)


def _dotted(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")


def _names(values: dict[str, Any], shapes: Any) -> Named:
    """The checkpoint's tensor name of each of our parameters."""
    table = families.family(values, CONFIG).NAMES
    named: Named = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(shapes)[0]:
        ours = _dotted(path)
        parts = ours.split(".")
        layer = parts[1] if parts[0] == "layers" else ""
        pattern = ".".join(["layers", "{}", *parts[2:]]) if layer else ours
        named[ours] = (table[pattern].format(layer), tuple(leaf.shape))
    return named


def _their_shape(ours: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """[in, out] matrices are stored as [out, in], heads and head size as one axis."""
    if not ours.endswith(".kernel"):
        return (int(np.prod(shape)),) if ours.endswith(".bias") else shape
    inputs = shape[:-1] if ".out." in ours else shape[:1]
    return (int(np.prod(shape)) // int(np.prod(inputs)), int(np.prod(inputs)))


def _ours(ours: str, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A stored tensor in our layout."""
    return (value.T if ours.endswith(".kernel") else value).reshape(shape)


def _theirs(ours: str, value: np.ndarray) -> np.ndarray:
    """Our array in the stored layout."""
    shape = _their_shape(ours, value.shape)
    return value.reshape(shape[::-1]).T if ours.endswith(".kernel") else value.reshape(shape)


def _with_tied(
    listing: dict[str, tensors.Stored], config: ModelConfig
) -> dict[str, tensors.Stored]:
    """A tied embedding may be stored under the unembedding's name alone."""
    embed, head = llama.NAMES["embed.embedding"], llama.NAMES["head.kernel"]
    if config.tied_embeddings and embed not in listing and head in listing:
        return {**listing, embed: listing[head]}
    return listing


def _compare(folder: Path, named: Named, listing: dict[str, tensors.Stored], *, tied: bool) -> None:
    """Raise InputError with every tensor that is missing, extra, misshapen or not of floats."""
    wanted = {theirs: _their_shape(ours, shape) for ours, (theirs, shape) in named.items()}
    copies = {llama.NAMES["head.kernel"]} if tied else set()  # some files repeat a tied embedding
    extra = {n for n in listing.keys() - wanted.keys() - copies if not n.endswith(".inv_freq")}
    both = sorted(wanted.keys() & listing.keys())
    odd = [n for n in both if listing[n].dtype not in tensors.FLOATS]
    wrong = [n for n in both if listing[n].shape != wanted[n]]
    problems = [
        *(f"missing {n}" for n in sorted(wanted.keys() - listing.keys())),
        *(f"unexpected {n}" for n in sorted(extra)),
        *(f"{n} is {list(listing[n].shape)}, not {list(wanted[n])}" for n in wrong),
        *(f"{n} is of type {listing[n].dtype}, not of floats" for n in odd),
    ]
    if problems:
        raise InputError(f"{folder}: tensors do not fit {CONFIG}: {'; '.join(problems)}")
