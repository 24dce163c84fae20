"""Three tiers with a known truth: what each can do depends on how hard a query is."""

import numpy as np
import pyarrow as pa

from routers.base import Inputs
from routers.records import Records
from routers.schema import normalise
from routers.tiers import Tiers

MODELS = ("small", "medium", "large")
SKILL = (0.35, 0.65, 0.95)  # a tier is right where the query is easier than this, mostly
COST = (1e6, 4e6, 2e7)


def columns(n, split, k, seed=0, clue=0.1, signal=0.1):
    """One model's rows; ``score:unsure`` rises with difficulty, the embedding hints at it."""
    hard_n = np.random.default_rng([seed, len(split)]).random(n)
    rng = np.random.default_rng([seed, len(split), k])
    right_n = hard_n + 0.08 * rng.normal(size=n) < SKILL[k]
    hint = np.random.default_rng([seed, len(split), 99]).normal(size=n)
    unsure_n = hard_n - SKILL[k] + signal * rng.normal(size=n)
    return {
        "query_id": [f"{split}-{i:05d}" for i in range(n)],
        "split": [split] * n,
        "model": [MODELS[k]] * n,
        "quality": right_n.astype(np.float32),
        "flops": COST[k] * (1 + 0.2 * rng.random(n)),
        "prompt_embedding": (hard_n + clue * hint)[:, None].tolist(),
        "score:unsure": unsure_n,
    }


def records(n=300, seed=0, models=3, **noise) -> Records:
    tables = [
        normalise(pa.table(columns(n, split, k, seed, **noise)), "planted")
        for split in ("validation", "test")
        for k in range(models)
    ]
    return Records(pa.concat_tables(tables))


def bare(quality_NK, cost_NK, scores_ND, unit="dollars") -> Tiers:
    """Tiers from arrays; tier k has ``score:s``, the column k of the scores."""
    n, tiers = quality_NK.shape
    ids = np.array([f"q{i}" for i in range(n)])
    task = np.array(["t"] * n)
    inputs = [
        Inputs(ids, task, None, scores={"s": scores_ND[:, k]} if k < scores_ND.shape[1] else {})
        for k in range(tiers)
    ]
    nothing = {"logprob": None, "topk_logprob": None, "hit": None}
    return Tiers(
        tuple(f"m{k}" for k in range(tiers)),
        tuple(inputs),
        quality_NK.astype(np.float64),
        cost_NK.astype(np.float64),
        unit,
        (nothing,) * tiers,
    )


def random_tiers(n, tiers, seed=0, levels=0) -> Tiers:
    """Unrelated qualities, costs and scores; ``levels`` > 0: tied scores and right or wrong."""
    rng = np.random.default_rng(seed)
    quality, score = rng.random((n, tiers)), rng.random((n, tiers - 1))
    if levels:
        quality, score = quality.round(), np.floor(score * levels)
    return bare(quality, np.cumsum(rng.random((n, tiers)), axis=1) + 0.5, score)
