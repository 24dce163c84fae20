"""say which of several routers is better, how surely, and why"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import tyro

from experiments.commandline import parse, print_json

Split = Literal["train", "validation", "test"]


@dataclasses.dataclass(frozen=True)
class Compare:
    """Compare routers pair by pair: paired intervals, corrected p-values, diagnoses, drift.

    Example: cascade compare logs.parquet --router chow_average --router margin
    """

    records: tyro.conf.Positional[tuple[Path, ...]]  # Parquet files (docs/records.md)
    router: tyro.conf.UseAppendAction[tuple[str, ...]] = ()  # NAME[:field=value,...]; repeatable
    small: str | None = None  # the smaller model's name; needed when there are more than two
    large: str | None = None  # the larger model's name
    fit_split: Split = "validation"  # learned routers are fitted here; drift is measured from here
    test_split: Split = "test"  # and all are judged here
    bootstrap: int = 1_000  # paired resamples of the queries for the intervals
    permutations: int = 10_000  # of each p-value
    worthwhile: float = 0.01  # the difference in area that would matter, for "queries needed"
    json: bool = False  # print one JSON object instead of the tables
    seed: int = 0  # of resamples and permutations


def main(arguments: Sequence[str]) -> None:
    """`cascade compare RECORDS... --router A --router B [--json]`."""
    options = parse(Compare, arguments, "cascade compare")
    from routers.build import build
    from routers.comparison import compare_records
    from routers.records import read

    found = compare_records(
        read(options.records),
        {spec: build(spec) for spec in options.router},
        small=options.small,
        large=options.large,
        fit_split=options.fit_split,
        test_split=options.test_split,
        resamples=options.bootstrap,
        permutations=options.permutations,
        worthwhile=options.worthwhile,
        seed=options.seed,
    )
    if options.json:
        print_json(found)
    else:
        _print(found)


def _print(found: dict[str, Any]) -> None:
    """Two tables, then what follows from them in sentences."""
    from rich.console import Console

    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal:  # a pipe or a file is as wide as the table
        console.width = max(console.width, 160)
    console.print(_router_table(found))
    console.print(_pair_table(found))
    for line in _sentences(found):
        console.print(line, soft_wrap=True)


def _router_table(found: dict[str, Any]) -> Any:
    quality = found["quality"]
    table = _table(
        f"{found['small']} → {found['large']}: {found['n_test']:,} test queries; quality "
        f"{quality['small']:.4f} → {quality['large']:.4f}; 95 % intervals",
        ("router",),
        ("AUDC", "95 %", "over random", "to oracle", "AUROC wrong", "AUROC helped", "ρ length"),
    )
    for name, row in found["routers"].items():
        gap = row["oracle_gap"]
        table.add_row(
            name,
            f"{row['audc']:.4f}",
            _interval(row["audc_ci"]),
            *(_valued(gap[step]["value"], gap[step]["ci"]) for step in ("earned", "ranking")),
            *(_valued(row[key], row[f"{key}_ci"], 2) for key in _FIGURES),
        )
    return table


_FIGURES = ("auroc_wrong", "auroc_helped", "spearman_length")


def _pair_table(found: dict[str, Any]) -> Any:
    settings = found["settings"]
    needed = f"queries for {settings['worthwhile']:g}"
    table = _table(
        "Differences of AUDC, paired; p by permutation, and corrected for all pairs (Holm)",
        ("better", "than"),
        ("by", "95 %", "p", "p Holm", "detectable", needed),
    )
    for row in found["comparisons"]:
        queries = row["queries_needed"]
        table.add_row(
            row["a"],
            row["b"],
            f"{row['difference']:.4f}",
            _interval(row["ci"]),
            f"{row['p_permutation']:.4f}",
            f"{row['p_holm']:.4f}",
            f"{row['detectable']:.4f}",
            "–" if queries is None else f"{queries:,}",
        )
    return table


def _sentences(found: dict[str, Any]) -> list[str]:
    """The finding, then the data's own drift and length, then each router's thresholds."""
    lines = [_finding(found)]
    gap = next(iter(found["routers"].values()))["oracle_gap"]
    small, both = (gap[step]["value"] for step in ("small_model", "both_models"))
    lines.append(
        f"beyond a perfect ranking, a better small model would add up to {small:.4f}; "
        f"{both:.4f} is where both models fall short"
    )
    if found["length"] is not None and found["length"]["spearman_gain"] is not None:
        of_gain = found["length"]["spearman_gain"]
        lines.append(f"the gain itself follows length with ρ = {of_gain:.2f}")
    if found["task_mix"] is not None:
        lines.append(found["task_mix"]["sentence"])
    for name, row in found["routers"].items():
        if row["drift"] is not None:
            learned = ", fitted on those queries" if row["learned"] else ""
            lines.append(f"{name}{learned}: {row['drift']['sentence']}")
    return lines


def _finding(found: dict[str, Any]) -> str:
    """Which routers the best one to deploy is told apart from, after the correction."""
    level = found["settings"]["level"]
    usable = [name for name, row in found["routers"].items() if not row["peeks"]]
    if len(usable) < 2:
        return "reference lines apart there is one router: nothing to choose between"
    best, rest = usable[0], usable[1:]
    p = {row["b"]: row["p_holm"] for row in found["comparisons"] if row["a"] == best}
    alike = [name for name in rest if p[name] > level]
    if not alike:
        return f"{best} is better than every other router (p Holm <= {level:g})"
    return f"{best} has the largest area; not told apart from it: {', '.join(alike)}"


def _table(title: str, names: tuple[str, ...], numbers: tuple[str, ...]) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=0)
    for column in names:
        table.add_column(column, overflow="fold")
    for column in numbers:
        table.add_column(column, justify="right", overflow="fold")
    return table


def _interval(ci: list[float] | None, digits: int = 4) -> str:
    return "–" if ci is None else f"[{ci[0]:.{digits}f}, {ci[1]:.{digits}f}]"


def _valued(value: float | None, ci: list[float] | None, digits: int = 4) -> str:
    return "–" if value is None else f"{value:.{digits}f} {_interval(ci, digits)}"
