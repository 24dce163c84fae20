"""The large model's signals on disk: one pass over the rows, in shards that can be lost one by one.

A folder of shards (``cat.shards``) and ``teacher.json``, what the signals were made from. Only
response tokens are kept. For M of them in N rows, exactly

    M (1/8 + 4 [logprob] + topk (i + 4)) + 4 N bytes,   i = 2 for up to 65,536 tokens, else 4

plus 1 to 2 KB a shard; float32 as computed, so that stored equals live. The mass outside the
``topk`` is not stored: ``1 - sum p`` is what the losses read, exact to one float32 rounding.

Letters: N rows, T tokens a row, C kept log-probabilities, M response tokens, B rows asked for.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int

from cat import shards
from cat.checkpoints import claim
from cat.config import fingerprint
from cat.models.decoder import Decoder
from cat.row_store import by_shard, shard_name
from cat.source import Source
from cat.teacher import Progress, told
from cat.types import Teacher
from routers.errors import InputError

RECIPE = "teacher.json"
SHARD_ROWS = 8_192


@dataclasses.dataclass(frozen=True)
class TeacherStore:
    """Signals on N rows, read by row number; a ``cat.source.Signals``."""

    folder: Path
    recipe: dict[str, Any]

    def __len__(self) -> int:
        return self.recipe["count"]

    @property
    def topk(self) -> int:
        """C: log-probabilities kept per token."""
        return self.recipe["topk"]

    @property
    def fingerprint(self) -> str:
        """Of everything the signals were made from."""
        return fingerprint(self.recipe)

    def columns(self, rows: Int[np.ndarray, "*B"], mask: Float32[np.ndarray, "*B T"]) -> Teacher:
        """Signals of these rows, at the places their mask counts; zeros elsewhere.

        Raises:
            InputError: a shard is missing or damaged; the mask is of other rows.
        """
        mask_BT = mask.reshape(-1, mask.shape[-1])
        order_B, parts = by_shard(rows.reshape(-1), self._starts)
        opened = [(self._shard(number), local) for number, local in parts]
        count_B, found = shards.take(opened, self._names)
        if not np.array_equal(count_B, np.count_nonzero(mask_BT[order_B], axis=1)):
            raise InputError(f"{self.folder}: signals of other rows; compute them on these")
        row_M, time_M = np.nonzero(mask_BT[order_B])

        def spread(name: str, dtype: Any, *tail: int) -> np.ndarray:
            wide = np.zeros((*mask_BT.shape, *tail), dtype)
            if name in found:
                wide[order_B[row_M], time_M] = found[name]
            return wide.reshape(*mask.shape, *tail)

        return Teacher(
            hit=spread("hit", bool),
            topk_ids=spread("topk_ids", np.int32, self.topk),
            topk_logprob=spread("topk_logprob", np.float32, self.topk),
            logprob=spread("logprob", np.float32) if "logprob" in found else None,
        )

    @property
    def _names(self) -> list[str]:
        """The columns that are stored."""
        label = ["logprob"] if self.recipe["logprob"] else []
        return ["hit", *label, *(["topk_ids", "topk_logprob"] if self.topk else [])]

    def hit_rate(self) -> float:
        """Hits per response token."""
        opened = [self._shard(number) for number in range(len(self._starts) - 1)]
        hits = sum(int(np.bitwise_count(shard.tokens["hit"]).sum()) for shard in opened)
        return hits / sum(int(shard.offsets[-1]) for shard in opened)

    def rows(self, number: int) -> range:
        """The rows of a shard."""
        return range(int(self._starts[number]), int(self._starts[number + 1]))

    @functools.cached_property
    def _starts(self) -> Int[np.ndarray, " K1"]:
        """The first row of each shard, and N."""
        return np.append(np.arange(0, len(self), self.recipe["shard_rows"]), len(self))

    @functools.cached_property
    def _open(self) -> dict[int, shards.Shard]:
        return {}

    def _shard(self, number: int) -> shards.Shard:
        """That shard, checked when it is first needed."""
        if number not in self._open:
            try:
                self._open[number] = read_shard(self, number)
            except shards.Damaged as error:
                raise InputError(f"{error}; run the teacher again, it makes this shard") from error
        return self._open[number]


def fill(
    folder: Path,
    source: Source,
    model: Callable[[], Decoder],
    *,
    key: Mapping[str, str],
    topk: int,
    logprob: bool = False,
    batch_size: int = 256,
    shard_rows: int = SHARD_ROWS,
    process: int = 0,
    processes: int = 1,
    progress: Progress = lambda count, note: None,
) -> TeacherStore:
    """Make the shards that are missing or damaged, and no others; the store when they are there.

    An interrupted pass goes on at its first missing shard. With several processes, process p of
    P makes shards p, p + P, ...: call it inside a mesh of that process's own devices.

    Args:
        model: loads the large model; not called when there is nothing to make.
        key: what the signals depend on besides the rows, by name: tokenizer, checkpoint ...
        topk: largest log-probabilities to keep per response token; 0 = none, V = all.
        logprob: keep the target's own log-probability.
        progress: called with (rows done since the last call, note), if there is any to make.

    Raises:
        InputError: the folder holds signals made from something else, which is named; topk is
            negative or larger than the vocabulary.
    """
    recipe = {
        "format": 1,
        "count": len(source),
        "rows": source.fingerprint,
        "topk": topk,
        "logprob": logprob,
        "shard_rows": shard_rows,
        **key,
    }
    claim(folder / RECIPE, recipe)
    store = TeacherStore(folder, recipe)
    numbers = range(process, -(-len(source) // shard_rows), processes)
    missing = [number for number in numbers if not _sound(store, number)]
    done = sum(len(store.rows(number)) for number in numbers if number not in missing)
    if missing:
        if done:
            progress(done, "resumed")
        loaded, counted_N = model(), source.counted
        for number in missing:
            rows_N = np.array(store.rows(number))
            found = told(
                loaded, source, rows_N, topk=topk, batch_size=batch_size, progress=progress
            )
            _write(store, number, found, counted_N[rows_N], loaded.config.vocab_size)
    return store


def read_shard(store: TeacherStore, number: int) -> shards.Shard:
    """One shard, which must be whole and made from this very recipe.

    Raises:
        shards.Damaged: it is not.
    """
    path = store.folder / shard_name(number)
    shard = shards.read(path)
    if shard.about != _about(store, number):
        raise shards.Damaged(f"{path}: made from something else")
    return shard


def _sound(store: TeacherStore, number: int) -> bool:
    try:
        read_shard(store, number)
    except shards.Damaged:
        return False
    return True


def _write(
    store: TeacherStore, number: int, found: Teacher, counted_N: np.ndarray, vocab: int
) -> None:
    """One shard of signals; a token's id takes the bytes the vocabulary needs."""
    small = found._replace(
        topk_ids=found.topk_ids.astype(np.uint16 if vocab <= 2**16 else np.int32)
    )
    tokens = {name: getattr(small, name) for name in store._names}
    path = store.folder / shard_name(number)
    shards.write(path, counted_N, tokens, about=_about(store, number))


def _about(store: TeacherStore, number: int) -> dict[str, str]:
    """What a shard says it is."""
    return {"recipe": store.fingerprint, "shard": str(number)}
