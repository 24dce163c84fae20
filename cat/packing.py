"""Several short rows in one: segments 1, 2, ... side by side, positions anew in each.

Which rows lie together is planned once, from their lengths and a seed: a packed row has a number
like any other, so order, resumption and shares of processes are those of ``cat.data.batches``.
(Packing iterators decide as they read; no packed row can then be named without those before it.)

Letters: N rows, K packed rows, W tokens of a packed row, M rows of some packed rows, P tokens.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
from jaxtyping import Int, Int32

from cat.config import fingerprint
from cat.shards import spans
from cat.source import Signals, Source
from cat.types import Batch
from routers.errors import InputError

Bins = tuple[int, tuple[tuple[int, int], ...]]
"""Equal bins: how many, and what each holds as (length, times)."""


@dataclasses.dataclass(frozen=True)
class Packed:
    """A source of K packed rows: ``members[offsets[k]:offsets[k + 1]]`` of another are its k-th."""

    source: Source
    width: int
    seed: int
    offsets: Int[np.ndarray, " K1"]
    members: Int32[np.ndarray, " N"]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def fingerprint(self) -> str:
        """Of the rows and how they are packed."""
        return fingerprint(self.source.fingerprint, "packed", self.width, self.seed)

    @property
    def lengths(self) -> Int[np.ndarray, " K"]:
        """Positions of each packed row that are not pad."""
        return np.add.reduceat(self.source.lengths[self.members], self.offsets[:-1])

    @property
    def counted(self) -> Int[np.ndarray, " K"]:
        """Response targets of each packed row."""
        return np.add.reduceat(self.source.counted[self.members], self.offsets[:-1])

    @property
    def response_width(self) -> int:
        """R: most response targets of a packed row."""
        return int(self.counted.max())

    @property
    def families(self) -> tuple[str, ...]:
        """Of the rows inside: a packed row may hold several."""
        return self.source.families

    @property
    def signals(self) -> dict[str, Signals]:
        """Those of the rows inside, which are packed alike."""
        return dict(self.source.signals)

    @property
    def notes(self) -> list[str]:
        """What packing saves."""
        lengths_N = self.source.lengths
        before = 1 - lengths_N.mean() / self.source.width
        after = 1 - lengths_N.sum() / (len(self) * self.width)
        return [
            f"{len(lengths_N):,} rows packed into {len(self):,} of {self.width} tokens: "
            f"{after:.1%} padding instead of {before:.1%}"
        ]

    def batch(self, rows: Int[np.ndarray, "*B"]) -> Batch:
        """The packed rows of these indices, of any shape [*B]; every column is packed alike."""
        flat_B = rows.reshape(-1)
        count_B = np.diff(self.offsets)[flat_B]
        inside = self.source.batch(self.members[spans(self.offsets, flat_B)])
        number_M = spans(np.append(0, np.cumsum(count_B)), np.arange(len(flat_B)))
        number_M -= np.repeat(np.cumsum(count_B) - count_B, count_B)  # 0, 1, ... in each
        length_M = np.count_nonzero(inside.segments, axis=1)
        end_M = np.cumsum(length_M)
        row_M = np.repeat(np.arange(len(flat_B)), count_B)
        first_M = (end_M - length_M) - np.repeat(
            (end_M - length_M)[number_M == 0], count_B
        )  # where each begins in its packed row
        member_P, time_P = np.nonzero(inside.segments)

        def spread(column: Any) -> np.ndarray:
            wide = np.zeros((len(flat_B), self.width, *column.shape[2:]), column.dtype)
            wide[row_M[member_P], first_M[member_P] + time_P] = column[member_P, time_P]
            return wide.reshape(*rows.shape, *wide.shape[1:])

        numbered = inside.segments * (number_M[:, None] + 1).astype(np.int32)
        return jax.tree.map(spread, inside._replace(segments=numbered))


def pack(source: Source, width: int, seed: int) -> Packed:
    """All rows of ``source`` in packed rows of at most ``width`` tokens, each exactly once.

    Best fit, longest first, on the histogram of lengths: a few steps per length, not per row.
    Which of the equally long rows go where is drawn by ``seed``; the composition stays for all
    epochs (our choice), their order does not.

    Raises:
        InputError: a row is longer than ``width``.

    Source: histogram packing, Krell et al. (2107.02027), longest-pack-first.
    """
    lengths_N = source.lengths
    if lengths_N.max() > width:
        raise InputError(
            f"data.pack={width} is less than the longest row's {lengths_N.max()} tokens; "
            "raise it or lower the length limits"
        )
    bins = _best_fit(np.bincount(lengths_N, minlength=width + 1), width)
    rng = np.random.default_rng([seed, width])
    order_N = rng.permutation(np.arange(len(lengths_N), dtype=np.int32))
    order_N = order_N[np.argsort(lengths_N[order_N], kind="stable")]
    next_free = np.cumsum(np.bincount(lengths_N, minlength=width + 1)).tolist()
    members, sizes = [], []
    for count, held in bins:
        columns = []
        for length, times in held:
            next_free[length] -= count * times
            first = next_free[length]
            columns.append(order_N[first : first + count * times].reshape(count, times))
        members.append(np.concatenate(columns, axis=1).reshape(-1))
        sizes.append(np.full(count, sum(times for _, times in held)))
    offsets = np.append(0, np.cumsum(np.concatenate(sizes)))
    return Packed(source, width, seed, offsets, np.concatenate(members))


def _best_fit(histogram: np.ndarray, width: int) -> list[Bins]:
    """Bins for ``histogram[l]`` rows of length l: each goes where the least room is left over."""
    room: list[list[Bins]] = [[] for _ in range(width + 1)]  # by what is left in a bin
    for length in range(width, 0, -1):
        left = int(histogram[length])
        for free in range(length, width):
            kept = []
            for bins in room[free]:
                used, rest, left = _put(bins, free, length, left)
                kept += rest
                for here, times in used:
                    room[free - times * length].append(here)
            room[free] = kept
        if left:
            each = width // length
            used, _, left = _put((-(-left // each), ()), width, length, left)
            for here, times in used:
                room[width - times * length].append(here)
    return [bins for group in room for bins in group]


def _put(
    bins: Bins, free: int, length: int, left: int
) -> tuple[list[tuple[Bins, int]], list[Bins], int]:
    """Fill equal bins with ``left`` rows one bin after another: used, untouched, rows left."""
    count, held = bins
    each = free // length
    full = min(count, left // each)
    odd = left - full * each if full < count else 0
    used = [((full, (*held, (length, each))), each)] if full else []
    used += [((1, (*held, (length, odd))), odd)] if odd else []
    untouched = count - full - (odd > 0)
    return used, [(untouched, held)] if untouched else [], left - full * each - odd
