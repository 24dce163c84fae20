"""More than two models: cascades, routing and both at once, judged at the same budgets.

Everything is fitted and chosen on the fit split (``routers/families.py``); the test split is only
run.

Letters: N test queries, B resamples, R runs of a policy, C columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from routers.base import Router
from routers.bootstrap import draws, interval
from routers.column import Column
from routers.errors import InputError
from routers.families import Family, Run, families, run
from routers.policy import as_json
from routers.records import Records
from routers.tiers import Tiers, join

SHARES = tuple(tenth / 10 for tenth in range(1, 11))
"""Budgets, as shares of the way from the cheapest model's mean cost to the dearest's."""

Key = tuple[int, int | None]
"""A family, and a point of its frontier: None where no point is within the budget."""


def compare_tiers(
    records: Records,
    models: Sequence[str],
    routers: Mapping[str, Router],
    *,
    fit_split: str = "validation",
    test_split: str = "test",
    bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Every way to use these models, at ten budgets; JSON values.

    A policy's setting for a budget is the best within it on the fit split; on the test split it
    may cost a little more or less, which is reported. Columns ``score:<name>`` that all tiers but
    the last have join as routers of their name. Intervals (95 %) and differences from the cascade
    of all tiers with the first router are of the same resamples of the queries.

    Args:
        models: cheapest first.
        routers: by the name they appear under; each judges the answer of every tier but the last,
            fitted, if learned, on that tier against the next one of its cascade.
        bootstrap: resamples of the test queries; 0 = no intervals.

    Raises:
        InputError: fewer than two models, one unknown or out of order; a split that is not there;
            no router, or one that cannot judge an answer.
    """
    if fit_split == test_split:
        raise InputError(f"fit and test split are both '{fit_split}'; choose two different splits")
    if bootstrap < 0:
        raise InputError(f"bootstrap={bootstrap}; give the number of resamples, 0 for no intervals")
    fit, test = join(records, models, fit_split), join(records, models, test_split)
    found = families(fit, _with_columns(routers, fit))
    alone_K = fit.cost.mean(axis=0)
    budgets = (alone_K[0] + np.array(SHARES) * (alone_K[-1] - alone_K[0])).tolist()
    return {
        "tiers": list(models),
        "n_fit": len(fit),
        "n_test": len(test),
        "cost_unit": records.cost_unit,
        "quality": dict(zip(models, test.quality.mean(axis=0).tolist(), strict=True)),
        "cost": dict(zip(models, test.cost.mean(axis=0).tolist(), strict=True)),
        "quality_oracle": float(test.quality.max(axis=1).mean()),
        "budget_shares": list(SHARES),
        "budgets": budgets,
        "policies": _entries(found, budgets, test, bootstrap, seed),
    }


def _with_columns(routers: Mapping[str, Router], fit: Tiers) -> dict[str, Router]:
    """The routers asked for, and ready-made columns that every tier but the last has."""
    names = set.intersection(*(set(inputs.scores) for inputs in fit.inputs[:-1]))
    both = sorted(names & set(routers))
    if both:
        raise InputError(
            f"'{both[0]}' is both a router and a column 'score:{both[0]}'; rename one of them"
        )
    asked = {router.name for router in routers.values() if isinstance(router, Column)}
    found = {**routers, **{name: Column(name) for name in sorted(names - asked)}}
    if not found:
        raise InputError(
            "no router to stop a cascade with; name one (--router chow_average), or add a column "
            "'score:<name>' to every model but the last"
        )
    return found


def _entries(
    found: list[Family], budgets: list[float], test: Tiers, resamples: int, seed: int
) -> list[dict[str, Any]]:
    """One entry per family, its points in the order of the budgets, null where none is within."""
    points = [[family.frontier.within(b) for b in budgets] for family in found]
    runs: dict[Key, Run] = {
        (f, p): run(found[f], p, test)
        for f, chosen in enumerate(points)
        for p in dict.fromkeys(chosen)
        if p is not None
    }
    drawn = _resampled(runs, len(test), resamples, seed)
    first = next(f for f, family in enumerate(found) if family.kind == "cascade")
    entries = []
    for f, family in enumerate(found):
        shown = [
            None if p is None else _point(family, p, runs[f, p]) | _intervals(drawn[f, p])
            for p in points[f]
        ]
        for point, p, base in zip(shown, points[f], points[first], strict=True):
            if point is not None:
                point["minus_cascade"] = _difference(runs, drawn, [(f, p)], [(first, base)])
        models = [test.models[k] for k in family.tiers]
        entry = {"policy": family.kind, "router": family.router, "models": models}
        entries.append(
            entry
            | {"points": shown, "mean_quality": None, "mean_minus_cascade": None}
            | _mean(runs, drawn, [(f, p) for p in points[f]], [(first, p) for p in points[first]])
        )
    return entries


def _point(family: Family, point: int, done: Run) -> dict[str, Any]:
    """A policy's setting, what it gave on the fit split, and on the test split."""
    at = family.frontier
    return {
        "setting": [as_json(value) for value in at.settings[point].tolist()],
        "fit": {"quality": float(at.quality[point]), "cost": float(at.cost[point])},
        "quality": float(done.quality.mean()),
        "cost": float(done.cost.mean()),
        "visited": list(done.visited),
        "answered": list(done.answered),
    }


def _resampled(
    runs: Mapping[Key, Run], queries: int, resamples: int, seed: int
) -> dict[Key, np.ndarray]:
    """[B, 2] mean quality and cost of each policy, all on the same resamples."""
    columns_N2R = np.array([[done.quality, done.cost] for done in runs.values()]).transpose(2, 1, 0)
    flat_NC = columns_N2R.reshape(queries, -1)
    means = [weights @ flat_NC / queries for weights in draws(queries, range(resamples), seed)]
    means_B2R = np.array(means).reshape(resamples, 2, len(runs))
    return {key: means_B2R[:, :, r] for r, key in enumerate(runs)}


def _intervals(drawn_B2: np.ndarray) -> dict[str, Any]:
    return {"quality_ci": _ends(drawn_B2[:, 0]), "cost_ci": _ends(drawn_B2[:, 1])}


def _difference(
    runs: Mapping[Key, Run],
    drawn: Mapping[Key, np.ndarray],
    ours: Sequence[Key],
    theirs: Sequence[Key],
) -> dict[str, Any] | None:
    """Mean quality over our policies minus that over theirs, paired; null where one is absent."""
    if any(key not in runs for key in (*ours, *theirs)):
        return None
    sides = [np.mean([runs[key].quality.mean() for key in keys]) for keys in (ours, theirs)]
    means_B = [np.mean([drawn[key][:, 0] for key in keys], axis=0) for keys in (ours, theirs)]
    return {"value": float(sides[0] - sides[1]), "ci": _ends(means_B[0] - means_B[1])}


def _mean(
    runs: Mapping[Key, Run],
    drawn: Mapping[Key, np.ndarray],
    ours: Sequence[Key],
    theirs: Sequence[Key],
) -> dict[str, Any]:
    """Quality averaged over all budgets, for policies that can meet every one."""
    if any(key not in runs for key in ours):
        return {}
    quality = float(np.mean([runs[key].quality.mean() for key in ours]))
    difference = _difference(runs, drawn, ours, theirs)
    return {"mean_quality": quality, "mean_minus_cascade": difference}


def _ends(values_B: np.ndarray) -> list[float] | None:
    low, high = interval(values_B)
    return None if low is None or high is None else [low, high]
