"""docs/results.md: tables of every finished run, written between two markers.

The prose around the markers is a person's reading and is left alone; every number between
them comes from summary.json and robustness.json of the runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.rundir import read_json, write_text
from routers.errors import InputError

BEGIN, END = "<!-- numbers: begin -->", "<!-- numbers: end -->"
ROUTERS = {
    "chow_average": "Chow-Average",
    "chow_quantile:alpha=0": "Chow-Quantile-0",
    "edge_inference": "edge_inference",
    "cat_router": "cat_router",
    "post_hoc:learner=booster": "booster",
}


def write(page: Path, runs: Sequence[Path]) -> None:
    """Replace what stands between the markers of the page by the tables of these runs."""
    text = page.read_text()
    if BEGIN not in text or END not in text:
        raise InputError(f"{page}: lacks the lines '{BEGIN}' and '{END}'; put them back")
    head, _, rest = text.partition(BEGIN)
    tail = rest.partition(END)[2]
    body = "\n".join(section(run) for run in runs)
    write_text(page, f"{head}{BEGIN}\n\n{body}\n{END}{tail}")


def section(run: Path) -> str:
    """One run: what it was, areas by arm and router, comparisons, robustness."""
    summary = read_json(run / "summary.json")
    parts = [f"### {summary['name']}", "", _about(run, summary), "", _areas(summary), ""]
    parts += [_comparisons(summary), ""]
    if (run / "robustness.json").exists():
        parts += [_robustness(read_json(run / "robustness.json")), ""]
    return "\n".join(parts)


def _about(run: Path, summary: dict[str, Any]) -> str:
    data = read_json(run / "data.json")
    small, large = data["parameters"]["small"], data["parameters"]["large"]
    quality = summary["large"]["quality"]["mean"]
    rows = list(summary["arms"].values())
    spent = summary["large"]["flops"] / rows[0]["small_flops"]
    minutes = summary["provenance"]["duration_s"] / 60
    return (
        f"Small {small:,} parameters, large {large:,} ({spent:.0f} × the FLOPs a query), large "
        f"alone {quality:.3f} ({summary['quality_unit']}); {summary['n_fit']:,} validation and "
        f"{summary['n_test']:,} test queries, {len(summary['seeds'])} seeds; "
        f"{minutes:.0f} minutes on one core."
    )


def _areas(summary: dict[str, Any]) -> str:
    """Area under the deferral curve, mean over seeds with its 95 % interval."""
    header = ["arm", "keep rate", "small alone", "random", *ROUTERS.values(), "oracle"]
    rows = []
    for arm, row in summary["arms"].items():
        routers = row["routers"]
        known = [routers[name] for name in ROUTERS if name in routers]
        keep = "–" if row["keep_rate"] is None else f"{row['keep_rate']:.2f}"
        cells = [arm, keep, f"{row['small_quality']['mean']:.3f}"]
        cells += [f"{known[0]['audc_random']:.3f}"]
        cells += [_audc(routers.get(name)) for name in ROUTERS]
        rows.append([*cells, f"{known[0]['audc_oracle']:.3f}"])
    return "Area under the deferral curve (sweep on test):\n\n" + table(header, rows)


def _audc(values: dict[str, Any] | None) -> str:
    if values is None:
        return "–"
    ci = values["audc"]["ci"]
    interval = "" if ci is None else f" [{ci[0]:.3f}, {ci[1]:.3f}]"
    return f"{values['audc']['mean']:.3f}{interval}"


def _comparisons(summary: dict[str, Any]) -> str:
    """Paired differences of areas, intervals over queries and seeds; bold where 0 is outside."""
    header = ["arm", "router", "against", "with router", "difference", "95 % interval"]
    rows = []
    for row in summary["comparisons"]:
        other = row.get("against_router", row["router"])
        if row["metric"] != "audc" or {row["router"], other} - set(ROUTERS):
            continue
        if row["router"] != "chow_average" and row["arm"] != "cat_xent":
            continue
        rows.append([row["arm"], row["router"], row["against"], other, *_difference(row, "+.4f")])
    flops = [row for row in summary["comparisons"] if row["metric"] == "flops_at_equal_quality"]
    lines = "Paired differences of areas:\n\n" + table(header, rows)
    header = ["arm", "against", "at quality", "FLOPs, relative", "95 % interval"]
    rows = [
        [r["arm"], r["against"], f"{r['at_quality']:.3f}", *_difference(r, "+.1%")] for r in flops
    ]
    return f"{lines}\n\nFLOPs at equal quality, both with Chow-Average:\n\n{table(header, rows)}"


def _difference(row: dict[str, Any], form: str) -> list[str]:
    value, ci = row["difference"], row["ci"]
    if value is None:
        return ["not reached", "–"]
    if ci is None:
        return [format(value, form), "–"]
    text = format(value, form)
    sure = not ci[0] <= 0 <= ci[1]
    return [f"**{text}**" if sure else text, f"[{ci[0]:{form}}, {ci[1]:{form}}]"]


def _robustness(answers: dict[str, Any]) -> str:
    """Areas with few labels, on unseen tasks and on a skewed mix; mean over seeds."""
    budgets = [str(n) for n in answers["budgets"]]
    header = ["arm", "router", *(f"{n} labels" for n in budgets), "unseen tasks", "skewed mix"]
    rows = []
    for arm, routers in answers["arms"].items():
        for name, row in routers.items():
            cells = [_mean([seed[n] for seed in row["labels"]]) for n in budgets]
            rows.append([arm, name, *cells, _mean(row["unseen"]), _mean(row["skewed"])])
    return "Few labels, unseen tasks, a skewed test mix (areas):\n\n" + table(header, rows)


def _mean(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{sum(known) / len(known):.3f}" if known and len(known) == len(values) else "–"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table.

    >>> print(table(["a", "b"], [["1", "2"]]))
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    head, *body = ("| " + " | ".join(line) + " |" for line in (header, *rows))
    return "\n".join([head, "|" + "---|" * len(header), *body])
