"""What a training loop reads: token rows by index, and the large model's signals beside them.

``cat.data.Rows`` (in memory) and ``cat.row_store.RowStore`` (on disk) are sources; ``Taught`` puts
signals beside one, ``cat.packing.Packed`` puts several of its rows into one.

Letters: N rows, T tokens a row, B rows asked for, C teacher log-probabilities.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from cat.config import fingerprint
from cat.types import Batch, Teacher
from routers.errors import InputError


@runtime_checkable
class Signals(Protocol):
    """A model's signals on N rows, wherever they are kept."""

    @property
    def fingerprint(self) -> str:
        """Changes with the signals, or with anything they were made from."""
        ...

    @property
    def topk(self) -> int:
        """C: log-probabilities kept per token."""
        ...

    def __len__(self) -> int: ...

    def columns(self, rows: np.ndarray, mask: np.ndarray) -> Teacher:
        """Signals of rows [*B] as NumPy columns [*B, T]; ``mask`` [*B, T] is those rows'."""
        ...


@runtime_checkable
class Source(Protocol):
    """N token rows by index: what the training loop and the large model's pass read.

    Nothing says that they are in memory: ``batch`` is the only way to see tokens.
    """

    @property
    def fingerprint(self) -> str:
        """Changes with the tokens; signals have their own."""
        ...

    @property
    def width(self) -> int:
        """T: positions of a row, pads included."""
        ...

    @property
    def lengths(self) -> np.ndarray:
        """[N] int32: positions of each row that are not pad."""
        ...

    @property
    def counted(self) -> np.ndarray:
        """[N] int32: response targets of each row (where its mask is 1)."""
        ...

    @property
    def response_width(self) -> int:
        """R: most response targets of a row."""
        ...

    @property
    def families(self) -> tuple[str, ...]:
        """The tasks that ``Batch.family`` counts through."""
        ...

    @property
    def signals(self) -> Mapping[str, Signals]:
        """What fills ``Batch.teacher`` and ``Batch.before``, by these names; empty = nothing."""
        ...

    def __len__(self) -> int: ...

    def batch(self, rows: np.ndarray) -> Batch:
        """The rows of these indices, of any shape [*B], as NumPy columns [*B, T]."""
        ...


@dataclasses.dataclass(frozen=True)
class Whole:
    """Signals that are all in memory, as dense columns [N, T]."""

    teacher: Teacher

    def __len__(self) -> int:
        return len(self.teacher.hit)

    @property
    def fingerprint(self) -> str:
        """Of every column that is there."""
        return fingerprint(*[np.asarray(c) for c in self.teacher if c is not None])

    @property
    def topk(self) -> int:
        """C: log-probabilities kept per token."""
        return self.teacher.topk_ids.shape[-1]

    def columns(self, rows: np.ndarray, mask: np.ndarray) -> Teacher:
        """The columns at these rows."""
        return Teacher(*[None if c is None else c[rows] for c in self.teacher])


@dataclasses.dataclass(frozen=True)
class Taught:
    """A source and a model's signals on its rows, side by side."""

    source: Source
    told: Signals
    name: Literal["teacher", "before"] = "teacher"  # the field of ``Batch`` that it fills

    def __len__(self) -> int:
        return len(self.source)

    @property
    def fingerprint(self) -> str:
        """Of the source."""
        return self.source.fingerprint

    @property
    def width(self) -> int:
        """Of the source, as the next three."""
        return self.source.width

    @property
    def lengths(self) -> np.ndarray:
        """Positions of each row that are not pad."""
        return self.source.lengths

    @property
    def counted(self) -> np.ndarray:
        """Response targets of each row."""
        return self.source.counted

    @property
    def response_width(self) -> int:
        """Most response targets of a row."""
        return self.source.response_width

    @property
    def families(self) -> tuple[str, ...]:
        """Of the source."""
        return self.source.families

    @property
    def signals(self) -> dict[str, Signals]:
        """The source's and these."""
        return {**self.source.signals, self.name: self.told}

    def batch(self, rows: np.ndarray) -> Batch:
        """The source's rows with their signals."""
        found = self.source.batch(rows)
        mask: Any = found.mask
        return found._replace(**{self.name: self.told.columns(rows, mask)})


def taught(
    source: Source,
    told: Teacher | Signals | None,
    name: Literal["teacher", "before"] = "teacher",
) -> Source:
    """The source with these signals beside its rows; as it is where there are none.

    Raises:
        InputError: the signals are of another number or width of rows.
    """
    if told is None:
        return source
    signals = Whole(told) if isinstance(told, Teacher) else told
    rows = (len(source), source.width)
    given = told.hit.shape if isinstance(told, Teacher) else (len(told), source.width)
    if given != rows:
        raise InputError(
            f"{name} signals are for rows {tuple(given)}, the rows are {rows}; "
            "compute them on these rows"
        )
    return Taught(source, signals, name)
