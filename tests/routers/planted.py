"""Synthetic queries of three planted kinds, for tests of routers.

Kind 0: both models right. Kind 1: small wrong, large right (the ones to send on). Kind 2: both
wrong. Kinds 1 and 2 differ in *how* the small model is unsure: 1 hesitates between two tokens,
2 spreads over all, so a learned router can tell them apart. The prompt embedding carries the
kind under noise.
"""

import dataclasses

import numpy as np

from routers.base import Inputs, Outcomes
from routers.ragged import Ragged

K = 5
REST = np.array([[0.25, 0.25, 0.25, 0.25], [0.94, 0.02, 0.02, 0.02], [0.25, 0.25, 0.25, 0.25]])
FIRST = np.array([0.93, 0.62, 0.45])


def tokens(rng, kind_N, length_N):
    """(topk_logprob [M, K], entropy [M], kind [M]) of responses of these lengths."""
    offsets = np.concatenate([[0], np.cumsum(length_N)]).astype(np.int64)
    kind_M = np.repeat(kind_N, length_N)
    first_M = FIRST[kind_M] * rng.uniform(0.85, 1.05, len(kind_M))
    rest_MK = (1 - first_M)[:, None] * REST[kind_M]
    p_MK = -np.sort(-np.concatenate([first_M[:, None], rest_MK], axis=1), axis=1)
    entropy_M = -(p_MK * np.log(p_MK)).sum(1)
    topk = Ragged(np.log(p_MK).astype(np.float32), offsets)
    return topk, Ragged(entropy_M.astype(np.float32), offsets), kind_M


def sampled(n, kind_N, seed, k=4):
    """(sampled answers, answers): k samples, each agreeing with chance .9, .5, .4 by kind."""
    rng = np.random.default_rng([seed, 1])  # its own stream: the other columns stay as they were
    agrees_Nk = rng.random((n, k)) < np.array([0.9, 0.5, 0.4])[kind_N][:, None]
    rows = [
        [f"The  answer {i}." if yes else "no" for yes in row] for i, row in enumerate(agrees_Nk)
    ]
    return Ragged.of(rows, object), np.array([f"answer {i}" for i in range(n)], object)


def planted(n=600, seed=0, graded=False, kinds=(0, 1, 2)):
    """(inputs, outcomes) of n queries; ``graded`` gives qualities between 0 and 1."""
    rng = np.random.default_rng(seed)
    kind_N = rng.choice(kinds, n)
    length_N = rng.integers(2, 9, n)
    topk, entropy, _ = tokens(rng, kind_N, length_N)
    forced, _, kind_M = tokens(rng, kind_N, length_N)
    hit_small = rng.random(len(kind_M)) < np.array([0.95, 0.2, 0.2])[kind_M]
    hit_large = rng.random(len(kind_M)) < np.array([0.95, 0.95, 0.2])[kind_M]
    samples, answers = sampled(n, kind_N, seed)
    clues_NE = np.eye(3)[kind_N] + 0.3 * rng.normal(size=(n, 3))
    small_N = (kind_N == 0).astype(np.float32)
    large_N = (kind_N < 2).astype(np.float32)
    if graded:
        small_N = np.float32(0.1) + np.float32(0.6) * small_N
        large_N = np.float32(0.1) + np.float32(0.8) * large_N
    inputs = Inputs(
        query_id=np.array([f"query-{i}" for i in range(n)]),
        task=np.array(["a", "b"])[rng.integers(0, 2, n)],
        prompt_tokens=rng.integers(3, 12, n),
        prompt_embedding=(clues_NE @ rng.normal(size=(3, 16))).astype(np.float32),
        response_tokens=length_N,
        token_logprob=Ragged(topk.values[:, 0], topk.offsets),
        token_entropy=entropy,
        topk_logprob=topk,
        response_embedding=clues_NE.astype(np.float32),
        response=answers,
        sampled_responses=samples,
    )
    outcomes = Outcomes(
        quality_small=small_N,
        quality_large=large_N,
        flops_small=100.0 * length_N,
        flops_large=1000.0 * length_N,
        forced_logprob_small=Ragged(forced.values[:, 0], forced.offsets),
        forced_topk_logprob_small=forced,
        forced_hit_small=Ragged(hit_small, forced.offsets),
        forced_hit_large=Ragged(hit_large, forced.offsets),
    )
    return inputs, outcomes


def from_rows(logprobs=(), entropies=(), topk=(), **columns):
    """Inputs from plain lists of rows, for scores worked out by hand."""
    n = max(len(logprobs), len(entropies), len(topk), *(len(c) for c in columns.values()), 0)
    return dataclasses.replace(
        Inputs(np.array([f"q{i}" for i in range(n)]), np.array(["t"] * n), np.ones(n, np.int64)),
        token_logprob=Ragged.of(logprobs, np.float64) if logprobs else None,
        token_entropy=Ragged.of(entropies, np.float64) if entropies else None,
        topk_logprob=Ragged.of(topk, np.float64) if topk else None,
        **columns,
    )
