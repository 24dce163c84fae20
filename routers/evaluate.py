"""Fit routers on one split, judge them on another: every number of ``cascade evaluate``.

Two protocols, always labelled: *sweep* ranks the test queries by score and draws the whole
curve; *transfer* chooses a threshold on the fit split and reports one test point.
Letters: N test queries.
"""

from __future__ import annotations

import csv
import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from routers.base import Inputs, Outcomes, Router
from routers.column import Column
from routers.conventions import Convention
from routers.curves import Curve, Ranked
from routers.errors import InputError
from routers.files import written
from routers.measure import (
    Split,
    add_conventions,
    add_intervals,
    describe,
    references,
    tiers,
    transfer,
)
from routers.measure import by_task as measure_by_task
from routers.records import Records, pair, small_and_large


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Everything measured, in memory; ``summary`` is the JSON of ``cascade evaluate --json``.

    ``ranked`` and ``scores`` of two evaluations on the same queries can be compared with
    ``paired.hierarchical_difference``. ``references`` are the curves "random" and "oracle".
    """

    summary: dict[str, Any]
    curves: dict[str, Curve]
    references: dict[str, Curve]
    ranked: dict[str, Ranked]
    scores: dict[str, Float[np.ndarray, " N"]]
    routers: dict[str, Router]  # fitted
    inputs: Inputs  # of the test split
    outcomes: Outcomes


def evaluate(
    records: Records,
    routers: Mapping[str, Router],
    *,
    small: str | None = None,
    large: str | None = None,
    fit_split: str = "validation",
    test_split: str = "test",
    bootstrap: int = 1000,
    by_task: bool = False,
    seed: int = 0,
    convention: Convention = "exact",
) -> Evaluation:
    """Fit each router on ``fit_split``, measure it on ``test_split``.

    Columns ``score:<name>`` of the records join as routers of their name. Routers that peek
    are fitted on the test split: reference lines, not deployable. Without a fit split only
    training-free routers can be judged, and ``transfer`` is null.

    Args:
        routers: by the name they appear under.
        small, large: model names; None = the cheaper and the dearer of exactly two.
        bootstrap: resamples of the 95 % intervals; 0 = none.
        by_task: add ``tasks`` (each with its own thresholds) and ``macro``, their plain mean.
        convention: add ``conventions`` to each router (by_task: in each task, too), the figures
            that reference programs print (``routers/conventions.py``); exact = none.

    Raises:
        InputError: no router, a split or model that is not there, a learned router without a
            fit split, or a score that is not finite.
    """
    small, large = small_and_large(records, small, large)
    if fit_split == test_split:
        raise InputError(f"fit and test split are both '{fit_split}'; choose two different splits")
    if bootstrap < 0:
        raise InputError(f"bootstrap={bootstrap}; give the number of resamples, 0 for no intervals")
    if seed < 0:
        raise InputError(f"seed={seed}; give 0 or more")
    is_flops = records.cost_unit == "flops"
    test = Split(*pair(records, small, large, test_split), is_flops)
    fit = None
    if fit_split in records.splits:
        fit = Split(*pair(records, small, large, fit_split), is_flops)
    fitted = {
        name: _fitted(name, router, fit, test, fit_split)
        for name, router in with_columns(routers, test.inputs).items()
    }
    scores = {name: test.score(router, name) for name, router in fitted.items()}
    ranked = {n: test.rank(r, scores[n]) for n, r in fitted.items()}
    curves = {name: r.curve() for name, r in ranked.items()}
    lines = references(test.outcomes)
    entries = {name: describe(curves[name], lines["oracle"], scores[name], test) for name in fitted}
    add_intervals(entries, ranked, bootstrap, seed)
    add_conventions(entries, convention, curves, scores, test)
    for name, router in fitted.items():
        entries[name].update(transfer(router, name, fit, curves[name]))
        entries[name].update(stage=router.stage, peeks=router.peeks, curve_csv=None)
    summary = {"small": small, "large": large, "n_fit": len(fit.outcomes) if fit else 0}
    summary.update(tiers(test.outcomes), cost_unit=records.cost_unit, routers=entries)
    if by_task:
        summary.update(measure_by_task(fitted, scores, test, convention))
    return Evaluation(summary, curves, lines, ranked, scores, fitted, test.inputs, test.outcomes)


def write_curves(evaluation: Evaluation, folder: Path) -> Evaluation:
    """One CSV per router, and ``reference_random.csv`` and ``reference_oracle.csv``.

    Columns: threshold, deferral_rate, quality, flops. Returns the evaluation with the paths in
    its summary (``curve_csv``).
    """
    entries = {}
    for name, curve in evaluation.curves.items():
        path = folder / (re.sub(r"[^\w.=-]+", "-", name) + ".csv")
        _write_csv(curve, path)
        entries[name] = evaluation.summary["routers"][name] | {"curve_csv": str(path)}
    for name, curve in evaluation.references.items():
        _write_csv(curve, folder / f"reference_{name}.csv")
    return dataclasses.replace(evaluation, summary=evaluation.summary | {"routers": entries})


def _write_csv(curve: Curve, path: Path) -> None:
    with written(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["threshold", "deferral_rate", "quality", "flops"])
        columns = (curve.threshold, curve.deferral_rate, curve.quality, curve.cost)
        writer.writerows(zip(*(column.tolist() for column in columns), strict=True))


def with_columns(routers: Mapping[str, Router], inputs: Inputs) -> dict[str, Router]:
    """The routers asked for and those that ready-made score columns are."""
    both = set(routers) & set(inputs.scores)
    if both:
        name = min(both)
        raise InputError(
            f"'{name}' is both a router and a column 'score:{name}'; rename one of them"
        )
    asked = {router.name for router in routers.values() if isinstance(router, Column)}
    named = {**routers, **{name: Column(name) for name in inputs.scores if name not in asked}}
    if not named:
        raise InputError("no router to evaluate; name one, or add a column 'score:<name>'")
    return named


def _fitted(name: str, router: Router, fit: Split | None, test: Split, split: str) -> Router:
    source = test if router.peeks else fit
    if source is None:
        if router.learned:
            raise InputError(
                f"router '{name}' learns from split '{split}', which the records lack; add it, "
                "name another fit split, or choose a training-free router"
            )
        return router
    return router.fit(source.seen_by(router), source.outcomes)
