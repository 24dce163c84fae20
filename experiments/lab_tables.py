"""The tables of the router laboratory's report."""

from __future__ import annotations

from collections.abc import Sequence

from experiments import lab_text as text
from experiments.lab_data import RATES, Judged, Lab
from experiments.report_html import Cell, Column, mark_best, table
from experiments.report_text import Number
from routers.metrics import REACHED
from routers.paired import Difference

HALF = RATES.index(0.5)


def routers(lab: Lab) -> str:
    """One row per router, the largest area first; columns named as the glossary's terms."""
    columns = [Column("router", text=True)]
    columns += map(
        Column,
        ("AUDC", "gap closed", "behind", "cost area", "saving", "CPT", "AUROC", "ρ with length"),
    )
    columns += [Column("at 50 %: sent on"), Column("at 50 %: quality"), Column("stage", text=True)]
    rows = [_router(router) for router in lab.routers]
    deployable = len(lab.deployable)
    for column in (1, 2, 4, 5, 7):  # the largest is the best
        marked = mark_best([row[column] for row in rows[:deployable]])
        for row, cell in zip(rows, marked, strict=False):
            row[column] = cell
    return table("Routers by the area under quality against deferral rate", columns, rows)


def gap(lab: Lab) -> str:
    """The four steps from random to 1, with intervals."""
    columns = [Column("router", text=True)]
    columns += map(Column, ("earned", "perfect ranking", "perfect small model", "neither model"))
    rows = [
        [
            Cell(router.name),
            *(
                _difference(step)
                for step in (
                    router.gap.earned,
                    router.gap.ranking,
                    router.gap.small_model,
                    router.gap.both_models,
                )
            ),
        ]
        for router in lab.deployable
    ]
    return table("The way from random to a perfect area, in four steps", columns, rows)


def tasks(lab: Lab) -> str:
    """Both models, the leading router, and the best router of each task."""
    leader = lab.routers[0].name
    columns = [Column("task", text=True)]
    columns += map(Column, ("n", "small", "large", "random", leader, "oracle", "gap closed"))
    columns.append(Column("largest area", text=True))
    names = [router.name for router in lab.deployable or lab.routers]
    rows = []
    for panel in lab.panels:
        entry = lab.summary["tasks"][panel.task]
        own = entry["routers"][leader]
        areas = {name: entry["routers"][name]["audc"] for name in names}
        numbers = (
            entry["quality"]["small"],
            entry["quality"]["large"],
            own["audc_random"],
            own["audc"],
            own["audc_oracle"],
            own["audc_normalised"],
        )
        rows.append(
            [
                Cell(panel.task),
                Cell(f"{panel.n:,}", panel.n),
                *map(_number, numbers),
                Cell(_best(areas)),
            ]
        )
    return table(f"Tasks by what {leader} adds to random", columns, rows, _macro(lab, leader))


def _macro(lab: Lab, leader: str) -> list[Cell]:
    """Means over tasks, each counting once."""
    entries = [lab.summary["tasks"][panel.task]["quality"] for panel in lab.panels]
    means = [sum(e[tier] for e in entries) / len(entries) for tier in ("small", "large")]
    own = lab.summary["macro"][leader]
    means += [own[key] for key in ("audc_random", "audc", "audc_oracle", "audc_normalised")]
    return [Cell("mean over tasks"), Cell(""), *map(_number, means), Cell("")]


def _best(areas: dict[str, float]) -> str:
    """The name with the largest area, or how many share it."""
    largest = max(areas.values())
    names = [name for name, area in areas.items() if area > largest - REACHED]
    return names[0] if len(names) == 1 else f"{len(names)} tie"


def _router(router: Judged) -> list[Cell]:
    entry = router.entry
    saving = entry["flops_saving_at_quality_ci"]["0.9"]
    mark = " (sees outcomes)" if router.peeks else ""
    cells = [
        Cell(router.name + mark),
        _number(entry["audc"], entry["audc_ci"]),
        _number(entry["audc_normalised"]),
        _difference(router.behind),
        _number(entry["aucfc"], entry["aucfc_ci"]),
        _number(entry["flops_saving_at_quality"]["0.9"], saving),
        _number(entry["cpt"]["0.5"]),
        _number(entry["auroc_deferral"]),
        _number(entry["spearman_length"], digits=2),
    ]
    stage = Cell(entry["stage"] + (", learned" if router.learned and not router.peeks else ""))
    if router.operate is None:
        return [*cells, Cell("–"), Cell("–"), stage]
    rate, quality = router.operate.deferral_rate[HALF], router.operate.quality[HALF]
    return [*cells, Cell(f"{100 * rate:.1f} %", float(rate)), _number(float(quality)), stage]


def _number(value: Number | None, ends: Sequence[float] | None = None, digits: int = 3) -> Cell:
    return Cell(text.with_ends(value, ends, digits), value)


def _difference(found: Difference | None) -> Cell:
    return Cell("–") if found is None else Cell(text.difference(found), found.value)
