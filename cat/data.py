"""Examples to token rows, and rows to the batches a training loop dispatches.

A row is what ``Tokenizer.frame`` and ``Tokenizer.close`` give, e.g. ``<bos> prompt <sep> target
<eos>``; position t holds a token and predicts the next.

Letters: N rows, T tokens a row, S steps a dispatch, B rows a step, C teacher log-probabilities.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import grain
import numpy as np
from jaxtyping import Float32, Int, Int32

from cat.config import DataConfig, fingerprint
from cat.example import Example
from cat.source import Signals, Source
from cat.tokenizers import Tokenizer
from cat.types import Batch
from routers.errors import InputError


@dataclasses.dataclass(frozen=True)
class Rows:
    """N examples as token rows, all in memory; columns as in ``cat.types.Batch``.

    ``prompt_lengths`` counts the prompt in its frame: ``tokens[i, :prompt_lengths[i]]`` is what
    a model is given to continue. ``response_lengths`` counts the target and eos:
    ``prompt_lengths + response_lengths - 1`` positions of a row are not pad.
    """

    tokens: Int32[np.ndarray, "N T"]
    targets: Int32[np.ndarray, "N T"]
    mask: Float32[np.ndarray, "N T"]
    positions: Int32[np.ndarray, "N T"]
    segments: Int32[np.ndarray, "N T"]
    prompt_lengths: Int32[np.ndarray, " N"]
    response_lengths: Int32[np.ndarray, " N"]
    examples: list[Example]
    left_out: int = 0  # examples longer than the limits

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def notes(self) -> list[str]:
        """What a reader of the results must know about these rows."""
        total = len(self) + self.left_out
        said = f"{self.left_out:,} of {total:,} examples left out as longer than the token limits"
        return [said] if self.left_out else []

    def batch(self, rows: Int[np.ndarray, "*B"]) -> Batch:
        """The rows of these indices, of any shape [*B]."""
        columns = (self.tokens, self.targets, self.mask, self.positions, self.segments)
        picked: list[Any] = [column[rows] for column in columns]
        families, family_N = self._families
        family: Any = by_family(family_N[rows], self.width, families)
        return Batch(*picked, family=family)

    @property
    def families(self) -> tuple[str, ...]:
        """The tasks of the examples, sorted."""
        return self._families[0]

    @functools.cached_property
    def _families(self) -> tuple[tuple[str, ...], np.ndarray]:
        """Names, and each row's by number."""
        names = sorted({example.task for example in self.examples})
        number = {name: i for i, name in enumerate(names)}
        family_N = np.array([number[example.task] for example in self.examples], np.int32)
        return tuple(names), family_N

    @property
    def fingerprint(self) -> str:
        """Changes with the tokens, the targets and which of them count."""
        return fingerprint(self.tokens, self.targets, self.mask)

    @property
    def width(self) -> int:
        """T: positions of a row, pads included."""
        return self.tokens.shape[1]

    @property
    def lengths(self) -> Int32[np.ndarray, " N"]:
        """Positions of each row that are not pad."""
        return np.count_nonzero(self.segments, axis=1).astype(np.int32)

    @property
    def counted(self) -> Int32[np.ndarray, " N"]:
        """Response targets of each row."""
        return np.count_nonzero(self.mask, axis=1).astype(np.int32)

    @property
    def response_width(self) -> int:
        """R: most response targets of a row."""
        return int(self.counted.max())

    @property
    def signals(self) -> dict[str, Signals]:
        """None: see ``cat.source.taught``."""
        return {}


def by_family(
    family: Int[np.ndarray, "*B"], width: int, families: tuple[str, ...]
) -> Int[np.ndarray, "*B T"] | None:
    """``Batch.family`` of rows; None where there is only one family to tell."""
    if len(families) < 2:
        return None
    return np.repeat(family[..., None].astype(np.int32), width, axis=-1)


Pair = tuple[list[int], list[int]]
"""Token ids of a prompt in its frame, and of what follows it."""

Pairing = Callable[
    [Iterable[Example], Tokenizer, DataConfig], Iterator[tuple[Example, Pair | None]]
]
"""Examples to rows of ids, in order and a block at a time; None = beyond the length limits."""

BLOCK = 4_096  # examples encoded at once


def framed(
    examples: Iterable[Example], tokenizer: Tokenizer, config: DataConfig
) -> Iterator[tuple[Example, Pair | None]]:
    """Each example as prompt and response, in the tokenizer's frame.

    ``config.max_prompt_tokens`` covers the prompt in its frame (bos and sep, or the whole chat
    template); ``config.max_response_tokens`` the target and eos. A longer example is left out
    whole (never cut: a cut answer would teach a wrong one).
    """
    stream = iter(examples)
    while block := list(itertools.islice(stream, BLOCK)):
        texts = [e.prompt for e in block]
        prompts = tokenizer.frame(texts)
        responses = tokenizer.close(texts, [e.target for e in block])
        for example, prompt, response in zip(block, prompts, responses, strict=True):
            long = len(prompt) > config.max_prompt_tokens
            long |= len(response) > config.max_response_tokens
            yield example, None if long else (prompt, response)


def tokenize(
    examples: Iterable[Example],
    tokenizer: Tokenizer,
    config: DataConfig,
    *,
    pairing: Pairing = framed,
    pad_multiple: int = 8,
) -> Rows:
    """Rows of all examples within the limits, padded to the longest, rounded up.

    Raises:
        InputError: no example is within the limits.
    """
    found = list(pairing(examples, tokenizer, config))
    kept = [(example, pair) for example, pair in found if pair is not None]
    if not kept:
        raise nothing_fits(len(found), config)
    chosen, pairs = [example for example, _ in kept], [pair for _, pair in kept]
    return _stack(pairs, chosen, len(found) - len(kept), tokenizer.pad, pad_multiple)


def nothing_fits(count: int, config: DataConfig) -> InputError:
    """All ``count`` examples are beyond the length limits."""
    return InputError(
        f"none of {count:,} examples has at most {config.max_prompt_tokens} prompt and "
        f"{config.max_response_tokens} response tokens; raise data.max_prompt_tokens or "
        "data.max_response_tokens"
    )


def _stack(
    pairs: list[Pair], examples: list[Example], left_out: int, pad: int, multiple: int
) -> Rows:
    """All rows as wide as the longest, rounded up."""
    prompt_N = np.array([len(p) for p, _ in pairs], np.int32)
    response_N = np.array([len(r) for _, r in pairs], np.int32)
    length_N = prompt_N + response_N - 1
    width = -(-int(length_N.max()) // multiple) * multiple
    flat_M = np.concatenate([np.array(p + r, np.int32) for p, r in pairs])
    columns = lay_out(flat_M, prompt_N, length_N, width, pad)
    return Rows(*columns, prompt_N, response_N, examples, left_out)


def lay_out(
    ids_M: Int[np.ndarray, " M"],
    prompt_N: Int[np.ndarray, " N"],
    length_N: Int[np.ndarray, " N"],
    width: int,
    pad: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Shift and pad: tokens, targets, mask, positions and segments [N, T].

    A row of L + 1 ids gives L positions; ``ids_M`` holds row after row.
    """
    time_T = np.arange(width, dtype=np.int32)
    real_NT = time_T[None] < length_N[:, None]
    ids_NT1 = np.full((len(length_N), width + 1), pad, np.int32)
    ids_NT1[np.arange(width + 1)[None] <= length_N[:, None]] = ids_M
    # Position prompt - 1 predicts the first response token; the one before eos predicts eos.
    response_NT = real_NT & (time_T[None] >= prompt_N[:, None] - 1)
    return (
        np.where(real_NT, ids_NT1[:, :-1], np.int32(pad)),
        ids_NT1[:, 1:].copy(),
        response_NT.astype(np.float32),
        np.where(real_NT, time_T[None], np.int32(0)),
        real_NT.astype(np.int32),
    )


def batches(
    source: Source,
    *,
    batch_size: int,
    steps: int,
    steps_per_dispatch: int,
    seed: int,
    process: int = 0,
    processes: int = 1,
) -> grain.IterDataset:
    """``steps`` batches, several a dispatch: each element is a Batch with leading [S, B].

    The order is one shuffled pass over all rows after another, without gaps (a batch may span
    two passes), and depends on ``seed``, ``len(source)`` and ``batch_size`` alone: every arm
    sees the same rows at the same step, whatever its ``steps_per_dispatch``. The last dispatch
    is shorter if ``steps`` is not a multiple. ``iter(...)`` has ``get_state``/``set_state`` for
    exact resumption.

    With several processes the order stays global, and each reads only its own rows: process p
    of P gets columns ``[p B / P, (p + 1) B / P)`` of every [S, B].

    Raises:
        InputError: a size below 1, or a batch that does not divide over the processes.
    """
    for name, value in (("batch_size", batch_size), ("steps_per_dispatch", steps_per_dispatch)):
        if value < 1:
            raise InputError(f"{name} is {value}; give at least 1")
    if batch_size % processes:
        raise InputError(
            f"batch_size {batch_size} does not divide over {processes} processes; give a multiple"
        )
    share = batch_size // processes
    mine = slice(process * share, (process + 1) * share)

    @functools.lru_cache(maxsize=2)
    def order(epoch: int) -> np.ndarray:
        return epoch_order(len(source), seed, epoch)

    def gather(dispatch: int) -> Batch:
        first = int(dispatch) * steps_per_dispatch
        last = min(first + steps_per_dispatch, steps)
        step_S1 = np.arange(first, last)[:, None]
        place_SB = step_S1 * batch_size + np.arange(batch_size)[None, mine]
        epoch_SB, offset_SB = np.divmod(place_SB, len(source))
        index_SB = np.empty_like(place_SB)
        for epoch in range(epoch_SB[0, 0], epoch_SB[-1, -1] + 1):
            here_SB = epoch_SB == epoch
            index_SB[here_SB] = order(epoch)[offset_SB[here_SB]]
        return source.batch(index_SB)

    dispatches = -(-steps // steps_per_dispatch)
    ahead = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    return grain.MapDataset.range(dispatches).map(gather).to_iter_dataset(ahead)


def epoch_order(count: int, seed: int, epoch: int) -> Int32[np.ndarray, " N"]:
    """The permutation of one pass: a function of its arguments, so any step can be resumed.

    4 bytes a row: 40 MB for 10^7 rows.
    """
    rng = np.random.default_rng([seed, epoch])
    return rng.permutation(np.arange(count, dtype=np.int32))
