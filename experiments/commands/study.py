"""regenerate the results page: every configuration behind it, resumable"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from experiments.commandline import existing, parse
from routers.errors import InputError, did_you_mean


@dataclasses.dataclass(frozen=True)
class Study:
    """Run every configuration of docs/results.md and rewrite the page; hours on two cores.

    Example: cascade study --data path/to/data
    """

    data: Path | None = None  # folder with clinc150/, scan/, … as JSONL; without it, generated only
    only: tuple[str, ...] = ()  # just these configurations
    runs: Path = Path("runs/study")  # folder of the run directories; finished ones are kept
    jobs: int = 2  # configurations at a time, one core each
    page: Path = Path("docs/results.md")  # the page to rewrite


def main(arguments: Sequence[str]) -> int:
    """`cascade study [--data DIR] [--only NAME ...]`."""
    options = parse(Study, arguments, "cascade study")
    from experiments import results, study

    everything = (*study.GENERATED, *study.REAL)
    for name in options.only:
        if name not in everything:
            raise InputError(f"unknown study '{name}'; {did_you_mean(name, list(everything))}")
    existing(options.page, "results page")
    names = options.only or (everything if options.data else study.GENERATED)
    if options.data is not None:
        for name in set(names) & set(study.REAL):
            existing(options.data / name, "data folder")
    elif set(names) & set(study.REAL):
        raise InputError("--data is needed for the real sets; give the folder that holds them")
    failed = study.run_all(names, options.data, options.runs, options.jobs)
    shown = (*everything, *study.APART)
    finished = [name for name in shown if (options.runs / name / "summary.json").exists()]
    results.write(options.page, [options.runs / name for name in finished])
    print(f"{options.page}: {len(finished)} runs")
    if failed:
        print(f"failed: {', '.join(failed)}; see their logs in {options.runs}")
    return 1 if failed else 0
