"""From records and a target to a policy: the router fitted, its thresholds chosen.

A learned router is fitted on one half of the split and its threshold chosen on the other: on the
queries it was fitted on it looks better than it is. A training-free router has seen nothing, so
the whole split calibrates it. Letters: N queries.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float64

from routers import guarantees, thresholds
from routers.arrow import floats, pc
from routers.base import Inputs, Outcomes, Router, Stage
from routers.bounds import Bound
from routers.column import PREFIX, Column
from routers.curves import check_score, deferral_curve
from routers.errors import InputError
from routers.features import stable_hash
from routers.guarantees import NotSupported
from routers.policy import Policy
from routers.records import Records, pair, small_and_large
from routers.targets import Target, promise

SPLIT_SEED = 5_000_011
"""Of the hash that halves the split; no router or tie-break hashes query ids with it."""


def calibrate(
    records: Records,
    router: Router,
    target: Target,
    *,
    per_task: bool = False,
    small: str | None = None,
    large: str | None = None,
    split: str = "validation",
) -> Policy:
    """A policy whose threshold meets the target on the calibration queries of ``split``.

    Those are all its queries, or for a learned router the half it was not fitted on, by a stable
    hash of the query id. ``about`` says what is promised, and what the policy reached there.

    With ``per_task`` every task meets the target on its own, with a threshold of its own. A
    promise with delta holds for all tasks at once: each is tested at delta / tasks, so it holds
    for any mix of them. A task whose queries cannot support it is sent on whole. Tasks not seen
    here get the threshold of all queries pooled, and for them nothing is promised.

    Raises:
        NotSupported: the data cannot support the promise (per task: for no task).
        InputError: a target that no threshold meets; a split, model or cost that is not there.
    """
    small, large = small_and_large(records, small, large)
    inputs, outcomes = pair(records, small, large, split)
    unit = target.unit or records.cost_unit
    if unit != records.cost_unit:
        outcomes = dataclasses.replace(
            outcomes,
            flops_small=cost_in(records, small, split, unit),
            flops_large=cost_in(records, large, split, unit),
        )
    fits, rest = halves(inputs, split) if router.learned else (None, np.arange(len(inputs)))
    if fits is not None:
        router = router.fit(inputs.at_stage(router.stage).take(fits), outcomes.take(fits))
    queries = _Queries.of(router, inputs.take(rest), outcomes.take(rest), unit)
    bound = bound_of(records)
    by_task = _per_task(target, queries, bound) if per_task else {}
    if per_task:
        pooled = _or_whole(target, queries, bound, "all tasks pooled: ")
        reached = _together([choice.reached for choice in by_task.values()])
    else:
        pooled = _choose(target, queries, bound, "")
        reached = pooled.reached
    about = {
        "small": small,
        "large": large,
        "needs_score": f"{PREFIX}:{router.name}" if isinstance(router, Column) else None,
        "fit_split": split,
        "n_fit": 0 if fits is None else len(fits),
        "n_calibration": len(rest),
        "data": _data(split, router.learned),
        "target": target.given,
        "promise": promise(target, large, len(by_task)),
        "bound": None if target.delta is None else bound,
        "cost_unit": unit,
        **reached,
        "tasks": {task: choice.reached for task, choice in by_task.items()},
        "other_tasks": pooled.reached if per_task else None,
    }
    task_thresholds = {task: choice.threshold for task, choice in by_task.items()}
    return Policy(router, pooled.threshold, about, task_thresholds)


@dataclasses.dataclass(frozen=True)
class _Choice:
    """A threshold and what it reached on the calibration queries, as JSON values."""

    threshold: float
    reached: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class _Queries:
    """Calibration queries: scores, outcomes in one unit of cost, and what the router costs."""

    score: np.ndarray  # [N]
    task: np.ndarray  # [N]
    outcomes: Outcomes
    router_cost: np.ndarray | None  # [N]
    stage: Stage
    learned: bool
    unit: str

    @classmethod
    def of(cls, router: Router, inputs: Inputs, outcomes: Outcomes, unit: str) -> _Queries:
        """Scored by a fitted router, which sees its stage only."""
        seen = inputs.at_stage(router.stage)
        score = np.asarray(router.score(seen), np.float64)
        check_score(score, len(inputs), type(router).__name__)
        cost = router.flops_per_query(seen) if unit == "flops" else None
        return cls(score, inputs.task, outcomes, cost, router.stage, router.learned, unit)

    def __len__(self) -> int:
        return len(self.score)

    def of_task(self, task: str) -> _Queries:
        """Those of one task."""
        rows = np.flatnonzero(self.task == task)
        return dataclasses.replace(
            self,
            score=self.score[rows],
            task=self.task[rows],
            outcomes=self.outcomes.take(rows),
            router_cost=None if self.router_cost is None else self.router_cost[rows],
        )

    def at(self, threshold: float) -> _Choice:
        """The threshold with what it gives on these queries."""
        point = thresholds.achieved(
            threshold, self.score, self.outcomes, stage=self.stage, router_flops=self.router_cost
        )
        kept = self.score < threshold
        lost = guarantees.quality_lost(self.outcomes)[kept].sum() / len(self)
        reached = {
            "n": len(self),
            "deferral_rate": point.deferral_rate,
            "quality": point.quality,
            "quality_large": float(np.mean(self.outcomes.quality_large, dtype=np.float64)),
            "quality_lost": float(lost),
            "cost": point.flops,
        }
        return _Choice(threshold, reached)


def _choose(target: Target, queries: _Queries, bound: Bound, where: str) -> _Choice:
    """The threshold for the target, or an InputError that begins with ``where``."""
    try:
        return queries.at(_threshold(target, queries, bound))
    except NotSupported as refusal:
        more = f"{where}{refusal}{_in_split(refusal, queries)}"
        raise NotSupported(more, refusal.more) from None
    except InputError as refusal:
        raise InputError(f"{where}{refusal}") from None


def _threshold(target: Target, queries: _Queries, bound: Bound) -> float:
    score, outcomes = queries.score, queries.outcomes
    if target.deferral_rate is not None:
        return thresholds.for_deferral_rate(score, target.deferral_rate)
    if target.max_quality_loss is not None:
        loss, epsilon = guarantees.quality_lost(outcomes), target.max_quality_loss
        if target.delta is None:
            return guarantees.conformal_risk_control(score, loss, epsilon=epsilon).threshold
        return guarantees.learn_then_test(
            score, loss, epsilon=epsilon, delta=target.delta, bound=bound
        ).threshold
    curve = deferral_curve(score, outcomes, stage=queries.stage, router_flops=queries.router_cost)
    if target.quality is not None:
        return thresholds.for_quality(curve, target.quality)
    return thresholds.for_budget(curve, target.value, queries.unit)


def _in_split(refusal: NotSupported, queries: _Queries) -> str:
    """What a learned router adds to a refusal: half of the queries logged go to its fit."""
    if refusal.more is None or not queries.learned:
        return ""
    return f" (half of the split fits the router: {2 * refusal.more:,} more in it)"


def _per_task(target: Target, queries: _Queries, bound: Bound) -> dict[str, _Choice]:
    """A choice for every task; promised to all of them at once by delta / tasks (Bonferroni)."""
    tasks = sorted(set(queries.task.tolist()))
    if target.delta is not None:
        target = dataclasses.replace(target, delta=target.delta / len(tasks))
    chosen = {
        task: _or_whole(target, queries.of_task(task), bound, f"task '{task}': ") for task in tasks
    }
    refusals = [choice.reached.get("not_supported") for choice in chosen.values()]
    if all(refusals):
        raise NotSupported(f"no task can be kept even in part; {refusals[0]}", None)
    return chosen


def _together(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What all tasks reach together, each with its own threshold: means over queries."""
    n = sum(row["n"] for row in rows)
    means = [key for key in rows[0] if key not in ("n", "not_supported")]
    return {"n": n} | {key: sum(row["n"] * row[key] for row in rows) / n for key in means}


def _or_whole(target: Target, queries: _Queries, bound: Bound, where: str) -> _Choice:
    """The choice; where the data cannot support the promise, send all on and say why."""
    try:
        return _choose(target, queries, bound, where)
    except NotSupported as refusal:
        whole = queries.at(-float("inf"))
        return _Choice(whole.threshold, whole.reached | {"not_supported": str(refusal)})


def halves(inputs: Inputs, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows that fit the router, and the rest; a query is on the same side in every log."""
    fits_N = stable_hash(inputs.query_id, SPLIT_SEED) >> np.uint64(63) == 0
    if fits_N.all() or not fits_N.any():
        raise InputError(
            f"split '{split}' has {len(inputs)} queries, too few to fit a learned router on one "
            "half and calibrate it on the other; log more, or choose a training-free router"
        )
    return np.flatnonzero(fits_N), np.flatnonzero(~fits_N)


def cost_in(records: Records, model: str, split: str, unit: str) -> Float64[np.ndarray, " N"]:
    """What a model's answers cost in a unit that need not be the records': dollars or seconds.

    By rising query id. Raises InputError where the column is empty.
    """
    table = records.table
    of_model = pc.and_(pc.equal(table["model"], model), pc.equal(table["split"], split))
    cost = floats(table.filter(of_model).sort_by("query_id"), unit)
    if cost is None:
        raise InputError(
            f"column '{unit}' is empty for model '{model}' in split '{split}'; fill it in, "
            "or give a budget in another unit"
        )
    return cost


def bound_of(records: Records) -> Bound:
    """Exact binomial for a metric that is 0 or 1 in every row of the log, whatever its split.

    It is the metric that decides, not the losses that happened to be seen in calibration.
    """
    quality = records.table["quality"].to_numpy()
    return "binomial" if np.isin(quality, (0.0, 1.0)).all() else "hoeffding_bentkus"


def _data(split: str, learned: bool) -> str:
    """Which queries did what, for the policy's ``about``."""
    if not learned:
        return f"threshold chosen on all of '{split}'; the router learns nothing"
    return (
        f"router fitted on one half of '{split}', threshold chosen on the other, by a hash of "
        "the query id"
    )
