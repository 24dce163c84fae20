"""The tensors of a checkpoint folder: one safetensors file, or shards and their index."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from routers.errors import InputError
from routers.files import renamed

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD_BYTES = 5_000_000_000
BLOCK_BYTES = 1 << 24


class Stored(NamedTuple):
    """One tensor on disk."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str  # safetensors' name: F32, BF16, F16


FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def listing(folder: Path) -> dict[str, Stored]:
    """Every tensor of the folder by name; only headers are read.

    Raises:
        InputError: no safetensors here (pickles are refused), a missing or broken file.
    """
    found = {}
    for file in _files(folder):
        try:
            with safe_open(file, framework="numpy") as reader:
                for name in reader.keys():  # noqa: SIM118
                    part = reader.get_slice(name)
                    shape = tuple(part.get_shape())
                    found[name] = Stored(file, name, shape, str(part.get_dtype()))
        except (SafetensorError, OSError) as error:
            raise InputError(f"{file}: not whole ({error}); download or export it again") from None
    return found


def _files(folder: Path) -> list[Path]:
    """The safetensors files that make up the checkpoint."""
    single, index = folder / SINGLE, folder / INDEX
    if single.is_file():  # before an index, as in transformers
        return [single]
    if index.is_file():
        try:
            places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            names = sorted(set(places.values()))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise InputError(f"{index}: not an index of shards ({error!r})") from None
        escaping = [n for n in names if not isinstance(n, str) or Path(n).name != n]
        if escaping:
            raise InputError(f"{index}: names {escaping[0]!r}, which is not a file of its folder")
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise InputError(f"{index}: {', '.join(missing)} is missing; download it too")
        return [folder / name for name in names]
    pickles = sorted(p.name for p in [*folder.glob("*.bin"), *folder.glob("*.pt*")])
    if pickles:
        raise InputError(
            f"{folder}: only pickled weights ({pickles[0]}), which can run code when they are "
            "read; convert them to safetensors (transformers: save_pretrained)"
        )
    raise InputError(f"{folder}: no {SINGLE} and no {INDEX}; is it a checkpoint folder?")


def read(stored: Stored, dtype: str = "", *, transpose: bool = False) -> np.ndarray:
    """One tensor, block by block: of the file never more than a block is held beside the result.

    Args:
        stored: the tensor.
        dtype: to convert to; none named = its own.
        transpose: the matrix with its axes swapped.

    Returns:
        an array at an address that JAX takes over on a CPU instead of copying it. The file is
        closed again, so its pages can go.
    """
    shape = stored.shape[::-1] if transpose else stored.shape
    out = _aligned(shape, jnp.dtype(dtype or FLOATS[stored.dtype]))
    rows = out.T if transpose else out
    for start, block in _blocks(stored):
        rows[start : start + len(block)] = block
    return out


def equal(first: Stored, second: Stored) -> bool:
    """Whether two tensors of one shape hold the same numbers, bit for bit."""
    both = zip(_blocks(first), _blocks(second), strict=True)
    return all(np.array_equal(a, b) for (_, a), (_, b) in both)


def _blocks(stored: Stored) -> Iterator[tuple[int, np.ndarray]]:
    """The tensor in blocks of rows, each with its first row's number."""
    count = stored.shape[0]
    width = 8 * math.prod(stored.shape[1:])  # of the widest type
    step = max(1, BLOCK_BYTES // max(1, width))
    try:
        with safe_open(stored.file, framework="numpy") as reader:
            part = reader.get_slice(stored.name)
            for start in range(0, count, step):
                yield start, part[start : min(start + step, count)]
    except (SafetensorError, OSError) as error:
        raise InputError(f"{stored.file}: {stored.name} is not readable ({error})") from None


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An empty array at a multiple of 64 bytes; large arrays of NumPy's own never are."""
    size = math.prod(shape) * dtype.itemsize
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


def write(
    folder: Path, tensors: Iterable[tuple[str, np.ndarray]], limit: int = SHARD_BYTES
) -> None:
    """Write tensors in order, as one file, or as shards of at most ``limit`` bytes and an index.

    Only one shard is held at a time. The folder is the caller's to move into place.
    """
    places: dict[str, int] = {}
    shard: dict[str, np.ndarray] = {}
    count = total = held = 0

    def flush() -> None:
        nonlocal count, held
        count += 1
        save_file(shard, folder / _shard(count, 0), metadata={"format": "pt"})
        shard.clear()
        held = 0

    for name, value in tensors:
        if shard and held + value.nbytes > limit:
            flush()
        places[name] = count + 1
        shard[name] = np.ascontiguousarray(value)
        held, total = held + value.nbytes, total + value.nbytes
    flush()
    if count == 1:
        renamed(folder / _shard(1, 0), SINGLE)
        return
    for i in range(1, count + 1):
        renamed(folder / _shard(i, 0), _shard(i, count))
    weight_map = {name: _shard(i, count) for name, i in places.items()}
    about: dict[str, Any] = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(about, indent=2, sort_keys=True))


def _shard(i: int, count: int) -> str:
    return f"model-{i:05d}-of-{count:05d}.safetensors"
