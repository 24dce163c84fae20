"""Routers against one another on records: every number of ``cascade compare``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from routers.base import Router
from routers.curves import oracle_score
from routers.diagnosis import OracleGap, detection, length_bias, oracle_gap
from routers.drift import score_drift, task_drift
from routers.errors import InputError
from routers.evaluate import Evaluation, evaluate
from routers.measure import Split
from routers.paired import Difference, Measured
from routers.power import (
    LEVEL,
    POWER,
    check_difference,
    detectable_difference,
    queries_for_difference,
)
from routers.records import Records, pair
from routers.significance import Comparison, compare


def compare_records(
    records: Records,
    routers: Mapping[str, Router],
    *,
    small: str | None = None,
    large: str | None = None,
    fit_split: str = "validation",
    test_split: str = "test",
    resamples: int = 1000,
    permutations: int = 10_000,
    worthwhile: float = 0.01,
    seed: int = 0,
) -> dict[str, Any]:
    """Fit each router on one split; compare all pairs and diagnose each on the other.

    Args:
        routers, small, large, fit_split, test_split: as in ``evaluate``; columns
            ``score:<name>`` join as routers of their name.
        resamples: of the paired 95 % intervals; permutations: of each p-value.
        worthwhile: the difference in area that would matter, for ``queries_needed``.

    Returns:
        JSON values: ``routers`` by falling area, ``comparisons`` of every pair with the larger
        area first, ``length`` and ``task_mix`` of the data. null = not defined or not known.

    Raises:
        InputError: as ``evaluate`` and ``significance.compare``.
    """
    check_difference(worthwhile)
    if seed < 0:
        raise InputError(f"seed {seed} is negative; give 0 or more")
    done = evaluate(
        records,
        routers,
        small=small,
        large=large,
        fit_split=fit_split,
        test_split=test_split,
        bootstrap=0,
    )
    areas, found = compare(done.ranked, resamples=resamples, permutations=permutations, seed=seed)
    fit = _fit_split(records, done, fit_split)
    entries = _diagnoses(done, areas, resamples, seed)
    for name, entry in entries.items():
        entry["drift"] = _drift(name, done, fit)
    kept = ("small", "large", "n_fit", "n_test", "quality")
    return {
        **{key: done.summary[key] for key in kept},
        "settings": {
            "resamples": resamples,
            "permutations": permutations,
            "seed": seed,
            "worthwhile": worthwhile,
            "power": POWER,
            "level": LEVEL,
        },
        "routers": entries,
        "comparisons": [_pair(each, len(done.outcomes), worthwhile) for each in found],
        "length": _length_of_gain(done, resamples, seed),
        "task_mix": None if fit is None else _tasks(fit, done, seed),
    }


def _diagnoses(
    done: Evaluation, areas: Mapping[str, Measured], resamples: int, seed: int
) -> dict[str, dict[str, Any]]:
    """Area, AUROCs, length bias and oracle gap of each router, in the order of the areas."""
    draws = {"resamples": resamples, "seed": seed}
    found = detection(done.scores, done.outcomes, **draws)
    gaps = oracle_gap(done.ranked, done.outcomes, **draws)
    length = done.inputs.response_tokens
    bias = {} if length is None else length_bias(done.scores, length, **draws)
    return {
        name: {
            "learned": done.routers[name].learned,
            "peeks": done.routers[name].peeks,
            **_with_interval("audc", area),
            **_with_interval("auroc_wrong", found[name]["wrong"]),
            **_with_interval("auroc_helped", found[name]["helped"]),
            **_with_interval("spearman_length", bias.get(name)),
            "oracle_gap": _steps(gaps[name]),
        }
        for name, area in areas.items()
    }


def _with_interval(key: str, value: Measured | None) -> dict[str, Any]:
    """Two JSON entries, the value and its interval; null where not defined."""
    if value is None or np.isnan(value.value):
        return {key: None, f"{key}_ci": None}
    low, high = value.interval
    return {key: value.value, f"{key}_ci": None if low is None else [low, high]}


def _steps(gap: OracleGap) -> dict[str, Any]:
    steps = ((f.name, getattr(gap, f.name)) for f in dataclasses.fields(gap))
    return {name: {"value": step.value, "ci": _ci(step)} for name, step in steps}


def _ci(step: Difference) -> list[float] | None:
    return None if step.low is None or step.high is None else [step.low, step.high]


def _pair(found: Comparison, queries: int, worthwhile: float) -> dict[str, Any]:
    return {
        "a": found.first,
        "b": found.second,
        "difference": found.difference.value,
        "ci": _ci(found.difference),
        "p_bootstrap": found.p_bootstrap,
        "p_permutation": found.p_permutation,
        "p_holm": found.p_holm,
        "queries_needed": queries_for_difference(found.per_query, worthwhile),
        "detectable": detectable_difference(found.per_query, queries),
    }


def _fit_split(records: Records, done: Evaluation, name: str) -> Split | None:
    if name not in records.splits:
        return None
    inputs, outcomes = pair(records, done.summary["small"], done.summary["large"], name)
    return Split(inputs, outcomes, records.cost_unit == "flops")


def _drift(name: str, done: Evaluation, fit: Split | None) -> dict[str, Any] | None:
    """Scores of the two splits against each other; null without a fit split or when peeking."""
    router = done.routers[name]
    if fit is None or router.peeks:
        return None
    found = score_drift(fit.score(router, name), done.scores[name], name)
    return {**dataclasses.asdict(found), "sentence": found.sentence}


def _length_of_gain(done: Evaluation, resamples: int, seed: int) -> dict[str, Any] | None:
    """How far the gain itself follows length: what a router's own figure is to be read against."""
    length = done.inputs.response_tokens
    if length is None:
        return None
    gain = {"gain": oracle_score(done.outcomes)}
    found = length_bias(gain, length, resamples=resamples, seed=seed)["gain"]
    return _with_interval("spearman_gain", found)


def _tasks(fit: Split, done: Evaluation, seed: int) -> dict[str, Any]:
    found = task_drift(fit.inputs.task, done.inputs.task, seed=seed)
    return {**dataclasses.asdict(found), "sentence": found.sentence}
