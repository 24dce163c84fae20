"""compare routers on records (your own logs too); no model, no accelerator"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from experiments.commandline import parse, print_json
from experiments.rundir import write_json
from experiments.table import print_evaluation
from routers.errors import InputError

Split = Literal["train", "validation", "test"]


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Compare routers on Records: areas, savings at equal quality, intervals.

    Example: cascade evaluate logs.parquet --small qwen3-0.6b --large qwen3-8b \\
      --router chow_average --router chow_quantile:alpha=0 -o out
    """

    records: tyro.conf.Positional[tuple[Path, ...]]  # Parquet files (docs/records.md)
    router: tyro.conf.UseAppendAction[tuple[str, ...]] = ()  # NAME[:field=value,...]; repeatable
    small: str | None = None  # the smaller model's name; needed when there are more than two
    large: str | None = None  # the larger model's name
    fit_split: Split = "validation"  # learned routers and thresholds are fitted here
    test_split: Split = "test"  # and judged here
    bootstrap: int = 1_000  # paired resamples of the queries for the intervals
    by_task: bool = False  # also per task, and their macro average
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None  # folder for curves and JSON
    json: bool = False  # print one JSON object instead of the table
    seed: int = 0  # of the resamples


def main(arguments: Sequence[str]) -> None:
    """`cascade evaluate RECORDS... [--router NAME[:field=value,...]]...`."""
    options = parse(Evaluate, arguments, "cascade evaluate")
    if options.out and options.out.exists() and not options.out.is_dir():
        raise InputError(f"{options.out}: a file; -o takes a folder")
    from routers.build import build
    from routers.evaluate import evaluate, write_curves
    from routers.records import read

    done = evaluate(
        read(options.records),
        {spec: build(spec) for spec in options.router},
        small=options.small,
        large=options.large,
        fit_split=options.fit_split,
        test_split=options.test_split,
        bootstrap=options.bootstrap,
        by_task=options.by_task,
        seed=options.seed,
    )
    if options.out:
        done = write_curves(done, options.out)
        write_json(options.out / "evaluation.json", done.summary)
    if options.json:
        print_json(done.summary)
    else:
        print_evaluation(done.summary, options.out)
