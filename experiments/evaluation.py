"""The routers on a run's records: one evaluation per arm and seed, each a resumable stage.

Needs the Parquet files only: no model, no accelerator.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np

from cat.config import Config, fingerprint
from experiments.progress import bar
from experiments.rundir import RunDirectory, read_json, write_json
from routers import records
from routers.base import Inputs, Outcomes, Router
from routers.build import build
from routers.curves import Ranked, rank
from routers.errors import InputError
from routers.evaluate import Evaluation, evaluate
from routers.files import written
from routers.zoo.stack import Stack


def record_paths(config: Config, run: RunDirectory) -> list[Path]:
    """Every Parquet file the configuration calls for; the large model's first."""
    names = ["large", *(f"{arm}-seed{seed}" for arm in config.arms for seed in config.seeds)]
    return [run.folder / "records" / f"{name}.parquet" for name in names]


def load_pair(
    config: Config, run: RunDirectory, arm: str, seed: int, split: str
) -> tuple[Inputs, Outcomes]:
    """One arm's and the large model's records of a split, joined by query."""
    return records.pair(_read(run, arm, seed), arm, "large", split)


def evaluate_run(config: Config, run: RunDirectory) -> None:
    """Fit and judge every router on every arm and seed not yet evaluated."""
    pairs = [(arm, seed) for arm in config.arms for seed in config.seeds]
    with bar("routers", len(pairs), "evaluations") as advance:
        for arm, seed in pairs:
            name = f"{arm}-seed{seed}"
            work = functools.partial(_one, config, run, arm, seed)
            made = [path.relative_to(run.folder).as_posix() for path in _paths(run, arm, seed)]
            run.stage(f"evaluation-{name}", _key(config, run, name), work, makes=made)
            advance(1, name)


def report_run(config: Config, run: RunDirectory) -> Path:
    """Evaluate what is not yet evaluated, then write summary.json, plots and report.html."""
    from experiments import report, summary

    evaluate_run(config, run)
    summary.write(config, run)
    _draw(run)
    return report.write(run.folder)


def _draw(run: RunDirectory) -> None:
    """The figures this run has data for; one it no longer has is removed."""
    from experiments import plots, report_data, report_style

    data = report_data.read(run.folder)
    figures: dict[str, tuple[Any, bool]] = {
        "quality_flops": (plots.quality_flops, True),
        "per_task": (plots.per_task, bool(report_style.task_panels(data))),
        "keep_rate": (plots.keep_rate, bool(data.training)),
    }
    for name, (draw, possible) in figures.items():
        for ending in ("png", "svg"):
            path = run.folder / "plots" / f"{name}.{ending}"
            if possible:
                draw(run.folder, path)
            else:
                path.unlink(missing_ok=True)


def load(run: RunDirectory, arm: str, seed: int) -> dict[str, Any]:
    """The JSON of one evaluation, as `cascade evaluate --json` prints it."""
    return read_json(_paths(run, arm, seed)[0])


def load_ranked(config: Config, run: RunDirectory, arm: str, seed: int) -> dict[str, Ranked]:
    """Every router's ranking of the test queries, for joint resampling across arms."""
    _, outcomes = load_pair(config, run, arm, seed, "test")
    entries = load(run, arm, seed)["routers"]
    with np.load(_paths(run, arm, seed)[1], allow_pickle=False) as stored:
        return {
            name: rank(
                stored[f"score/{name}"],
                outcomes,
                stage=entries[name]["stage"],
                router_flops=stored[f"flops/{name}"],
                name=name,
            )
            for name in entries
        }


def _one(config: Config, run: RunDirectory, arm: str, seed: int) -> None:
    """Evaluate one arm and seed and write its JSON and scores."""
    options = config.evaluation
    done = evaluate(
        _read(run, arm, seed),
        {spec: _charged(build(spec), run) for spec in options.routers},
        small=arm,
        large="large",
        bootstrap=0,  # intervals over queries and seeds together come in summary.json
        by_task=True,
        seed=options.seed,
    )
    json_path, scores_path = _paths(run, arm, seed)
    write_json(json_path, done.summary)
    with written(scores_path) as temporary, temporary.open("wb") as file:
        np.savez(file, **_columns(done))


def _charged(router: Router, run: RunDirectory) -> Router:
    """A prompt-stage router pays for the prefill of the small model it takes its embedding from.

    2 FLOPs per parameter outside the embedding table and prompt token; attention is not counted.
    It is charged on every query, so one that is kept pays its prefill twice. A stack whose members
    read that embedding pays for it, too, once for all of them.
    """
    per_token = 2 * read_json(run.folder / "data.json")["parameters"]["small_layers"]
    if isinstance(router, Stack):
        return router.charged(per_token)
    if getattr(router, "embedding_flops", None) != 0:
        return router
    return dataclasses.replace(router, embedding_flops=float(per_token))  # type: ignore[type-var]


def _columns(done: Evaluation) -> dict[str, Any]:
    """Scores and router FLOPs per test query, by router."""
    columns = {f"score/{name}": score for name, score in done.scores.items()}
    for name, router in done.routers.items():
        columns[f"flops/{name}"] = router.flops_per_query(done.inputs.at_stage(router.stage))
    return columns


def _read(run: RunDirectory, arm: str, seed: int) -> records.Records:
    folder = run.folder / "records"
    return records.read([folder / "large.parquet", folder / f"{arm}-seed{seed}.parquet"])


def _key(config: Config, run: RunDirectory, name: str) -> str:
    """Fingerprint of both record files (by their stages) and the evaluation's settings."""
    stages = [run.folder / "stages" / f"records-{n}.json" for n in ("large", name)]
    for path in stages:
        if not path.exists():
            raise InputError(f"{path}: scoring is not finished; `cascade run` that run again")
    made = [read_json(path)["fingerprint"] for path in stages]
    return fingerprint(made, config.evaluation.routers, config.evaluation.seed)


def _paths(run: RunDirectory, arm: str, seed: int) -> tuple[Path, Path]:
    stem = run.folder / "evaluations" / f"{arm}-seed{seed}"
    stem.parent.mkdir(exist_ok=True)
    return stem.with_suffix(".json"), stem.with_suffix(".npz")
