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
    head, begun, rest = page.read_text("utf-8").partition(BEGIN)
    _, ended, tail = rest.partition(END)
    if not begun or not ended:
        raise InputError(f"{page}: lacks the lines '{BEGIN}' and '{END}'; put them back")
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
    return (
        f"Small {small:,} parameters, large {large:,} ({spent:.0f} × the FLOPs a query), large "
        f"alone {quality:.3f} ({summary['quality_unit']}); {summary['n_fit']:,} validation and "
        f"{summary['n_test']:,} test queries, {len(summary['seeds'])} seeds."
        f"{_hits(summary['large'])}"
    )


def _hits(large: dict[str, Any]) -> str:
    """Whether the large model has memorised its training rows, which would blunt CAT's mask."""
    rates = large.get("hit_rate")
    if not rates:
        return ""
    return (
        f" The large model's teacher-forced hits: {rates['train']:.1%} of training tokens, "
        f"{rates['validation']:.1%} of validation's."
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
    """Paired differences of areas, intervals over queries and seeds."""
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
    return [format(value, form), f"[{ci[0]:{form}}, {ci[1]:{form}}]"]


def _robustness(answers: dict[str, Any]) -> str:
    """Areas with few labels, on unseen tasks and on a skewed mix, and CAT's paired lead."""
    ours = " with ".join(answers["ours"])
    conditions = list(dict.fromkeys(row["condition"] for row in answers["rows"]))
    cells = {(r["arm"], r["router"], r["condition"]): r for r in answers["rows"]}
    sides = list(dict.fromkeys((r["arm"], r["router"]) for r in answers["rows"]))
    areas = [[*side, *(_audc(cells[(*side, c)]) for c in conditions)] for side in sides]
    leads = [
        [*side, *(_lead(cells[(*side, c)]) for c in conditions)]
        for side in sides
        if list(side) != answers["ours"]
    ]
    header = ["arm", "router", *conditions]
    return (
        f"Few labels, unseen tasks, a skewed test mix (areas):\n\n{table(header, areas)}\n\n"
        f"What {ours} is ahead of each by (paired):\n\n{table(header, leads)}"
    )


def _lead(row: dict[str, Any]) -> str:
    value, ci = row["ours_minus_this"], row["ci"]
    interval = "" if ci is None else f" [{ci[0]:+.3f}, {ci[1]:+.3f}]"
    return f"{value:+.3f}{interval}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table.

    >>> print(table(["a", "b"], [["1", "2"]]))
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    head, *body = ("| " + " | ".join(line) + " |" for line in (header, *rows))
    return "\n".join([head, "|" + "---|" * len(header), *body])
