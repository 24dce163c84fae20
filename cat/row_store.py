"""Token rows on disk: written once by streaming, read by row number without loading the others.

A folder of shards (``cat.shards``) and ``index.json``. A row costs its token ids (2 bytes each
below 65,536 of them) and 8 bytes; opening a store reads nothing but the index.

Letters: N rows, T tokens a row, B rows asked for, M tokens of several rows.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Int32

from cat import shards
from cat.config import DataConfig
from cat.data import Pair, Pairing, by_family, framed, lay_out, nothing_fits
from cat.example import Example
from cat.source import Signals
from cat.tokenizers import Tokenizer
from cat.types import Batch
from routers.errors import InputError
from routers.files import written, written_folder

INDEX = "index.json"
FORMAT = 1
SHARD_TOKENS = 2**22  # ids of a shard, less at the end: 8 MiB on disk


@dataclasses.dataclass(frozen=True)
class RowStore:
    """N examples as token rows on disk; a ``cat.source.Source``."""

    folder: Path
    index: dict[str, Any]

    def __len__(self) -> int:
        return self.index["rows"]

    @property
    def fingerprint(self) -> str:
        """Of all ids and of where responses begin; the same however they lie in shards."""
        return self.index["fingerprint"]

    @property
    def width(self) -> int:
        """T: positions of a row, pads included."""
        return self.index["width"]

    @property
    def response_width(self) -> int:
        """R: most response targets of a row."""
        return self.index["response_width"]

    @property
    def signals(self) -> dict[str, Signals]:
        """None: see ``cat.source.taught``."""
        return {}

    @property
    def notes(self) -> list[str]:
        """What a reader of the results must know about these rows."""
        left_out = self.index["left_out"]
        said = f"{left_out:,} of {len(self) + left_out:,} examples left out as longer than the "
        return [said + "token limits"] if left_out else []

    @property
    def lengths(self) -> Int32[np.ndarray, " N"]:
        """Positions of each row that are not pad; reads 4 bytes a row."""
        return np.concatenate([self._shard(i).lengths - 1 for i in self._numbers])

    @property
    def counted(self) -> Int32[np.ndarray, " N"]:
        """Response targets of each row; reads 8 bytes a row."""
        prompts = [self._shard(i).rows["prompt"] for i in self._numbers]
        return self.lengths + 1 - np.concatenate(prompts)

    def batch(self, rows: Int[np.ndarray, "*B"]) -> Batch:
        """The rows of these indices, of any shape [*B]."""
        order_B, parts = by_shard(rows.reshape(-1), self._starts)
        opened = [(self._shard(number), local) for number, local in parts]
        count_B, found = shards.take(opened, ["ids"])
        prompt_B = np.concatenate([shard.rows["prompt"][local] for shard, local in opened])
        sizes = (prompt_B, (count_B - 1).astype(np.int32), self.width, self.index["pad"])
        ids_M = found["ids"].astype(np.int32)
        back_B, shape = np.argsort(order_B), (*rows.shape, self.width)
        columns: list[Any] = [c[back_B].reshape(shape) for c in lay_out(ids_M, *sizes)]
        family_B = np.concatenate([shard.rows["family"][local] for shard, local in opened])
        families: Any = by_family(family_B[back_B].reshape(rows.shape), self.width, self.families)
        return Batch(*columns, family=families)

    @property
    def families(self) -> tuple[str, ...]:
        """The tasks of the examples, in the order they came."""
        return tuple(self.index["families"])

    @property
    def _numbers(self) -> range:
        return range(len(self.index["shards"]))

    @functools.cached_property
    def _starts(self) -> Int[np.ndarray, " K1"]:
        """The first row of each shard, and N."""
        return np.concatenate([[0], np.cumsum(self.index["shards"])])

    @functools.cached_property
    def _open(self) -> dict[int, shards.Shard]:
        return {}

    def _shard(self, number: int) -> shards.Shard:
        """That shard, checked when it is first needed."""
        if number not in self._open:
            try:
                self._open[number] = shards.read(self.folder / shard_name(number))
            except shards.Damaged as error:
                raise InputError(f"{error}; delete {self.folder} and write it again") from error
        return self._open[number]


def shard_name(number: int) -> str:
    """The file of a shard."""
    return f"shard-{number:05}.arrow"


def by_shard(
    rows: Int[np.ndarray, " B"], starts: Int[np.ndarray, " K1"]
) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
    """An order that visits one shard after another; per shard its number and rows, in that order.

    >>> order, parts = by_shard(np.array([5, 0, 4]), np.array([0, 3, 6]))
    >>> order.tolist(), [(number, local.tolist()) for number, local in parts]
    ([1, 2, 0], [(0, [0]), (1, [1, 2])])
    """
    order_B = np.argsort(rows, kind="stable")
    sorted_B = rows[order_B]
    cuts = np.searchsorted(sorted_B, starts)
    numbers = np.flatnonzero(np.diff(cuts))
    return order_B, [(int(n), sorted_B[cuts[n] : cuts[n + 1]] - starts[n]) for n in numbers]


def write(
    folder: Path,
    examples: Iterable[Example],
    tokenizer: Tokenizer,
    config: DataConfig,
    *,
    pairing: Pairing = framed,
    pad_multiple: int = 8,
    shard_tokens: int = SHARD_TOKENS,
) -> RowStore:
    """Tokenise a stream of examples into ``folder``, whole or not at all; never all in memory.

    The rows are those of ``cat.data.tokenize``: same limits, same width.

    Raises:
        InputError: no example is within the limits.
    """
    digest, counts = hashlib.sha256(), {"left_out": 0, "longest": 0, "response_width": 0}
    families: dict[str, int] = {}
    with written_folder(folder) as temporary:
        sizes = []
        dtype = np.uint16 if tokenizer.vocab_size <= 2**16 else np.int32
        pairs = _counted(pairing(examples, tokenizer, config), counts, families)
        for number, (block, family_N) in enumerate(_blocks(pairs, shard_tokens)):
            prompt_N = np.array([len(p) for p, _ in block], np.int32)
            length_N = np.array([len(p) + len(r) for p, r in block], np.int32)
            ids_M = np.concatenate([np.array(p + r, np.int32) for p, r in block])
            _digest(digest, prompt_N, length_N, ids_M)
            shards.write(
                temporary / shard_name(number),
                length_N,
                {"ids": ids_M.astype(dtype)},
                rows={"prompt": prompt_N, "family": np.array(family_N, np.int32)},
            )
            sizes.append(len(block))
        if not sizes:
            raise nothing_fits(counts["left_out"], config)
        index = {
            "format": FORMAT,
            "rows": sum(sizes),
            "shards": sizes,
            "left_out": counts["left_out"],
            "width": -(-counts["longest"] // pad_multiple) * pad_multiple,
            "response_width": counts["response_width"],
            "families": list(families),
            "pad": tokenizer.pad,
            "tokenizer": tokenizer.fingerprint,
            "fingerprint": digest.hexdigest()[:12],
        }
        with written(temporary / INDEX) as file:
            file.write_text(json.dumps(index))
    return RowStore(folder, index)


def load(folder: Path, tokenizer: Tokenizer) -> RowStore:
    """The store that ``write`` left in ``folder``.

    Raises:
        InputError: none there, one of another format, or one made with another tokenizer.
    """
    path = folder / INDEX
    try:
        index = json.loads(path.read_text())
        found = index["format"], index["tokenizer"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: no store of token rows ({error}); write it first") from error
    if found[0] != FORMAT:
        raise InputError(f"{path}: format {found[0]}, this version reads {FORMAT}; write it again")
    if found[1] != tokenizer.fingerprint:
        raise InputError(f"{path}: made with another tokenizer; write it again with this one")
    return RowStore(folder, index)


def _counted(
    found: Iterable[tuple[Example, Pair | None]], counts: dict[str, int], families: dict[str, int]
) -> Iterator[tuple[Pair, int]]:
    """Pairs within the limits and their family; what the index says is counted on the way."""
    for example, pair in found:
        if pair is None:
            counts["left_out"] += 1
            continue
        prompt, response = map(len, pair)
        counts["longest"] = max(counts["longest"], prompt + response - 1)
        counts["response_width"] = max(counts["response_width"], response)
        yield pair, families.setdefault(example.task, len(families))


def _blocks(pairs: Iterable[tuple[Pair, int]], most: int) -> Iterator[tuple[list[Pair], list[int]]]:
    """Pairs and their families, in lists of about ``most`` ids."""
    block: list[Pair] = []
    family: list[int] = []
    held = 0
    for pair, number in pairs:
        block.append(pair)
        family.append(number)
        held += len(pair[0]) + len(pair[1])
        if held >= most:
            yield block, family
            block, family, held = [], [], 0
    if block:
        yield block, family


def _digest(digest: Any, prompt_N: np.ndarray, length_N: np.ndarray, ids_M: np.ndarray) -> None:
    """Add rows one after another: how they are cut into blocks leaves no trace."""
    seen_M3 = np.zeros((len(ids_M), 3), np.int32)
    first_N = np.cumsum(length_N) - length_N
    seen_M3[:, 0] = ids_M
    seen_M3[first_N, 1], seen_M3[first_N, 2] = prompt_N, length_N
    digest.update(seen_M3)
