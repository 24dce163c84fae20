"""compare routers on records (your own logs too); no model, no accelerator"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from experiments.commandline import parse, print_json
from routers.errors import InputError

Split = Literal["train", "validation", "test"]
Convention = Literal["exact", "routellm", "all"]


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
    tiers: str | None = None  # M1,M2,...: compare all ways to use these models, cheapest first
    fit_split: Split = "validation"  # learned routers and thresholds are fitted here
    test_split: Split = "test"  # and judged here
    bootstrap: int = 1_000  # paired resamples of the queries for the intervals
    by_task: bool = False  # also per task, and their macro average
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None  # folder for curves and JSON
    json: bool = False  # print one JSON object instead of the table
    seed: int = 0  # of the resamples
    stream: bool = False  # read batch by batch: logs larger than memory, training-free routers
    convention: Convention = "exact"  # add RouteLLM's own figures, or all papers' (docs/metrics.md)
    report: Path | None = None  # compare them in one page (.html) or one figure (.png, .svg, .pdf)


def main(arguments: Sequence[str]) -> None:
    """`cascade evaluate RECORDS... [--router NAME[:field=value,...]]...`."""
    options = parse(Evaluate, arguments, "cascade evaluate")
    if options.out and options.out.exists() and not options.out.is_dir():
        raise InputError(f"{options.out}: a file; -o takes a folder")
    _check_report(options)
    if options.tiers is not None:
        return _evaluate_tiers(options)
    from routers.build import build
    from routers.evaluate import evaluate, write_curves
    from routers.evaluate_stream import evaluate_stream
    from routers.records import read

    records = None if options.stream else read(options.records)
    if records is None:
        measure = partial(evaluate_stream, options.records)
    else:
        measure = partial(evaluate, records)
    done = measure(
        {spec: build(spec) for spec in options.router},
        small=options.small,
        large=options.large,
        fit_split=options.fit_split,
        test_split=options.test_split,
        bootstrap=options.bootstrap,
        by_task=options.by_task,
        seed=options.seed,
        convention=options.convention,
    )
    if options.report and records is not None:
        from experiments import lab_data, lab_figure, lab_report

        shared = ("fit_split", "test_split", "bootstrap", "seed")
        settings = {name: getattr(options, name) for name in shared}
        form = lab_report if options.report.suffix == ".html" else lab_figure
        form.write(lab_data.gather(done, records, options.records, **settings), options.report)
    if options.out:
        from experiments.rundir import write_json

        done = write_curves(done, options.out)
        write_json(options.out / "evaluation.json", done.summary)
    if options.json:
        print_json(done.summary)
    else:
        from experiments.table import print_evaluation

        print_evaluation(done.summary, options.out)
        if options.convention != "exact":
            _print_conventions(done.summary)
        if options.report:
            print(f"report: {options.report}")


def _check_report(options: Evaluate) -> None:
    """Refuse a report that could not be written, before anything is computed."""
    if options.report is None:
        return
    endings = (".html", ".png", ".svg", ".pdf")
    if options.report.suffix not in endings or options.report.is_dir():
        raise InputError(
            f"{options.report}: --report takes the name of a file ending in {', '.join(endings)}"
        )
    for name, asked in (("tiers", options.tiers is not None), ("stream", options.stream)):
        if asked:
            raise InputError(f"--report does not go with --{name}; leave one of them out")


def _evaluate_tiers(options: Evaluate) -> None:
    """The comparison of docs/tiers.md; what else is asked for must make sense with it."""
    plain = Evaluate(options.records)
    for name in ("small", "large", "by_task", "convention", "stream"):
        if getattr(options, name) != getattr(plain, name):
            raise InputError(f"--{name.replace('_', '-')} does not go with --tiers; leave it out")
    from experiments.tiers_table import evaluate_tiers

    evaluate_tiers(
        options.records,
        options.tiers or "",
        options.router,
        fit_split=options.fit_split,
        test_split=options.test_split,
        bootstrap=options.bootstrap,
        seed=options.seed,
        out=options.out,
        as_json=options.json,
    )


# Our metric of the exact curve that stands beside a convention's figure of another name.
_BESIDE = {"auc": "audc", "s_d": "audc_normalised", "area": "aucfc"}


def _print_conventions(summary: dict[str, Any]) -> None:
    """One row per router and figure: by its convention, and ours on the exact curve beside it.

    With ``--by-task`` all queries first, then each task.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    title = "Figures as reference programs count them (docs/metrics.md)"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=0)
    tasks = summary.get("tasks")
    for column in ("task", "router", "convention", "figure")[0 if tasks else 1 :]:
        table.add_column(column, overflow="fold")
    for column in ("by convention", "exact curve"):
        table.add_column(column, justify="right")
    for task, part in [("(all)", summary), *(tasks or {}).items()]:
        for name, row in part["routers"].items():
            for cells in _convention_rows(row):
                table.add_row(*((task, name) if tasks else (name,)), *cells)
            table.add_section()
    console = Console(markup=False, emoji=False)
    if not console.is_terminal:
        console.width = max(console.width, 160)
    console.print(table)


def _convention_rows(row: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Convention, figure, and its value by either of one router."""
    ours = row | {f"cpt {x}": share for x, share in row["cpt"].items()}
    return [
        (convention, figure, _shown(theirs), _shown(ours.get(_BESIDE.get(figure, figure))))
        for convention, values in row["conventions"].items()
        for figure, theirs in _figures(values)
    ]


def _figures(values: dict[str, Any] | None) -> list[tuple[str, float | None]]:
    """(name, value) of one convention's single numbers; a dash where it is not defined."""
    if values is None:
        return [("not defined here", None)]
    plain = [(k, v) for k, v in values.items() if not isinstance(v, dict | list)]
    return plain + [(f"cpt {x}", share) for x, share in values.get("cpt", {}).items()]


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.6f}"
