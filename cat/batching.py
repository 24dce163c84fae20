"""Sequences of any lengths through a function of fixed shapes, and back in their order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from routers.errors import InputError

Progress = Callable[[int, int], Any]
"""Called with (done, total) after each batch."""


def pad(
    sequences: Sequence[Sequence[int]], rows: int, width: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Right-padded ids and lengths of ``rows`` rows; width a multiple of 8; fillers are empty.

    >>> tokens, lengths = pad([[5, 6, 7], [8]], rows=3)
    >>> tokens.shape, tokens[0].tolist(), lengths.tolist()
    ((3, 8), [5, 6, 7, 0, 0, 0, 0, 0], [3, 1, 0])
    """
    tokens = np.zeros((rows, width or round_up(max(map(len, sequences)))), np.int32)
    lengths = np.zeros(rows, np.int32)
    for row, ids in enumerate(sequences):
        tokens[row, : len(ids)] = ids
        lengths[row] = len(ids)
    return tokens, lengths


def round_up(length: int, multiple: int = 8) -> int:
    """The next multiple: few distinct widths mean few compilations."""
    return -(-length // multiple) * multiple


def by_bucket(lengths: Sequence[int], rows: int) -> list[tuple[int, list[int]]]:
    """(width, indices) of at most ``rows`` sequences each, shortest first.

    A width is a power of two, at least 8, and its sequences have more than half of it.

    >>> by_bucket([9, 3, 16, 8, 5], rows=2)
    [(8, [1, 4]), (8, [3]), (16, [0, 2])]
    """
    buckets: dict[int, list[int]] = {}
    for i in np.argsort(lengths, kind="stable").tolist():
        buckets.setdefault(max(8, 1 << (lengths[i] - 1).bit_length()), []).append(i)
    groups = {width: range(0, len(found), rows) for width, found in buckets.items()}
    return [(w, buckets[w][at : at + rows]) for w, starts in groups.items() for at in starts]


def check_prompts(lengths: Sequence[int], batch_size: int) -> None:
    """Raise InputError for no prompts, an empty one, or no rows to put them in."""
    if not lengths or min(lengths) < 1 or batch_size < 1:
        raise InputError(
            f"{len(lengths)} prompts, shortest {min(lengths, default=0)} tokens, batch size "
            f"{batch_size}; give at least one of each, begin-of-sequence included"
        )


def in_batches(
    run: Callable[[np.ndarray], Any], lengths: list[int], batch_size: int, progress: Progress | None
) -> Any:
    """``run`` on batches of like length; the rows of its results back in the given order."""
    check_prompts(lengths, batch_size)
    order = np.argsort(lengths, kind="stable")
    parts = []
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        parts.append(_first(jax.device_get(run(rows)), len(rows)))
        if progress is not None:
            progress(start + len(rows), len(order))
    back = np.argsort(order)
    return jax.tree.map(lambda *arrays: np.concatenate(arrays)[back], *parts)


def _first(result: Any, count: int) -> Any:
    """The rows that are not fillers."""
    return jax.tree.map(lambda array: array[:count], result)
