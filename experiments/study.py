"""The results page: every configuration of it, several at a time, resumable.

Each configuration is one `cascade run` in a process of its own on one core, followed by the
robustness questions; what is finished is not done again. Then docs/results.md is rewritten.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from experiments.rundir import RunDirectory, read_json

GENERATED = ("generated_full", "generated_feasible")
REAL = ("clinc150", "scan", "babi", "tatoeba_en_de")
APART = ("pretrained",)
"""On the page where it has been run; needs a checkpoint, which the study has not."""
ROBUST_ROUTERS = ("chow_average", "cat_router", "post_hoc:learner=booster")
ROBUST_ARMS = ("xent", "cat_xent", "random_mask", "gatekeeper")
ONE_CORE = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


def run_all(names: Sequence[str], data: Path | None, runs: Path, jobs: int) -> list[str]:
    """Run every configuration; returns the names that failed. Output goes to runs/<name>.log."""
    runs.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(jobs) as pool:
        codes = list(pool.map(lambda name: _run(name, data, runs), names))
    return [name for name, code in zip(names, codes, strict=True) if code]


def _run(name: str, data: Path | None, runs: Path) -> int:
    """One configuration as a process; prints when it starts and ends."""
    source = ["--data", str(data / name)] if data is not None and name in REAL else []
    command = [sys.executable, "-m", "experiments.study", name, *source, "--runs", str(runs)]
    began = time.perf_counter()
    print(f"{name}: running, log in {runs / name}.log", flush=True)
    with (runs / f"{name}.log").open("a") as log:
        environment = os.environ | {"XLA_FLAGS": ONE_CORE}
        done = subprocess.run(command, stdout=log, stderr=log, env=environment, check=False)
    word = "done" if done.returncode == 0 else f"failed with exit code {done.returncode}"
    print(f"{name}: {word} after {(time.perf_counter() - began) / 60:.1f} minutes", flush=True)
    return done.returncode


def main(arguments: Sequence[str]) -> int:
    """One configuration: every stage, then the robustness questions."""
    from experiments.options import resolve

    config, run = resolve(arguments, "run")
    from experiments.pipeline import Pipeline

    Pipeline(config, run).all()
    _robustness(run)
    return 0


def _robustness(run: RunDirectory) -> None:
    """Answer the robustness questions once per set of evaluations."""
    from cat.config import Config, fingerprint, from_dict
    from experiments import robustness

    config = from_dict(Config, read_json(run.folder / "config.json"))
    arms = [arm for arm in ROBUST_ARMS if arm in config.arms]
    stages = sorted((run.folder / "stages").glob("evaluation-*.json"))
    made = [read_json(path)["fingerprint"] for path in stages]
    key = fingerprint(made, arms, ROBUST_ROUTERS, robustness.BUDGETS, robustness.SKEW)
    work = functools.partial(robustness.write, config, run, arms, ROBUST_ROUTERS)
    run.stage("robustness", key, work, makes=["robustness.json"])


if __name__ == "__main__":
    from experiments.cli import guarded

    sys.exit(guarded(main, sys.argv[1:]))
