"""What CAT should be uniquely good for: few labelled queries, and a test mix that has moved.

A learned router needs queries on which both models were judged; a Chow rule on a CAT-trained
model needs none. Each condition is a choice of fitting queries and of test queries:

N labels  fitted on N validation queries drawn by the seed, tested on all of test
unseen    fitted on every other task, tested on the tasks in between
skewed    fitted on all of validation, tested where every other task is four times as frequent
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cat.config import Config
from experiments.compare import MAIN
from experiments.evaluation import load_pair
from experiments.rundir import RunDirectory, write_json
from experiments.summary import spread
from routers.base import Inputs, Outcomes, Router
from routers.build import build
from routers.curves import Ranked, rank
from routers.metrics import audc
from routers.paired import hierarchical_difference

BUDGETS = (50, 500, 5_000)
SKEW = 4
OURS = ("cat_xent", MAIN)

Split = tuple[Inputs, Outcomes]
Rows = tuple[np.ndarray, np.ndarray]  # of the fit split, of the test split


def write(config: Config, run: RunDirectory, arms: Sequence[str], routers: Sequence[str]) -> None:
    """Areas of these arms and routers under every condition, and CAT-Xent with a Chow rule
    against each of them, paired over queries and seeds; writes robustness.json."""
    ranked: dict[tuple[str, str], list[dict[str, Ranked]]] = {}
    for arm in arms:
        for seed in config.seeds:
            fit, test = (load_pair(config, run, arm, seed, s) for s in ("validation", "test"))
            for spec in routers:
                made = rankings(build(spec), fit, test, seed)
                ranked.setdefault((arm, spec), []).append(made)
    rows = []
    for (arm, spec), seeds in ranked.items():
        for condition in seeds[0]:
            row = {"arm": arm, "router": spec, "condition": condition}
            theirs = [seed[condition] for seed in seeds]
            row |= spread(theirs, {"audc": audc}, config.evaluation.bootstrap, 0)
            if OURS in ranked and (arm, spec) != OURS:
                ours = [seed[condition] for seed in ranked[OURS]]
                row |= _difference(config, ours, theirs)
            rows.append(row)
    write_json(run.folder / "robustness.json", {"ours": list(OURS), "rows": rows})


def _difference(config: Config, ours: Sequence[Ranked], theirs: Sequence[Ranked]) -> dict[str, Any]:
    made = hierarchical_difference(ours, theirs, resamples=config.evaluation.bootstrap)
    ci = None if made.low is None else [made.low, made.high]
    return {"ours_minus_this": made.value, "ci": ci}


def rankings(router: Router, fit: Split, test: Split, seed: int) -> dict[str, Ranked]:
    """The test queries of every condition ranked by the router fitted for it."""
    fitted: dict[bytes, Router] = {}
    made = {}
    for name, (fit_rows, test_rows) in conditions(fit[0].task, test[0].task, seed).items():
        key = fit_rows.tobytes()
        if key not in fitted:
            fitted[key] = _fit(router, fit, fit_rows)
        made[name] = _rank(fitted[key], test, test_rows)
    return made


def conditions(fit_task: np.ndarray, test_task: np.ndarray, seed: int) -> dict[str, Rows]:
    """Row indices of every condition that these splits can answer."""
    every, everything = np.arange(len(fit_task)), np.arange(len(test_task))
    order = np.random.default_rng(seed).permutation(len(fit_task))
    made = {f"{n} labels": (np.sort(order[:n]), everything) for n in BUDGETS if n <= len(fit_task)}
    tasks = sorted(set(test_task.tolist()))
    if len(tasks) < 2:
        return made
    favoured, seen = np.isin(test_task, tasks[::2]), np.isin(fit_task, tasks[::2])
    made["unseen"] = (every[seen], everything[~favoured])
    rare = everything[~favoured][::SKEW]
    made["skewed"] = (every, np.sort(np.concatenate([everything[favoured], rare])))
    return made


def _fit(router: Router, split: Split, rows: np.ndarray) -> Router:
    inputs, outcomes = split
    return router.fit(inputs.take(rows).at_stage(router.stage), outcomes.take(rows))


def _rank(router: Router, split: Split, rows: np.ndarray) -> Ranked:
    inputs, outcomes = split[0].take(rows).at_stage(router.stage), split[1].take(rows)
    return rank(router.score(inputs), outcomes, stage=router.stage)
