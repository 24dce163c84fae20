"""The words of the router laboratory's report: the finding, the notes, command lines, numbers."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from experiments.lab_data import SWEEP_POINTS, TASK_POINTS, Judged, Lab
from experiments.report_text import Number, fixed, short
from routers.paired import Difference

UNITS = {"flops": "FLOPs", "dollars": "dollars"}

GLOSSARY = {
    "quality": "Mean over queries of the answer that is served, the small model's or the large's.",
    "cost": "Mean per query of all that is paid: the small model, the router, the large model.",
    "random": "Sending queries on by lot: the straight line every router must beat.",
    "oracle": "The best order there is, knowing both answers; not deployable.",
    "AUDC": "Area under quality against deferral rate: average quality over all operating points.",
    "gap closed": "Share of the way from random's area to the oracle's; 0 is guessing, 1 perfect.",
    "behind": "The leading router's AUDC minus this one's, both on the same resampled queries.",
    "cost area": "The same area against cost, from the small model alone (0) to both models (1).",
    "saving": "Cost saved against the large model alone at quality S + 0.9 (L − S): most of the "
    "way from the small to the large model. Negative where the cascade costs more.",
    "CPT": "Share of queries to send on for quality S + 0.5 (L − S).",
    "AUROC": "Chance that a query only the large model answers better scores above another; "
    "0.5 is guessing.",
    "ρ with length": "Rank correlation of score and response length: near ±1 it measures length.",
    "at 50 %": "Deployed at a target rate of 50 %: what was sent on, and the quality.",
    "earned": "What the router's ranking adds to the area of deferring at random.",
    "perfect ranking": "What the best order of the same two models' answers would add to it.",
    "perfect small model": "What would come on top if the small model itself answered as well as "
    "the better of the two, so that nothing needed sending.",
    "neither model": "The rest, up to quality 1: what neither of them answers.",
}


def finding(lab: Lab) -> str:
    """The report's title: which router ranks best, and whether that is more than chance."""
    if not lab.deployable:
        return "Reference lines only: no router here can be deployed."
    best = lab.deployable[0]
    if not _above_zero(best.gap.earned) and lab.intervals:
        return f"No router is told apart from random; the largest area is {best.name}'s."
    share = best.entry["audc_normalised"]
    part = "" if share is None else f" and closes {_percent(share)} of the gap to the oracle"
    return (
        f"{best.name} ranks best: AUDC {with_ends(best.entry['audc'], best.entry['audc_ci'])}"
        + (f"{part}.")
    )


def runner_up(lab: Lab) -> str:
    """How sure the lead is: the second router, and how many the data cannot tell from the first."""
    others = lab.deployable[1:]
    if not others or others[0].behind is None:
        return ""
    second, lead = others[0], others[0].behind
    text = f"Its lead over {second.name} is {difference(lead)}"
    if lead.low is None:
        return f"{text}."
    if lead.significant:
        return f"{text}, which excludes zero."
    tied = [router.name for router in others if router.behind and not router.behind.significant]
    return f"{text}, which covers zero: these data do not tell it from {_listed(tied)}."


def within_tasks(lab: Lab) -> str:
    """How much of the leader's share is left inside tasks, where tasks cannot be told apart."""
    share = lab.summary["macro"][lab.routers[0].name]["audc_normalised"] if lab.panels else None
    if share is None or not lab.deployable:
        return ""
    return f"Within a task {lab.routers[0].name} closes {_percent(share)} of the gap on average."


def caption(lab: Lab, *, points: bool = True) -> str:
    """n, splits, models, cost, protocol; ``points``: also of operating points."""
    summary = lab.summary
    protocol = (
        f"operating points: thresholds chosen on '{lab.fit_split}'"
        if lab.transfer
        else f"operating points: sweep, thresholds read off '{lab.test_split}' itself"
    )
    return (
        f"{summary['small']} → {summary['large']}; n = {summary['n_test']:,} queries of "
        f"'{lab.test_split}'; cost: {UNITS[summary['cost_unit']]}; curves: sweep"
        + (f"; {protocol}." if points else ".")
    )


def notes(lab: Lab) -> list[str]:
    """What to hold against the numbers."""
    n_fit, n_test = lab.summary["n_fit"], lab.summary["n_test"]
    return [
        f"Splits: learned routers are fitted on {n_fit:,} queries of '{lab.fit_split}' and all "
        f"are judged on {n_test:,} of '{lab.test_split}'."
        if lab.transfer
        else f"The records have no split '{lab.fit_split}': thresholds are read off the "
        f"{n_test:,} queries they are judged on, which flatters them.",
        "Curves are sweeps: every threshold tried on the test queries. They compare rankings; "
        "the operating points are what a deployed threshold gives."
        + (
            " For these a learned router is fitted again, on one half of the fit split, and its "
            "threshold chosen on the other, as cascade calibrate does; its curve is drawn from "
            "a fit on the whole."
            if lab.transfer and any(router.learned for router in lab.deployable)
            else ""
        ),
        f"Cost is counted in {UNITS[lab.summary['cost_unit']]}. A router that reads the response "
        "pays the small model for every query, one that reads the prompt only for those it keeps"
        + (
            "; a router's own FLOPs are charged."
            if lab.summary["cost_unit"] == "flops"
            else "; a router itself costs no dollars here."
        ),
        "The oracle orders by gain, not by gain per cost: against cost a router that sends on "
        "cheap queries first can pass it.",
        "Equal scores move together; between two points a curve is the straight line that "
        "breaking ties by lot gives.",
        "Intervals are 95 %: of areas and their differences by a paired bootstrap over queries, "
        "of quality at a threshold by the normal approximation with the threshold held fixed. "
        "They cover these test queries, not another fit, another seed or other traffic."
        if lab.intervals
        else "The evaluation drew no resamples (--bootstrap 0): areas have no intervals. Those "
        "of quality at a threshold are normal, with the threshold held fixed.",
        "The leader is chosen on the queries that judge it, and intervals are not corrected for "
        "the number of routers; cascade compare corrects.",
        f"Drawn curves keep at most {SWEEP_POINTS:,} points, small panels {TASK_POINTS}; areas "
        "and tables use them all.",
        "Not shown: latency, intervals per task, thresholds chosen per task "
        "(cascade calibrate --per-task), promises about quality (--max-quality-loss).",
    ]


def command(lab: Lab, router: Judged) -> tuple[str, str]:
    """The command that writes this router's policy, before and after the rate."""
    split = lab.fit_split if lab.transfer else lab.test_split
    lines = [
        ["cascade", "calibrate", *map(str, lab.sources)],
        ["--router", router.spec],
        ["--small", lab.summary["small"], "--large", lab.summary["large"]],
        ["--fit-split", split, "--deferral-rate"],
    ]
    return " \\\n  ".join(map(shlex.join, lines)) + " ", " \\\n  -o policy.json"


def with_ends(value: Number | None, ends: Sequence[float | None] | None, digits: int = 3) -> str:
    """A value and its interval, if it has one.

    >>> with_ends(0.65, (0.6, 0.7)), with_ends(0.65, None), with_ends(None, None)
    ('0.650 [0.600, 0.700]', '0.650', '–')
    """
    if value is None or not ends or ends[0] is None:
        return fixed(value, digits)
    return f"{fixed(value, digits)} [{fixed(ends[0], digits)}, {fixed(ends[1], digits)}]"


def difference(found: Difference, digits: int = 4) -> str:
    """A difference and its interval; four digits, as routers lie close together."""
    return with_ends(found.value, (found.low, found.high), digits)


def amount(value: Number | None, unit: str) -> str:
    """A cost per query.

    >>> amount(2.5e9, "flops"), amount(0.00012345, "dollars"), amount(None, "flops")
    ('2.5 G', '$0.0001234', '–')
    """
    return short(value) if unit == "flops" or value is None else f"${value:.4g}"


def _above_zero(found: Difference) -> bool:
    return found.low is not None and found.low > 0


def _percent(share: float) -> str:
    return f"{fixed(100 * share, 0)} %"


def _listed(names: list[str]) -> str:
    """
    >>> _listed(["a"]), _listed(["a", "b"]), _listed(list("abcdef"))
    ('a', 'a and b', 'a, b and 4 more')
    """
    if len(names) > 3:
        names = [*names[:2], f"{len(names) - 2} more"]
    return " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)
