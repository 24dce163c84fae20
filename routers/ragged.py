"""Rows of different lengths in two flat arrays: one value per response token.

Letters: N rows, M values in all, K values per token.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Ragged:
    """N rows of any length: row i is ``values[offsets[i]:offsets[i + 1]]``.

    Args:
        values: [M] or [M, K], all rows end to end.
        offsets: [N + 1], int64, from 0 to M, never decreasing.

    >>> r = Ragged.of([[1.0, 2.0], [], [3.0]])
    >>> len(r), r.lengths.tolist(), r[0].tolist()
    (3, [2, 0, 1], [1.0, 2.0])
    """

    values: np.ndarray
    offsets: np.ndarray

    def __post_init__(self) -> None:
        steps = np.diff(self.offsets)
        if self.offsets[0] != 0 or self.offsets[-1] != len(self.values) or (steps < 0).any():
            raise ValueError(f"offsets must run from 0 to {len(self.values)} without decreasing")

    @classmethod
    def of(cls, rows: Sequence[Any], dtype: Any = np.float32) -> Ragged:
        """From a sequence of rows, each [n_i] or [n_i, K]."""
        arrays = [np.asarray(row, dtype) for row in rows]
        offsets = np.concatenate([[0], np.cumsum([len(a) for a in arrays])]).astype(np.int64)
        full = [a for a in arrays if len(a)]
        return cls(np.concatenate(full) if full else np.zeros(0, dtype), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """[N] number of values in each row."""
        return self.offsets[1:] - self.offsets[:-1]  # np.diff takes microseconds more

    @property
    def row_ids(self) -> np.ndarray:
        """[M] the row each value belongs to."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def take(self, rows: np.ndarray) -> Ragged:
        """The rows of these indices, in that order.

        >>> Ragged.of([[1.0, 2.0], [3.0]]).take(np.array([1, 0])).values.tolist()
        [3.0, 1.0, 2.0]
        """
        lengths = self.lengths[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        return Ragged(self.values[np.repeat(self.offsets[rows], lengths) + within], offsets)
