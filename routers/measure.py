"""The numbers of one router on one set of queries, as JSON values.

Letters: N queries.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from routers import metrics, thresholds
from routers.base import Inputs, Outcomes, Router
from routers.bootstrap import Metric, interval, replicates
from routers.conventions import Convention, figures
from routers.curves import Curve, Ranked, check_score, deferral_curve, oracle_score, rank

SAVINGS = (0.5, 0.9, 1.0)  # shares of the quality gap at which FLOPs savings are reported
CALLS = (0.2, 0.5, 0.8)  # shares of the quality gap for CPT, as in RouteLLM
RATES = (0.2, 0.5, 0.8)  # deferral rates of the transfer protocol
MAIN_RATE = 0.5  # the one shown as ``transfer``


@dataclasses.dataclass(frozen=True)
class Split:
    """One split's queries and outcomes, and whether costs are FLOPs."""

    inputs: Inputs
    outcomes: Outcomes
    flops: bool

    def charge(self, router: Router) -> np.ndarray | None:
        """The router's own FLOPs; a log in dollars has no unit to add them in."""
        return router.flops_per_query(self.seen_by(router)) if self.flops else None

    def seen_by(self, router: Router) -> Inputs:
        """What is known at the router's stage."""
        return self.inputs.at_stage(router.stage)

    def rank(self, router: Router, score: np.ndarray) -> Ranked:
        """The queries sorted by this score, charged as the router's stage asks."""
        flops = self.charge(router)
        return rank(score, self.outcomes, stage=router.stage, router_flops=flops)

    def score(self, router: Router, name: str) -> np.ndarray:
        """[N] float64, or InputError naming the router whose scores are not finite."""
        score = np.asarray(router.score(self.seen_by(router)), np.float64)
        check_score(score, len(self.outcomes), name)
        return score


def references(outcomes: Outcomes) -> dict[str, Curve]:
    """The chord that any constant score gives, and the best possible ranking."""
    constant = np.zeros(len(outcomes))
    oracle = oracle_score(outcomes)
    return {
        "random": deferral_curve(constant, outcomes),
        "oracle": deferral_curve(oracle, outcomes),
    }


def tiers(outcomes: Outcomes) -> dict[str, Any]:
    """Quality and cost of each model alone, and quality of the better answer per query."""
    small, large = (
        np.asarray(q, np.float64) for q in (outcomes.quality_small, outcomes.quality_large)
    )
    quality = {"small": small, "large": large, "oracle": np.maximum(small, large)}
    flops = {"small": outcomes.flops_small, "large": outcomes.flops_large}
    return {
        "n_test": len(outcomes),
        "quality": {name: float(np.mean(values)) for name, values in quality.items()},
        "flops": {name: float(np.mean(values)) for name, values in flops.items()},
    }


def describe(curve: Curve, oracle: Curve, score: np.ndarray, split: Split) -> dict[str, Any]:
    """Every metric of one router on one set of queries."""
    length = split.inputs.response_tokens
    best = metrics.audc(oracle)
    return {
        "audc": metrics.audc(curve),
        "audc_random": metrics.audc_random(curve),
        "audc_oracle": best,
        "audc_normalised": metrics.audc_normalised(curve, best),
        "apgr": metrics.apgr(curve),
        "cpt": {str(x): metrics.cpt(curve, x) for x in CALLS},
        "aucfc": metrics.aucfc(curve),
        "qnc": metrics.qnc(curve),
        "aiq": metrics.aiq(curve),
        "auroc_deferral": metrics.auroc(score, split.outcomes.gain > 0),
        "spearman_length": None if length is None else metrics.spearman(score, length),
        "flops_saving_at_quality": {str(x): metrics.flops_saving(curve, x) for x in SAVINGS},
    }


def add_intervals(
    entries: dict[str, dict[str, Any]], ranked: dict[str, Ranked], resamples: int, seed: int
) -> None:
    """95 % intervals, the same resamples for every router; null without resamples."""
    measured: dict[str, Metric] = {"audc": metrics.audc, "aucfc": metrics.aucfc}
    measured |= {str(x): _saving_at(x) for x in SAVINGS}
    drawn = replicates(ranked, measured, resamples=resamples, seed=seed) if resamples else {}
    for name, entry in entries.items():
        spread = drawn.get(name, {key: np.zeros(0) for key in measured})
        ends = {key: _pair_or_none(spread[key]) for key in measured}
        entry.update(audc_ci=ends["audc"], aucfc_ci=ends["aucfc"])
        entry["flops_saving_at_quality_ci"] = {str(x): ends[str(x)] for x in SAVINGS}


def _saving_at(x: float) -> Metric:
    return lambda curve: metrics.flops_saving(curve, x)


def _pair_or_none(values: np.ndarray) -> list[float] | None:
    low, high = interval(values)
    return None if low is None or high is None else [low, high]


def transfer(router: Router, name: str, fit: Split | None, curve: Curve) -> dict[str, Any]:
    """Thresholds chosen on the fit split for each rate, applied to the test split's curve.

    A learned router is scored on the queries it was fitted on; where it has overfitted, the
    achieved rate misses the target, and is reported.
    """
    if fit is None or router.peeks:
        return {"transfer": None, "transfer_at": None}
    fit_score = fit.score(router, name)
    points = {}
    for rate in RATES:
        threshold = thresholds.for_deferral_rate(fit_score, rate)
        values = dataclasses.asdict(thresholds.on_curve(curve, threshold))
        if threshold == float("inf"):
            values["threshold"] = None  # JSON has no infinity: null = defer nothing
        points[str(rate)] = {"target_rate": rate, **values}
    return {"transfer": points[str(MAIN_RATE)], "transfer_at": points}


def add_conventions(
    entries: dict[str, dict[str, Any]],
    convention: Convention,
    curves: Mapping[str, Curve],
    scores: Mapping[str, np.ndarray],
    split: Split,
) -> None:
    """Each router's figures as reference programs count them; nothing for ``exact``."""
    if convention == "exact":
        return
    unit = "flops" if split.flops else "dollars"
    for name, values in figures(convention, curves, scores, split.outcomes, unit).items():
        entries[name]["conventions"] = values


def by_task(
    fitted: Mapping[str, Router],
    scores: Mapping[str, np.ndarray],
    test: Split,
    convention: Convention = "exact",
) -> dict[str, Any]:
    """Each task swept on its own, conventions included, and the plain mean over tasks.

    The mean is of our own metrics; those of the conventions are not all defined in every task.
    """
    tasks = {}
    for task in sorted(set(test.inputs.task.tolist())):
        rows = np.flatnonzero(test.inputs.task == task)
        part = Split(test.inputs.take(rows), test.outcomes.take(rows), test.flops)
        oracle = references(part.outcomes)["oracle"]
        score = {name: values[rows] for name, values in scores.items()}
        curves = {name: part.rank(r, score[name]).curve() for name, r in fitted.items()}
        entries = {name: describe(c, oracle, score[name], part) for name, c in curves.items()}
        add_conventions(entries, convention, curves, score, part)
        tasks[task] = {**tiers(part.outcomes), "routers": entries}
    macro = {name: _macro([t["routers"][name] for t in tasks.values()]) for name in fitted}
    return {"tasks": tasks, "macro": macro}


def _macro(entries: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """Mean over the tasks where a metric is defined; None where it is nowhere."""
    means = {}
    for key in (key for key, value in entries[0].items() if not isinstance(value, dict)):
        known = [entry[key] for entry in entries if entry[key] is not None]
        means[key] = float(np.mean(known)) if known else None
    return means
