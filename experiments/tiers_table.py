"""`cascade evaluate --tiers`: every way to use more than two models, as tables or JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from experiments.commandline import print_json
from experiments.rundir import write_json
from routers.build import build
from routers.compare_tiers import compare_tiers
from routers.errors import InputError
from routers.records import read

SHOWN = (0.2, 0.4, 0.6, 0.8, 1.0)
"""Of the budgets in the JSON, those in the tables."""

NAMES = {
    "alone": "alone",
    "static": "static mixture",
    "routing": "routing",
    "cascade": "cascade",
    "pair": "cascade of two",
    "cascade_routing": "cascade routing",
}


def evaluate_tiers(
    records: Sequence[Path],
    tiers: str,
    routers: Sequence[str],
    *,
    fit_split: str,
    test_split: str,
    bootstrap: int,
    seed: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Compare and print; ``tiers.json`` in the folder ``out``, if given.

    Raises:
        InputError: what ``compare_tiers`` refuses, or a tier without a name.
    """
    models = tiers.split(",")
    if "" in models:
        raise InputError(f"--tiers {tiers}: a tier without a name; give M1,M2,... cheapest first")
    found = compare_tiers(
        read(records),
        models,
        {spec: build(spec) for spec in routers},
        fit_split=fit_split,
        test_split=test_split,
        bootstrap=bootstrap,
        seed=seed,
    )
    if out:
        write_json(out / "tiers.json", found)
    if as_json:
        print_json(found)
    else:
        print_tiers(found, out)


def print_tiers(found: dict[str, Any], folder: Path | None) -> None:
    """Quality at each budget and what was spent of it; then the difference from the cascade."""
    console = Console(markup=False, emoji=False)
    if not console.is_terminal:
        console.width = max(console.width, 220)
    alone = " → ".join(f"{name} {quality:.4f}" for name, quality in found["quality"].items())
    title = (
        f"{alone}; best of all {found['quality_oracle']:.4f}; {found['n_test']:,} test queries\n"
        f"quality @ share of the budget spent; settings chosen on {found['n_fit']:,} fit queries"
    )
    console.print(_table(found, title, _spent, "mean_quality", _plain))
    first = next(row for row in found["policies"] if row["policy"] == "cascade")
    others = found | {"policies": [row for row in found["policies"] if row is not first]}
    title = f"quality minus that of the cascade ({first['router']}) at the same budget, 95 %"
    console.print(_table(others, title, _minus, "mean_minus_cascade", _signed))
    if folder:
        console.print(f"tiers.json: {folder}", highlight=False, soft_wrap=True)


def _table(found: dict[str, Any], title: str, cell: Any, mean: str, shown: Any) -> Table:
    """One row per policy, one column per budget shown, and the mean over all ten."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=0)
    for column in ("policy", "router", "models"):
        table.add_column(column, overflow="fold")
    places = [found["budget_shares"].index(share) for share in SHOWN]
    for place in places:
        table.add_column(f"{found['budgets'][place]:.4g} {found['cost_unit']}", justify="right")
    table.add_column("mean of 10", justify="right")
    for row in found["policies"]:
        cells = [cell(row["points"][p], found["budgets"][p]) for p in places]
        names = (NAMES[row["policy"]], row["router"] or "", ",".join(row["models"]))
        table.add_row(*names, *cells, shown(row[mean]))
    return table


def _spent(point: dict[str, Any] | None, budget: float) -> str:
    if point is None:
        return "–"
    share = f" @ {point['cost'] / budget:.0%}" if budget > 0 else ""
    return f"{point['quality']:.4f}{share}"


def _minus(point: dict[str, Any] | None, budget: float) -> str:
    return "–" if point is None else _signed(point["minus_cascade"])


def _plain(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _signed(difference: dict[str, Any] | None) -> str:
    """``+0.012 [+0.003, +0.021]``."""
    if difference is None:
        return "–"
    ci = difference["ci"]
    ends = "" if ci is None else f" [{ci[0]:+.3f}, {ci[1]:+.3f}]"
    return f"{difference['value']:+.3f}{ends}"
