"""``evaluate`` for logs that do not fit in memory: the same numbers, one router at a time.

Letters: N test queries, P points of a curve.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from routers import streaming
from routers.arrow import floats
from routers.base import Inputs, Outcomes, Router, Stage
from routers.conventions import Convention
from routers.curves import Curve
from routers.errors import InputError
from routers.evaluate import Column, Evaluation, with_columns
from routers.measure import Split, add_intervals, describe, references, tiers, transfer
from routers.measure import by_task as measure_by_task
from routers.records import check_same_queries, filled, small_and_large

POINTS = 10_001  # of a curve that is kept: more than a plot can show


@dataclasses.dataclass(frozen=True)
class _Scored(Column):
    """A router whose scores are a column already, and its FLOPs another where it spends any."""

    def flops_per_query(self, inputs: Inputs) -> np.ndarray:
        spent = inputs.scores.get(_spent(self.name))
        return np.zeros(len(inputs)) if spent is None else spent


class _PromptScored(_Scored):
    stage: ClassVar[Stage] = "prompt"


def evaluate_stream(
    paths: Sequence[Path],
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
    """``evaluate(read(paths), routers, ...)`` in memory that does not grow with the tokens.

    The summary is that of ``evaluate``, to the last bit. Memory: about 50 bytes a row while the
    log is read; then 50 a query, 8 more for each router, and 150 while a router is measured.
    Rows in any order; those that are not by rising query_id in each model and split are sorted,
    which takes longer. Resamples take N time each: at ten million queries ask for few or none.
    What cannot be kept of so many queries: ``ranked`` is empty, ``inputs`` have no query ids and
    no token columns, and ``curves`` and ``references`` hold at most ``POINTS`` of their points,
    evenly spread over the deferral rate (each exact; every metric is of the whole curve).

    Raises:
        InputError: a learned router, a convention other than exact, or what ``evaluate`` refuses.
    """
    if fit_split == test_split:
        raise InputError(f"fit and test split are both '{fit_split}'; choose two different splits")
    if bootstrap < 0:
        raise InputError(f"bootstrap={bootstrap}; give the number of resamples, 0 for no intervals")
    if seed < 0:
        raise InputError(f"seed={seed}; give 0 or more")
    if convention != "exact":
        raise InputError(
            f"convention '{convention}' compares all curves at once, which a stream does not keep; "
            "leave it out, or evaluate a sample of the log that fits in memory"
        )
    learned = [name for name, router in routers.items() if router.learned]
    if learned:
        raise InputError(
            f"router '{learned[0]}' learns, which a stream of records does not allow; choose a "
            "training-free router, or evaluate a sample of the log that fits in memory"
        )
    read = _read(paths, routers, small, large, fit_split, test_split)
    pa.default_memory_pool().release_unused()  # a gigabyte that reading ten million rows leaves
    test, fit = read.test, read.fit
    lines = references(test.outcomes)
    entries, curves = {}, {}
    for name, router in read.routers.items():
        entries[name], curves[name] = _measured(
            name, router, read, lines["oracle"], bootstrap, seed
        )
    summary = {"small": read.small, "large": read.large, "n_fit": len(fit.outcomes) if fit else 0}
    summary.update(tiers(test.outcomes), cost_unit=read.unit, routers=entries)
    scores = {name: test.inputs.scores[name] for name in entries}
    if by_task:
        summary.update(measure_by_task(read.routers, scores, test))
    drawn = {name: thinned(curve) for name, curve in lines.items()}
    return Evaluation(
        summary, curves, drawn, {}, scores, dict(read.routers), test.inputs, test.outcomes
    )


def _measured(
    name: str, router: Router, read: _Read, oracle: Curve, bootstrap: int, seed: int
) -> tuple[dict[str, Any], Curve]:
    """Every number of one router; its ranking and whole curve are gone with this call."""
    test, score = read.test, read.test.score(router, name)
    ranked = test.rank(router, score)
    curve = ranked.curve()
    entry = describe(curve, oracle, score, test)
    moved = transfer(router, name, read.fit, curve)
    few = thinned(curve)
    del curve
    add_intervals({name: entry}, {name: ranked}, bootstrap, seed)
    del ranked
    entry.update(moved, stage=router.stage, peeks=router.peeks, curve_csv=None)
    return entry, few


def thinned(curve: Curve) -> Curve:
    """At most ``POINTS`` points of a curve, evenly spread over the deferral rate, ends kept."""
    if len(curve.deferral_rate) <= POINTS:
        return curve
    rows = np.unique(np.searchsorted(curve.deferral_rate, np.linspace(0, 1, POINTS)))
    columns = ("threshold", "deferral_rate", "quality", "cost")
    return dataclasses.replace(curve, **{name: getattr(curve, name)[rows] for name in columns})


@dataclasses.dataclass(frozen=True)
class _Read:
    """What is left of a log: two models, their splits, and routers that are columns by now."""

    small: str
    large: str
    unit: str
    test: Split
    fit: Split | None
    routers: dict[str, Router]


def _read(
    paths: Sequence[Path],
    routers: Mapping[str, Router],
    small: str | None,
    large: str | None,
    fit_split: str,
    test_split: str,
) -> _Read:
    """Both passes over the log."""
    log = streaming.survey(paths)
    small, large = small_and_large(log.head, small, large)
    log.rows(small, test_split)
    all_routers = with_columns(routers, streaming.first_inputs(log, small, test_split))
    splits = [test_split, *(s for s in [fit_split] if s in log.head.splits)]
    read = [_split(log, small, large, split, all_routers) for split in splits]
    if len(splits) == 2:
        streaming.check_disjoint(log, small, (test_split, fit_split))
    kinds: dict[Stage, type[_Scored]] = {"response": _Scored, "prompt": _PromptScored}
    scored: dict[str, Router] = {n: kinds[r.stage](n) for n, r in all_routers.items()}
    return _Read(small, large, log.head.cost_unit, read[0], (*read, None)[1], scored)


def _split(
    log: streaming.Log, small: str, large: str, split: str, routers: Mapping[str, Router]
) -> Split:
    """One split by rising query_id, its scores among the inputs."""
    ours, order = streaming.in_order(log.rows(small, split))
    theirs, _ = streaming.in_order(log.rows(large, split))
    check_same_queries(ours, theirs, small, large, split)
    unit = log.head.cost_unit
    cost_small, cost_large = filled(ours, unit), filled(theirs, unit)
    outcomes = Outcomes(filled(ours, "quality"), filled(theirs, "quality"), cost_small, cost_large)
    found = streaming.score(log, small, split, routers)
    columns = found.score | {_spent(name): flops for name, flops in found.flops.items()}
    inputs = Inputs(
        query_id=np.broadcast_to(np.array(""), len(ours)),
        task=_tasks(ours),
        prompt_tokens=None,
        response_tokens=floats(ours, "response_tokens", np.int64),
        scores=columns if order is None else {name: c[order] for name, c in columns.items()},
    )
    return Split(inputs, outcomes, unit == "flops")


def _tasks(table: pa.Table) -> np.ndarray:
    """[N] objects: one text per task, not one per query."""
    coded = table["task"].unify_dictionaries().combine_chunks()
    return np.array(coded.dictionary.to_pylist(), object)[coded.indices.to_numpy()]


def _spent(name: str) -> str:
    """The column of a router's own FLOPs; no name of a router or a score holds a NUL."""
    return f"{name}\0FLOPs"
