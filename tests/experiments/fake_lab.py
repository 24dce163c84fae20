"""Small logs of two models for the router laboratory: lengths that tell, a noisy score, tasks."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from experiments import lab_data
from routers.build import build
from routers.evaluate import evaluate
from routers.records import read

TASKS = ("copy", "add", "sort")
ROUTERS = ("length", "knn:k=20", "random", "oracle")  # with the column "mine": five
N_FIT, N_TEST = 300, 401  # no rate k / 401 lies halfway between two decimals


def columns(n_fit=N_FIT, n_test=N_TEST, seed=0, unit="flops", scores=("mine",), tasks=TASKS):
    """One dict of record columns; harder tasks have larger gains, long answers are wrong."""
    rng = np.random.default_rng(seed)
    n = n_fit + n_test
    length = rng.integers(1, 41, n)
    hard = np.arange(n) % len(tasks)
    wrong = rng.random(n) < length / 50 * (hard + 1) / len(tasks)
    lost = rng.random(n) < 0.06
    gain = wrong.astype(float) - (~wrong & lost)
    nothing = [None] * n
    table = {
        "query_id": [f"q{i}" for i in range(n)] * 2,
        "task": [tasks[i] for i in hard] * 2,
        "split": (["validation"] * n_fit + ["test"] * n_test) * 2,
        "model": ["S"] * n + ["L"] * n,
        "quality": [*np.where(wrong, 0.0, 1.0), *np.where(wrong | ~lost, 1.0, 0.0)],
        "response_tokens": [*length.tolist()] * 2,
        unit: [*(1e6 * (1 + length / 40)), *(1e8 * (1 + length / 40))],
        "prompt_embedding": [[float(m), 1.0 + h] for m, h in zip(length, hard, strict=True)] * 2,
    }
    for name in scores:
        table[f"score:{name}"] = [*np.round(gain + rng.normal(0, 1, n), 1), *nothing]
    return table


def log(path, **how):
    """The same as a Parquet file."""
    pq.write_table(pa.table(columns(**how)), path)
    return path


def make(path, routers=ROUTERS, *, by_task=True, bootstrap=100, **how):
    """(lab, evaluation, records) of such a file."""
    records = read([log(path, **how)])
    settings = {"fit_split": "validation", "test_split": "test", "bootstrap": bootstrap, "seed": 0}
    built = {spec: build(spec) for spec in routers}
    done = evaluate(records, built, by_task=by_task, **settings)
    return lab_data.gather(done, records, [path], **settings), done, records
