"""Checkpoint folders in Hugging Face format: into a ``Decoder``, and back out of one.

``transformers.AutoModelForCausalLM.from_pretrained`` and vLLM load what ``save`` writes.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding
from safetensors import SafetensorError

from cat.mesh import param_spec
from cat.models import families, tensors
from cat.models.config import ModelConfig
from cat.models.decoder import Decoder, Layer
from cat.models.families import llama
from routers.errors import InputError
from routers.files import written_folder

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

DTYPES = ("float32", "bfloat16", "float16")
"""What tensors can be stored in."""

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

    Each parameter goes to its devices before the next is read. On a CPU the arrays that are
    read become the parameters themselves, so that the host never holds two models.

    Args:
        folder: ``config.json`` and safetensors, whole or in shards, of any float type.
        dtype: of parameters and products, float32 or bfloat16.

    Raises:
        InputError: as ``read_config``; tensors missing, extra or of another shape, all listed.
    """
    values = read_json(folder)
    config = families.read(values, str(folder / CONFIG))
    graph, shapes = nnx.split(_skeleton(dataclasses.replace(config, dtype=dtype)))
    named = _names(values, shapes)
    listing = tensors.listing(folder)
    if config.tied_embeddings:
        listing = _with_tied(folder, listing)
    _compare(folder, named, listing)
    mesh = jax.sharding.get_mesh()

    def put(path: tuple[Any, ...], leaf: Any) -> jax.Array:
        ours = _dotted(path)
        theirs, shape = named[ours]
        value = tensors.read(listing[theirs], dtype, transpose=ours.endswith(".kernel"))
        sharding = NamedSharding(mesh, param_spec(path, shape))
        placed = jax.device_put(value.reshape(shape), sharding)
        return jax.block_until_ready(placed)  # or copies of many tensors wait on the host

    return nnx.merge(graph, jax.tree_util.tree_map_with_path(put, shapes))


def beside(folder: Path) -> dict[str, bytes]:
    """The files of a checkpoint that go along unchanged: tokenizer, template, generation."""
    found = [folder / name for name in BESIDE]
    return {path.name: path.read_bytes() for path in found if path.is_file()}


def save(
    model: Decoder,
    folder: Path,
    *,
    like: Path | None = None,
    files: Mapping[str, bytes] | None = None,
    dtype: str = "",
) -> None:
    """Write the model as a checkpoint folder, whole or not at all.

    Args:
        model: the decoder.
        folder: where to; must not exist, or be empty.
        like: the checkpoint it came from: its ``config.json`` and what is ``beside`` it go
            along. Without one the model is written as a Llama.
        files: names and contents to write beside the weights instead of those of ``like``.
        dtype: of the stored tensors; none named = as ``like`` says, else float32.

    Raises:
        InputError: the folder is taken, the disk is full, the model does not fit ``like``, or its
            numbers do not fit the type.
    """
    values = _described(model.config, like)
    dtype = dtype or str(values.get("dtype", values.get("torch_dtype", "float32")))
    if dtype not in DTYPES:
        raise InputError(f"{folder}: cannot store '{dtype}'; choose one of {', '.join(DTYPES)}")
    values = {**values, "dtype": dtype, "torch_dtype": dtype}
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError(f"{folder}: exists and is not an empty folder; export to a new one")
    files = files or ({} if like is None else beside(like))
    try:
        with written_folder(folder) as partial:
            _write(partial, values, model, dtype, files)
    except (OSError, SafetensorError) as error:  # a full disk is the one or the other
        raise InputError(f"{folder}: nothing was exported: {error}") from None


def _described(config: ModelConfig, like: Path | None) -> dict[str, Any]:
    """The model's ``config.json``; how it computes here is no part of it."""
    config = dataclasses.replace(config, dtype="float32", attention="auto")
    if like is None:
        return llama.write(config)
    values = read_json(like)
    if families.read(values, str(like / CONFIG)) != config:
        raise InputError(f"{like}: {CONFIG} describes another model than the one to export")
    return values


def _write(
    folder: Path, values: dict[str, Any], model: Decoder, dtype: str, files: Mapping[str, bytes]
) -> None:
    """All files of a checkpoint."""
    (folder / CONFIG).write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
    tensors.write(folder, _tensors(values, model, dtype))
    for name, content in files.items():
        (folder / name).write_bytes(content)


def _tensors(
    values: dict[str, Any], model: Decoder, dtype: str
) -> Iterator[tuple[str, np.ndarray]]:
    """Every parameter under its foreign name, in the checkpoint's layout."""
    params = nnx.state(model, nnx.Param)
    named = _names(values, params)
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        ours = _dotted(path)
        theirs = named[ours][0]
        yield theirs, _theirs(ours, _converted(np.asarray(leaf), dtype, theirs))


def _converted(value: np.ndarray, dtype: str, name: str) -> np.ndarray:
    """The numbers in another type.

    Raises:
        InputError: float16 cannot hold one of them.
    """
    with np.errstate(over="ignore"):
        stored = value.astype(jnp.dtype(dtype), copy=False)
    if dtype == "float16" and not np.array_equal(np.isfinite(stored), np.isfinite(value)):
        raise InputError(f"{name}: a number is too large for float16; export as bfloat16")
    return stored


def _skeleton(config: ModelConfig) -> Decoder:
    """The decoder with shapes for arrays.

    Layers with one window are alike and traced once, by themselves: tracing all of them in one
    go takes a time that grows with their square, and longer than reading the weights.
    """
    first = {config.window(i): i for i in reversed(range(config.layers))}
    kinds = {w: _traced(functools.partial(Layer, config, i)) for w, i in first.items()}
    short = dataclasses.replace(config, layers=1, windows=config.windows[:1])
    model = _traced(functools.partial(Decoder, short))
    model.config = config
    model.layers = nnx.List([nnx.clone(kinds[config.window(i)]) for i in range(config.layers)])
    return model


def _traced(make: Callable[..., Any]) -> Any:
    """A module with shapes for arrays."""
    return nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0)))


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


def _theirs(ours: str, value: np.ndarray) -> np.ndarray:
    """Our array in the stored layout."""
    shape = _their_shape(ours, value.shape)
    return value.reshape(shape[::-1]).T if ours.endswith(".kernel") else value.reshape(shape)


def _with_tied(folder: Path, listing: dict[str, tensors.Stored]) -> dict[str, tensors.Stored]:
    """The tensors of a tied model: its one table may be stored twice, or by the other name.

    Raises:
        InputError: stored twice with different numbers, so the model is not tied.
    """
    embed, head = llama.NAMES["embed.embedding"], llama.NAMES["head.kernel"]
    if head not in listing:
        return listing
    rest = {name: stored for name, stored in listing.items() if name != head}
    first, second = listing.get(embed, listing[head]), listing[head]
    alike = (first.shape, first.dtype) == (second.shape, second.dtype)
    if not (alike and tensors.equal(first, second)):
        raise InputError(
            f"{folder}: {head} differs from {embed}, though {CONFIG} ties them; "
            "set tie_word_embeddings to false there"
        )
    return {embed: second, **rest}


def _compare(folder: Path, named: Named, listing: dict[str, tensors.Stored]) -> None:
    """Raise InputError with every tensor that is missing, extra, misshapen or not of floats."""
    wanted = {theirs: _their_shape(ours, shape) for ours, (theirs, shape) in named.items()}
    extra = {n for n in listing.keys() - wanted.keys() if not n.endswith(".inv_freq")}
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
