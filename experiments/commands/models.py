"""say what a checkpoint is: sizes, parameters, FLOPs, memory; or list the families"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from experiments.commandline import parse, print_json
from routers.errors import InputError

if TYPE_CHECKING:
    from cat.memory import MeshSizes
    from cat.models.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class Models:
    """Inspect checkpoints (docs/checkpoints.md) from their headers; without one, list the families.

    Example: cascade models SmolLM2-135M gemma-3-270m --mesh data=8 --batch-size 64 --context 2048
    """

    checkpoints: tyro.conf.Positional[tuple[Path, ...]] = ()  # folders, or llama2.c .bin files
    mesh: str = "data=1"  # devices, e.g. data=8,fsdp=4,tensor=1; they need not be here
    batch_size: int | None = None  # rows over all devices; one a device unless given
    context: int = 1024  # tokens of a row: trained on, or prompt and response when serving
    prompt_tokens: int = 256  # of the query whose FLOPs are given
    response_tokens: int = 64  # the same; in training, the places of a row that are unembedded
    dtype: Literal["float32", "bfloat16"] = "float32"  # parameters, moments, cache as loaded
    json: bool = False  # print one JSON object instead of the tables


def main(arguments: Sequence[str]) -> None:
    """`cascade models [FOLDER ...] [--mesh data=8] [--json]`."""
    options = parse(Models, arguments, "cascade models")
    if not options.checkpoints:
        _list(options)
        return
    found = _inspect(options)
    if options.json:
        print_json(found)
    else:
        _print(found)


def _list(options: Models) -> None:
    """Every family's architecture and the line that its file begins with."""
    from cat.models.families import families

    rows = {name: _line(module) for name, module in sorted(families().items())}
    if options.json:
        print_json(rows)
        return
    width = max(map(len, rows))
    for name, line in rows.items():
        print(f"{name:<{width}}  {line}")


def _line(module: Any) -> str:
    return (module.__doc__ or "").partition("\n")[0]


def _inspect(options: Models) -> dict[str, Any]:
    """The JSON object: what was assumed, and the figures of each checkpoint."""
    mesh = _mesh(options.mesh)
    rows = mesh.data * mesh.fsdp if options.batch_size is None else options.batch_size
    assumed = {
        "mesh": mesh._asdict(),
        "batch_size": rows,
        "context": options.context,
        "prompt_tokens": options.prompt_tokens,
        "response_tokens": options.response_tokens,
        "dtype": options.dtype,
    }
    return {**assumed, "models": [_model(path, mesh, assumed) for path in options.checkpoints]}


def _mesh(text: str) -> MeshSizes:
    """The sizes that ``data=8,fsdp=4`` names; axes that are not named have one device."""
    from cat.memory import MeshSizes

    pairs = [re.fullmatch(r"(data|fsdp|tensor)=([1-9]\d*)", part) for part in text.split(",")]
    sizes = {pair[1]: int(pair[2]) for pair in pairs if pair}
    if len(sizes) < len(pairs):
        raise InputError(
            f"--mesh '{text}' is not a mesh; write data=8,fsdp=4,tensor=1, each axis at most once"
        )
    return MeshSizes(**sizes)


def _model(path: Path, mesh: MeshSizes, assumed: dict[str, Any]) -> dict[str, Any]:
    """All figures of one checkpoint; no weights are read."""
    from cat import flops, memory
    from cat.config import to_dict

    config, about = _read(path)
    context, rows, response = (assumed[k] for k in ("context", "batch_size", "response_tokens"))
    query = (assumed["prompt_tokens"], response)
    typed = dataclasses.replace(config, dtype=assumed["dtype"])
    total, embedding = flops.parameter_count(config), flops.embedding_count(config)
    figures = {
        "next_token": flops.decode_flops(config, context),
        "next_token_2n": float(flops.approximate_flops(config, 1, 1)),
        "query": float(flops.forward_flops(config, *query)),
        "query_2n": float(flops.approximate_flops(config, *query)),
    }
    train = memory.training(typed, mesh, rows=rows, tokens=context, response_tokens=response)
    serve = memory.serving(typed, mesh, rows=rows, context=context)
    return {
        "checkpoint": str(path),
        **about,
        "sizes": to_dict(config),
        "parameters": {"total": total, "embedding": embedding, "other": total - embedding},
        "flops": figures,
        "training_bytes": {**dataclasses.asdict(train), "total": train.total},
        "serving_bytes": {**dataclasses.asdict(serve), "total": serve.total},
    }


def _read(path: Path) -> tuple[ModelConfig, dict[str, Any]]:
    """The configuration, the family's names, and what is stored in which types."""
    from cat.models import families, huggingface, llama2c, tensors

    if path.is_file():  # the one format here that is a single file
        config, file = llama2c.read_config(path), {"files": 1, "bytes": path.stat().st_size}
        stored = {**file, "types": ["F32"]}
        return config, {"family": "llama2c", "architecture": "llama2.c", "stored": stored}
    config = huggingface.read_config(path)
    module = families.family(huggingface.read_json(path), str(path))
    listing = tensors.listing(path).values()
    files = {tensor.file for tensor in listing}
    stored = {
        "files": len(files),
        "bytes": sum(file.stat().st_size for file in files),
        "types": sorted({tensor.dtype for tensor in listing}),
    }
    family = module.__name__.rpartition(".")[2]
    return config, {"family": family, "architecture": module.ARCHITECTURE, "stored": stored}


def _print(found: dict[str, Any]) -> None:
    """A column for each checkpoint, then what the figures assume."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, padding=0)
    table.add_column("")
    columns = [_column(model, found) for model in found["models"]]
    for model in found["models"]:
        name = Path(model["checkpoint"]).resolve().name
        table.add_column(name, justify="right", overflow="fold")
    for name in dict.fromkeys(name for column in columns for name in column):
        table.add_row(name, *(column.get(name, "–") for column in columns))
    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal:  # a pipe or a file is as wide as the table
        console.width = max(console.width, 160)
    console.print(table)
    axes = " × ".join(f"{axis} {size}" for axis, size in found["mesh"].items())
    console.print(
        f"bytes of one device of {axes}, in {found['dtype']}, for {found['batch_size']} rows of "
        f"{found['context']} tokens: rows are split over data × fsdp, parameters laid out as "
        "training does today (cat.mesh.param_spec)",
        soft_wrap=True,
    )


def _column(model: dict[str, Any], found: dict[str, Any]) -> dict[str, str]:
    """The figures as text, in the order of the table."""
    from rich.filesize import decimal

    stored, flops = model["stored"], model["flops"]
    query = f"{found['prompt_tokens']} + {found['response_tokens']} tokens"
    rows = {"family": model["family"], "architecture": model["architecture"]}
    rows |= {name.replace("_", " "): _text(value) for name, value in model["sizes"].items()}
    rows |= {f"parameters, {name}": f"{n:,}" for name, n in model["parameters"].items()}
    rows["stored"] = f"{decimal(stored['bytes'])} {'/'.join(stored['types'])}"
    rows |= {
        f"FLOPs, next token at {found['context']}": f"{flops['next_token']:.4g}",
        "FLOPs, next token, 2N": f"{flops['next_token_2n']:.4g}",
        f"FLOPs, {query}": f"{flops['query']:.4g}",
        f"FLOPs, {query}, 2N": f"{flops['query_2n']:.4g}",
    }
    rows |= {f"to train: {k}": decimal(n) for k, n in model["training_bytes"].items()}
    return rows | {f"to serve: {k}": decimal(n) for k, n in model["serving_bytes"].items()}


def _text(value: Any) -> str:
    """A field of the configuration; per-layer lists as counts, e.g. ``15 x 512, 3 x 0``."""
    if isinstance(value, list):
        return ", ".join(f"{value.count(v)} x {v}" for v in dict.fromkeys(value))
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    return str(value)
