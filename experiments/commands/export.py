"""write a trained model as a Hugging Face checkpoint folder"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from experiments.commandline import existing, parse
from routers.errors import InputError, did_you_mean


@dataclasses.dataclass(frozen=True)
class Export:
    """A model of a finished run as a folder that transformers and vLLM load.

    Adapters are merged into the weights. A model that began as a checkpoint keeps its family,
    tokenizer and float type; one trained from nothing becomes a Llama.

    Example: cascade export runs/mine --arm cat_xent -o small-cat
    """

    run: tyro.conf.Positional[Path]  # a run directory
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]  # the folder to write; must be new
    arm: str = ""  # which arm of the small model; may be left out where there is one
    seed: int | None = None  # which seed; the first where left out
    large: bool = False  # the large model instead
    dtype: Literal["", "float32", "bfloat16", "float16"] = ""  # of the tensors; as they came


def main(arguments: Sequence[str]) -> None:
    """`cascade export RUN -o FOLDER [--arm NAME] [--seed N] [--large]`."""
    options = parse(Export, arguments, "cascade export")
    existing(options.run / "config.json", "run directory")
    from cat.config import Config, from_dict
    from experiments.rundir import RunDirectory, read_json

    config = from_dict(Config, read_json(options.run / "config.json"))
    arm, seed = options.arm, config.seeds[0] if options.seed is None else options.seed
    if not options.large:
        arm = arm or (config.arms[0] if len(config.arms) == 1 else "")
        if arm not in config.arms:
            said = f"unknown arm '{arm}'" if arm else "--arm is needed"
            raise InputError(f"{said}; {did_you_mean(arm, list(config.arms))}")
        if seed not in config.seeds:
            known = ", ".join(map(str, config.seeds))
            raise InputError(f"the run has no seed {seed}; Known: {known}")
    from experiments.export import export
    from experiments.pipeline import Pipeline, on_mesh

    with on_mesh():
        run = Pipeline(config, RunDirectory(options.run))
        export(run, "" if options.large else arm, seed, options.out, options.dtype)
    print(options.out)
