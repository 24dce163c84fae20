"""What CAT should be uniquely good for: few labelled queries, and a test mix that has moved.

A learned router needs queries on which both models were judged; a Chow rule on a CAT-trained
model needs none. Three questions, each answered with areas under the deferral curve on test:

labels   learned routers fitted on 50, 500, 5,000 … validation queries (0: training-free only)
unseen   fitted on one half of the tasks, tested on the other half (mean of both directions)
skewed   fitted on the validation mix, tested where every other task is four times as frequent
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cat.config import Config
from experiments.evaluation import load_pair
from experiments.rundir import RunDirectory, write_json
from routers.base import Inputs, Outcomes, Router
from routers.build import build
from routers.curves import rank
from routers.errors import InputError
from routers.metrics import audc

BUDGETS = (0, 50, 500, 5_000)
SKEW = 4

Split = tuple[Inputs, Outcomes]


def write(config: Config, run: RunDirectory, arms: Sequence[str], routers: Sequence[str]) -> None:
    """Answer the three questions for these arms and routers, all seeds; writes robustness.json."""
    answers: dict[str, Any] = {"budgets": list(BUDGETS), "arms": {}}
    for arm in arms:
        rows: dict[str, Any] = {}
        for spec in routers:
            seeds = [_answers(build(spec), config, run, arm, seed) for seed in config.seeds]
            rows[spec] = {key: [seed[key] for seed in seeds] for key in seeds[0]}
        answers["arms"][arm] = rows
    write_json(run.folder / "robustness.json", answers)


def _answers(
    router: Router, config: Config, run: RunDirectory, arm: str, seed: int
) -> dict[str, Any]:
    """One arm, one seed: areas by label budget, on unseen tasks, and on a skewed mix."""
    fit, test = (load_pair(config, run, arm, seed, split) for split in ("validation", "test"))
    by_budget = {str(n): budget_audc(router, fit, test, n, seed) for n in BUDGETS}
    return {
        "labels": by_budget,
        "unseen": unseen_tasks_audc(router, fit, test),
        "skewed": skewed_audc(router, fit, test),
    }


def fitted_audc(
    router: Router, fit: Split, test: Split, weights: np.ndarray | None = None
) -> float:
    """Area under the deferral curve on ``test`` (weighted) of the router fitted on ``fit``."""
    inputs, outcomes = test
    seen = inputs.at_stage(router.stage)
    fitted = router.fit(fit[0].at_stage(router.stage), fit[1]) if router.learned else router
    flops = fitted.flops_per_query(seen)
    ranked = rank(fitted.score(seen), outcomes, stage=router.stage, router_flops=flops)
    return audc(ranked.curve(weights))


def budget_audc(router: Router, fit: Split, test: Split, budget: int, seed: int) -> float | None:
    """With ``budget`` labelled queries drawn from the fit split; None where it cannot be done.

    A learned router needs at least one label; a budget beyond the split is not met.
    """
    if router.learned and (budget == 0 or budget > len(fit[0])):
        return None
    rows = np.random.default_rng(seed).permutation(len(fit[0]))[:budget]
    return fitted_audc(router, (fit[0].take(rows), fit[1].take(rows)), test)


def unseen_tasks_audc(router: Router, fit: Split, test: Split) -> float | None:
    """Fitted on half of the tasks, tested on the other; mean of both directions.

    None when there is a single task.
    """
    names = sorted(set(test[0].task.tolist()))
    if len(names) < 2:
        return None
    halves = (names[::2], names[1::2])
    areas = [
        fitted_audc(router, _only(fit, seen), _only(test, unseen))
        for seen, unseen in (halves, halves[::-1])
    ]
    return float(np.mean(areas))


def skewed_audc(router: Router, fit: Split, test: Split) -> float:
    """Tested with every other task ``SKEW`` times as frequent, fitted as usual."""
    names = sorted(set(test[0].task.tolist()))
    weights = np.where(np.isin(test[0].task, names[::2]), SKEW, 1)
    return fitted_audc(router, fit, test, weights)


def _only(split: Split, tasks: Sequence[str]) -> Split:
    """The queries of these tasks."""
    rows = np.flatnonzero(np.isin(split[0].task, list(tasks)))
    if not len(rows):
        raise InputError(f"no queries of tasks {', '.join(tasks)}; raise data.validation_size")
    return split[0].take(rows), split[1].take(rows)
