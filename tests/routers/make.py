"""Synthetic records for tests: small, seeded, with every column the schema knows."""

import numpy as np
import pyarrow as pa

from routers.base import Outcomes
from routers.records import Records
from routers.schema import normalise

TOPK = 4


def outcomes(queries: int, seed: int = 0, graded: bool = False) -> Outcomes:
    """Random quality (0/1, or graded in tenths) and costs for both tiers."""
    rng = np.random.default_rng(seed)
    levels = 10 if graded else 1
    small, large = (rng.integers(0, levels + 1, queries) / levels for _ in range(2))
    return Outcomes(small, large, 1 + rng.random(queries), 5 + 10 * rng.random(queries))


def tied_score(queries: int, seed: int = 0, levels: int = 7) -> np.ndarray:
    """A score with large groups of equal values."""
    return np.random.default_rng(seed).integers(0, levels, queries) / levels


def columns(
    queries: int, model: str, split: str, *, quality: float, flops: float, seed: int, tokens: bool
) -> dict:
    """One model's rows in one split as Python columns.

    The hidden difficulty of query i is the same for every model and shows in the small
    model's log-probabilities, so that confidence routers beat random.
    """
    offset = {"train": 0, "validation": 1, "test": 2}[split]
    hard = np.random.default_rng([seed, offset]).random(queries)
    rng = np.random.default_rng([seed, offset, len(model), ord(model[0])])
    lengths = rng.integers(1, 9, queries)
    out = {
        "query_id": [f"{split}-{i:05d}" for i in range(queries)],
        "task": [("copy", "sum", "facts")[i % 3] for i in range(queries)],
        "split": [split] * queries,
        "model": [model] * queries,
        "quality": (rng.random(queries) < quality * (1.5 - hard)).astype(np.float32),
        "prompt_tokens": rng.integers(3, 20, queries).astype(np.int32),
        "response_tokens": lengths.astype(np.int32),
        "flops": flops * (1 + 0.1 * rng.random(queries)),
    }
    return out | (_token_columns(hard, lengths, rng) if tokens else {})


def _token_columns(hard: np.ndarray, lengths: np.ndarray, rng: np.random.Generator) -> dict:
    topk = [
        -np.sort(rng.exponential(0.2 + h, (n, TOPK))) for h, n in zip(hard, lengths, strict=True)
    ]
    as_lists = [rows.astype(np.float32).tolist() for rows in topk]
    first = [[row[0] for row in rows] for rows in as_lists]
    entropy = [(0.1 + h + rng.random(n)).tolist() for h, n in zip(hard, lengths, strict=True)]
    return {
        "token_logprob": first,
        "token_entropy": entropy,
        "topk_logprob": as_lists,
        "prompt_embedding": np.stack([hard, 1 - hard], 1).tolist(),
        "forced_logprob": first,
        "forced_hit": [(rng.random(n) > h).tolist() for h, n in zip(hard, lengths, strict=True)],
        "forced_topk_logprob": as_lists,
    }


def table(columns: dict) -> pa.Table:
    return normalise(pa.table(columns), "synthetic")


def records(
    queries: int = 60, *, splits=("validation", "test"), tokens: bool = True, seed: int = 0
) -> Records:
    """Two models, ``small`` and ``large``, on the same queries of each split."""
    tables = [
        table(columns(queries, model, split, quality=q, flops=f, seed=seed, tokens=tokens))
        for split in splits
        for model, q, f in (("small", 0.5, 1e6), ("large", 0.8, 1e7))
    ]
    return Records(pa.concat_tables(tables), {"commit": "abc"})


def minimal(queries: int = 40, seed: int = 0) -> dict:
    """The least a log needs, two models, plus a ready-made score for the small one."""
    rng = np.random.default_rng(seed)
    return {
        "query_id": [f"q{i}" for i in range(queries)] * 2,
        "model": ["a"] * queries + ["b"] * queries,
        "quality": rng.random(2 * queries),
        "dollars": [0.1] * queries + [1.0] * queries,
        "score:mine": [*rng.random(queries).tolist(), *([None] * queries)],
    }


def calibrated(queries: int, rng: np.random.Generator) -> tuple[np.ndarray, Outcomes]:
    """Large right with .9, small right with its confidence; the score is minus that."""
    confidence = rng.random(queries)
    small = (rng.random(queries) < confidence).astype(float)
    large = (rng.random(queries) < 0.9).astype(float)
    return -confidence, Outcomes(small, large, np.ones(queries), 9 * np.ones(queries))
