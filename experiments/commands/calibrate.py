"""choose a router's threshold on validation and write a policy to deploy"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from experiments.commandline import parse, print_json
from routers.errors import InputError

if TYPE_CHECKING:
    from routers.policy import Policy

Split = Literal["train", "validation", "test"]


@dataclasses.dataclass(frozen=True)
class Calibrate:
    """Choose a router's threshold for one target, write POLICY.json (docs/calibrating.md).

    Example: cascade calibrate logs.parquet --router chow_average --max-quality-loss 0.02 \\
      --delta 0.1 -o policy.json
    """

    records: tyro.conf.Positional[tuple[Path, ...]]  # Parquet files (docs/records.md)
    router: str  # NAME[:field=value,...]
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]  # the policy file, ending in .json
    deferral_rate: float | None = None  # target: share of queries to send on, in [0, 1]
    budget_flops: float | None = None  # target: mean FLOPs a query
    budget_dollars: float | None = None  # target: mean dollars a query
    budget_latency: float | None = None  # target: mean seconds a query
    quality: float | None = None  # target: mean quality, in [0, 1]
    max_quality_loss: float | None = None  # target: promised to lie within this of the large model
    delta: float | None = None  # the promise may fail with this probability (Learn then Test)
    in_expectation: bool = False  # or: it holds on average (conformal risk control)
    per_task: bool = False  # a threshold for each task; unknown tasks get the pooled one
    small: str | None = None  # the smaller model's name; needed when there are more than two
    large: str | None = None  # the larger model's name
    fit_split: Split = "validation"  # its queries calibrate; half of them fit a learned router
    json: bool = False  # print one JSON object instead of the table


def main(arguments: Sequence[str]) -> None:
    """`cascade calibrate RECORDS... --router R --deferral-rate X -o POLICY.json`."""
    options = parse(Calibrate, arguments, "cascade calibrate")
    from routers.build import build
    from routers.operating_point import calibrate
    from routers.policy import as_json
    from routers.records import read
    from routers.targets import Target

    names = [field.name for field in dataclasses.fields(Target)]
    target = Target(**{name: getattr(options, name) for name in names})
    router = build(options.router)
    if router.peeks:
        raise InputError(f"router '{options.router}' sees outcomes; it cannot be deployed")
    policy = calibrate(
        read(options.records),
        router,
        target,
        per_task=options.per_task,
        small=options.small,
        large=options.large,
        split=options.fit_split,
    )
    policy.save(options.out)
    if options.json:
        by_task = {task: as_json(value) for task, value in policy.task_thresholds.items()}
        found = {"threshold": as_json(policy.threshold), "task_thresholds": by_task}
        print_json(policy.about | found | {"policy": str(options.out)})
    else:
        _print(policy, options)


def _print(policy: Policy, options: Calibrate) -> None:
    """What each threshold reached on the calibration queries, and what it promises."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    about = policy.about
    asked = ", ".join(name if v is True else f"{name} {v:g}" for name, v in about["target"].items())
    title = (
        f"{options.router}, {about['small']} → {about['large']}: {asked}\n"
        f"reached on {about['n_calibration']:,} queries of '{about['fit_split']}':"
    )
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=0)
    table.add_column("task", overflow="fold")
    unit = f"{about['cost_unit']} a query"
    for name in ("threshold", "n", "sent on", "quality", "of the large", "lost", unit):
        table.add_column(name, justify="right", overflow="fold")
    rows = _rows(policy)
    for task, threshold, row in rows:
        numbers = (f"{row[key]:.4f}" for key in ("quality", "quality_large", "quality_lost"))
        shown = (threshold, f"{row['n']:,}", f"{row['deferral_rate']:.1%}")
        table.add_row(task, *shown, *numbers, f"{row['cost']:.4g}")
    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal:  # a pipe or a file is as wide as the table
        console.width = max(console.width, 160)
    console.print(table)
    for _, _, row in rows:
        if "not_supported" in row:
            console.print(f"sent on whole: {row['not_supported']}", soft_wrap=True)
    console.print(f"promise: {about['promise']}", soft_wrap=True)
    console.print(f"policy: {options.out}", soft_wrap=True)


def _rows(policy: Policy) -> list[tuple[str, str, dict[str, Any]]]:
    """Name, threshold and figures: of all queries, or of all, each task, and any other task."""
    about, pooled = policy.about, f"{policy.threshold:.6g}"
    if not policy.task_thresholds:
        return [("all", pooled, about)]
    tasks = [(t, f"{policy.task_thresholds[t]:.6g}", row) for t, row in about["tasks"].items()]
    return [("all", "by task", about), *tasks, ("any other", pooled, about["other_tasks"])]
