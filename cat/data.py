"""Examples to token rows, and rows to the batches a training loop dispatches.

A row is what ``Tokenizer.frame`` and ``Tokenizer.close`` give, e.g. ``<bos> prompt <sep> target
<eos>``; position t holds a token and predicts the next.

Letters: N rows, T tokens a row, S steps a dispatch, B rows a step, C teacher log-probabilities.
"""

from __future__ import annotations

import dataclasses
import functools

import grain
import numpy as np
from jaxtyping import Float32, Int, Int32

from cat.config import DataConfig
from cat.example import Example
from cat.tokenizers import Tokenizer
from cat.types import Batch, Teacher
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

    def batch(self, rows: Int[np.ndarray, "*B"], teacher: Teacher | None = None) -> Batch:
        """The rows of these indices, of any shape [*B], with their teacher signals."""
        columns = (self.tokens, self.targets, self.mask, self.positions, self.segments)
        signals = None if teacher is None else Teacher(*[column[rows] for column in teacher])
        return Batch(*[column[rows] for column in columns], teacher=signals)


def tokenize(
    examples: list[Example], tokenizer: Tokenizer, config: DataConfig, *, pad_multiple: int = 8
) -> Rows:
    """Rows of all examples within the limits, padded to the longest, rounded up.

    ``config.max_prompt_tokens`` covers the prompt in its frame (bos and sep, or the whole chat
    template); ``config.max_response_tokens`` the target and eos. A longer example is left out
    whole (never cut: a cut answer would teach a wrong one) and counted in ``left_out``.

    Raises:
        InputError: no example is within the limits.
    """
    texts = [e.prompt for e in examples]
    prompts = tokenizer.frame(texts)
    responses = tokenizer.close(texts, [e.target for e in examples])
    kept = [
        i
        for i, (p, r) in enumerate(zip(prompts, responses, strict=True))
        if len(p) <= config.max_prompt_tokens and len(r) <= config.max_response_tokens
    ]
    if not kept:
        raise InputError(
            f"none of {len(examples):,} examples has at most {config.max_prompt_tokens} prompt and "
            f"{config.max_response_tokens} response tokens; raise data.max_prompt_tokens or "
            "data.max_response_tokens"
        )
    chosen = [examples[i] for i in kept]
    pairs = [(prompts[i], responses[i]) for i in kept]
    return _stack(pairs, chosen, len(examples) - len(kept), tokenizer.pad, pad_multiple)


def _stack(
    pairs: list[tuple[list[int], list[int]]],
    examples: list[Example],
    left_out: int,
    pad: int,
    multiple: int,
) -> Rows:
    """Shift and pad: a row of L ids gives L - 1 positions."""
    prompt_N = np.array([len(p) for p, _ in pairs], np.int32)
    response_N = np.array([len(r) for _, r in pairs], np.int32)
    length_N = prompt_N + response_N - 1
    width = -(-int(length_N.max()) // multiple) * multiple
    time_T = np.arange(width, dtype=np.int32)
    real_NT = time_T[None] < length_N[:, None]
    ids_NT1 = np.full((len(pairs), width + 1), pad, np.int32)
    ids_NT1[np.arange(width + 1)[None] <= length_N[:, None]] = np.concatenate(
        [np.array(p + r, np.int32) for p, r in pairs]
    )
    # Position prompt - 1 predicts the first response token; the one before eos predicts eos.
    response_NT = real_NT & (time_T[None] >= prompt_N[:, None] - 1)
    return Rows(
        tokens=np.where(real_NT, ids_NT1[:, :-1], np.int32(pad)),
        targets=ids_NT1[:, 1:].copy(),
        mask=response_NT.astype(np.float32),
        positions=np.where(real_NT, time_T[None], np.int32(0)),
        segments=real_NT.astype(np.int32),
        prompt_lengths=prompt_N,
        response_lengths=response_N,
        examples=examples,
        left_out=left_out,
    )


def batches(
    rows: Rows,
    *,
    batch_size: int,
    steps: int,
    steps_per_dispatch: int,
    seed: int,
    teacher: Teacher | None = None,
) -> grain.IterDataset:
    """``steps`` batches, several a dispatch: each element is a Batch with leading [S, B].

    The order is one shuffled pass over all rows after another, without gaps (a batch may span
    two passes), and depends on ``seed``, ``len(rows)`` and ``batch_size`` alone: every arm
    sees the same rows at the same step, whatever its ``steps_per_dispatch``. The last dispatch
    is shorter if ``steps`` is not a multiple. ``iter(...)`` has ``get_state``/``set_state`` for
    exact resumption.
    """
    for name, value in (("batch_size", batch_size), ("steps_per_dispatch", steps_per_dispatch)):
        if value < 1:
            raise InputError(f"{name} is {value}; give at least 1")

    @functools.lru_cache(maxsize=2)
    def order(epoch: int) -> np.ndarray:
        return epoch_order(len(rows), seed, epoch)

    def gather(dispatch: int) -> Batch:
        first = int(dispatch) * steps_per_dispatch
        last = min(first + steps_per_dispatch, steps)
        place_M = np.arange(first * batch_size, last * batch_size)
        epoch_M, offset_M = np.divmod(place_M, len(rows))
        index_M = np.concatenate(
            [order(e)[offset_M[epoch_M == e]] for e in range(epoch_M[0], epoch_M[-1] + 1)]
        )
        # Several hosts: each takes its own columns of [S, B] here; the order stays global.
        return rows.batch(index_M.reshape(last - first, batch_size), teacher)

    dispatches = -(-steps // steps_per_dispatch)
    ahead = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    return grain.MapDataset.range(dispatches).map(gather).to_iter_dataset(ahead)


def epoch_order(count: int, seed: int, epoch: int) -> Int[np.ndarray, " N"]:
    """The permutation of one pass: a function of its arguments, so any step can be resumed."""
    return np.random.default_rng([seed, epoch]).permutation(count)
