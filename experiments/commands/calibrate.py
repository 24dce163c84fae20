"""choose thresholds on validation and write a policy to deploy, over two models or more"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from experiments.commandline import parse, print_json
from routers.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from routers.policy import Policy
    from routers.targets import Target
    from routers.tier_policy import TierPolicy

Split = Literal["train", "validation", "test"]
Kind = Literal["cascade", "routing", "cascade_routing", "static"]


@dataclasses.dataclass(frozen=True)
class Calibrate:
    """Choose a policy's settings for one target, write POLICY.json (docs/calibrating.md).

    Example: cascade calibrate logs.parquet --router chow_average --max-quality-loss 0.02 \\
      --delta 0.1 -o policy.json
    """

    records: tyro.conf.Positional[tuple[Path, ...]]  # Parquet files (docs/records.md)
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]  # the policy file, ending in .json
    router: str | None = None  # NAME[:field=value,...], or score:NAME for a ready-made column
    tiers: str | None = None  # M1,M2,...: over these models, cheapest first (docs/tiers.md)
    kind: Kind = "cascade"  # with --tiers: what decides; routing and static take no router
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
    from routers.targets import Target

    names = [field.name for field in dataclasses.fields(Target)]
    target = Target(**{name: getattr(options, name) for name in names})
    if options.tiers is None:
        _two_models(options, target)
    else:
        _tiers(options, target)


def _two_models(options: Calibrate, target: Target) -> None:
    """A router and its thresholds."""
    from routers.build import build
    from routers.operating_point import calibrate
    from routers.policy import as_json
    from routers.records import read

    if options.router is None:
        raise InputError("--router is missing; name one (`cascade routers` lists them)")
    if options.kind != "cascade":
        raise InputError(f"--kind {options.kind} goes with --tiers M1,M2,...; name the models")
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


def _tiers(options: Calibrate, target: Target) -> None:
    """A policy over the models named; what else is asked for must make sense with it."""
    plain = Calibrate(options.records, options.out)
    for name in ("small", "large", "per_task"):
        if getattr(options, name) != getattr(plain, name):
            raise InputError(f"--{name.replace('_', '-')} does not go with --tiers; leave it out")
    models = (options.tiers or "").split(",")
    if "" in models:
        raise InputError(
            f"--tiers {options.tiers}: a tier without a name; give M1,M2,... cheapest first"
        )
    from routers.build import build
    from routers.records import read
    from routers.tier_calibration import calibrate

    policy = calibrate(
        read(options.records),
        models,
        target,
        kind=options.kind,
        router=None if options.router is None else build(options.router),
        name=options.router or "",
        split=options.fit_split,
    )
    policy.save(options.out)
    if options.json:
        print_json({"models": models, **policy.about, "policy": str(options.out)})
    else:
        _print_tiers(policy, options)


def _print(policy: Policy, options: Calibrate) -> None:
    """What each threshold reached on the calibration queries, and what it promises."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    about = policy.about
    asked = _asked(about)
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
    console = _console()
    console.print(table)
    for _, _, row in rows:
        if "not_supported" in row:
            console.print(f"sent on whole: {row['not_supported']}", soft_wrap=True)
    if about["needs_score"]:
        console.print(f"decides on: column '{about['needs_score']}'", soft_wrap=True)
    console.print(f"promise: {about['promise']}", soft_wrap=True)
    console.print(f"policy: {options.out}", soft_wrap=True)


def _rows(policy: Policy) -> list[tuple[str, str, dict[str, Any]]]:
    """Name, threshold and figures: of all queries, or of all, each task, and any other task."""
    about, pooled = policy.about, f"{policy.threshold:.6g}"
    if not policy.task_thresholds:
        return [("all", pooled, about)]
    tasks = [(t, f"{policy.task_thresholds[t]:.6g}", row) for t, row in about["tasks"].items()]
    return [("all", "by task", about), *tasks, ("any other", pooled, about["other_tasks"])]


def _print_tiers(policy: TierPolicy, options: Calibrate) -> None:
    """What was expected and found, what each model does, and what the policy promises."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    about, found = policy.about, policy.about["found"]
    by = f" by {options.router}" if options.router else ""
    how = "tested" if about["bound"] else "chosen"
    title = (
        f"{about['kind']}{by}, {' → '.join(policy.models)}: {_asked(about)}\n"
        f"{how} on {found['n']:,} queries of '{about['fit_split']}':"
    )
    means = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=0)
    means.add_column("")
    for name in ("quality", "of the last", "lost", f"{about['cost_unit']} a query"):
        means.add_column(name, justify="right", overflow="fold")
    for label, row in (("expected", about["expected"]), ("found", found)):
        cells = (row.get(key) for key in ("quality", "quality_last", "quality_lost"))
        shown = ("–" if value is None else f"{value:.4f}" for value in cells)
        means.add_row(label, *shown, f"{row['cost']:.4g}")
    models = Table(box=SIMPLE_HEAD, padding=0)
    models.add_column("model", overflow="fold")
    for name in ("run", "answers", "sends on from"):
        models.add_column(name, justify="right")
    ends = _thresholds(policy)
    shares = zip(policy.models, found["visited"], found["answered"], ends, strict=True)
    for model, run, answers, threshold in shares:
        models.add_row(model, f"{run:.1%}", f"{answers:.1%}", threshold)
    console = _console()
    console.print(means)
    console.print(models)
    console.print(f"promise: {about['promise']}", soft_wrap=True)
    console.print(f"policy: {options.out}", soft_wrap=True)


def _thresholds(policy: TierPolicy) -> list[str]:
    """The score from which each model's answer is sent on, where it is that which decides."""
    from routers.cascade import Cascade

    if not isinstance(policy, Cascade):
        return ["–"] * len(policy.models)
    return [*(f"{threshold:.6g}" for threshold in policy.thresholds), "–"]


def _asked(about: dict[str, Any]) -> str:
    """The target in one line."""
    given = about["target"].items()
    return ", ".join(name if value is True else f"{name} {value:g}" for name, value in given)


def _console() -> Console:
    """Names are shown as they are; a pipe or a file is as wide as the table."""
    from rich.console import Console

    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, 160)
    return console
