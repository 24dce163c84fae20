"""Weights from names alone: golden files hold no weights, both sides make the same ones here."""

import json
import zlib
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

HERE = Path(__file__).parent
SHARP = 2.0  # gain of query and key projections: attention that is far from uniform


def names() -> list[str]:
    """The golden files, by name."""
    return sorted(path.stem for path in HERE.glob("*.json"))


def about(name: str) -> dict:
    """Configuration, tensor shapes, token rows and greedy tokens of one golden file."""
    return json.loads((HERE / f"{name}.json").read_text())


def logits(name: str) -> dict[str, np.ndarray]:
    """Its float32 logits: of each text alone, and of both left-padded in one batch."""
    with np.load(HERE / f"{name}.npz") as arrays:
        return dict(arrays)


def tensor(name: str, shape: list[int], seed: int = 0) -> np.ndarray:
    """A float32 tensor that depends on nothing but its name, its shape and the seed.

    Uniform draws from the raw bits of PCG64, which NumPy promises never to change. Norm scales
    are in [0.5, 1], biases in [-1, 1]; a matrix keeps the variance of what goes through it,
    query and key projections multiply it by ``SHARP``.
    """
    bits = np.random.PCG64([seed, zlib.crc32(name.encode())]).random_raw(int(np.prod(shape)))
    unit = (2.0 * ((bits >> 11) * 2.0**-53) - 1.0).reshape(shape)
    if len(shape) == 1:
        value = unit if name.endswith(".bias") else 0.75 + 0.25 * unit
    else:
        sharp = any(part in name for part in ("q_proj", "k_proj"))
        value = unit * np.sqrt(3.0 / shape[1]) * (SHARP if sharp else 1.0)
    return value.astype(np.float32)


def tensors(name: str, seed: int = 0) -> dict[str, np.ndarray]:
    """All tensors of a golden file's model."""
    return {n: tensor(n, shape, seed) for n, shape in about(name)["tensors"].items()}


def write_checkpoint(name: str, folder: Path, seed: int = 0) -> Path:
    """The golden file's model as a checkpoint folder, in one safetensors file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(about(name)["config"]))
    save_file(tensors(name, seed), folder / "model.safetensors", metadata={"format": "pt"})
    return folder
