"""Generation in which a row that has ended makes room for the next prompt.

A batch of ``generate`` runs until its slowest row ends. Here the device holds B rows, steps
them until enough have ended, and the next prompts take their places (continuous batching),
bucketed by length so that few shapes are compiled. Between dispatches the host looks at the
new tokens, so this is also where stop strings end a row.

Source: iteration-level scheduling of Orca (OSDI 2022); leaving the loop when a quarter of the
rows is free, rather than after every step, is our choice.

Letters: B rows, W steps of a dispatch, R prompts read at a time, N response tokens, D width,
k samples of a prompt.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from cat.batching import Progress, by_bucket, check_prompts, pad
from cat.decode import Generation, prompts_at_a_time
from cat.inflight import Held, Rows, Steps, add_kept, admit, advance, grow, hold
from cat.mesh import row_count, shard_batch
from cat.models.decoder import Decoder
from cat.padded import Ends, check_sizes, ends
from cat.sampling import GREEDY, Sampling, check_draws
from cat.statistics import Statistics
from cat.stop import Stop
from routers.errors import InputError

STEPS, STEPS_WITH_STOP = 32, 8
"""Most steps of a dispatch; with stop strings fewer, as a row steps on until the host looks."""


@dataclasses.dataclass(frozen=True)
class _Work:
    """One call of ``generate_continuous``: what stays the same, and the arrays it fills."""

    model: Decoder
    prompts: Sequence[Sequence[int]]
    out: Generation  # NumPy, [N k, ...]
    samples: int
    batch_size: int
    at_a_time: int  # R
    max_new: int
    steps: int
    settings: dict[str, Any]
    key: Key[Array, ""]
    stop: Stop | None
    progress: Progress | None


def generate_continuous(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    *,
    max_new: int,
    eos_id: Ends,
    topk: int,
    batch_size: int,
    progress: Progress | None = None,
    sampling: Sampling = GREEDY,
    key: Key[Array, ""] | None = None,
    samples: int = 1,
    stop: Stop | None = None,
) -> Generation:
    """``generate_all`` with places refilled as rows end, and with stop strings.

    The tokens are those of ``generate_all`` and so are the statistics, both up to rounding.
    Prompts come shortest first, padded to powers of two, and the cache grows when longer ones
    come; so each power of two compiles once for reading prompts and once for stepping,
    whatever the number of prompts. Every dispatch takes at most W steps and ends sooner when
    a quarter of the rows is free and prompts wait.

    With ``stop``, a response ends with the token that completes a stop string; its length,
    statistics and costs count the tokens up to and including that one. The few steps a row
    takes until the host looks are dropped, as a server that looks at every token would not
    take them.

    Args:
        model, prompts, max_new, eos_id, topk, batch_size, progress, sampling, key, samples: as
            in ``cat.decode.generate_all``; ``progress`` counts prompts whose samples ended.
        stop: strings that end a response; cut the text with ``stop.before``.

    Raises:
        InputError: no prompts, an empty one, or sizes that do not fit.
    """
    lengths = [len(p) for p in prompts]
    check_prompts(lengths, batch_size)
    check_sizes(model, max_new, topk)
    check_draws(sampling, key, samples)
    room = prompts_at_a_time(batch_size, samples)
    devices = row_count()
    if batch_size % devices:
        raise InputError(
            f"batch of {batch_size} rows does not divide over {devices} devices; "
            "use a batch size that is a multiple, or a smaller mesh (data x fsdp)"
        )
    work = _Work(
        model=model,
        prompts=prompts,
        out=_blank(len(prompts) * samples, max_new, topk, model.config.width),
        samples=samples,
        batch_size=batch_size,
        at_a_time=max(room // 4 // devices, 1) * devices,
        max_new=max_new,
        steps=min(max_new, STEPS if stop is None else STEPS_WITH_STOP),
        settings=dict(eos_id=eos_id, topk=topk, sampling=sampling),
        key=jax.random.key(0) if key is None else key,  # greedy reads none
        stop=stop,
        progress=progress,
    )
    _serve(work, by_bucket(lengths, work.at_a_time))
    return work.out


def _blank(rows: int, N: int, topk: int, D: int) -> Generation:
    planes: list[Any] = [np.zeros((rows, N, *tail), np.float32) for tail in ((), (), (topk,))]
    told = Statistics(*planes)
    means = np.zeros((2, rows, D), np.float32)
    return Generation(np.zeros((rows, N), np.int32), np.zeros(rows, np.int32), told, *means)


def _serve(work: _Work, queue: list[tuple[int, list[int]]]) -> None:
    """All prompts, from the first admitted to the last row's end."""
    rows = Rows(*np.zeros((len(Rows._fields), work.batch_size), np.int32))
    held = hold(work.model.config, work.batch_size, _slots(work, queue[0][0]))
    while queue or rows.left.any():
        width, queries = queue[0] if queue else (0, [])
        if queue and (rows.left == 0).sum() >= len(queries) * work.samples:
            if held.cache.positions.shape[1] < _slots(work, width):
                held = grow(held, _slots(work, width))
            held = _seat(work, held, rows, queries, width)
            queue = queue[1:]
            continue
        floor = work.batch_size - len(queries) * work.samples if queue else 0
        there = shard_batch(rows), jnp.int32(floor), work.key
        cache, hidden, steps = advance(
            work.model, held.cache, held.hidden, *there, steps=work.steps, **work.settings
        )
        kept, ended = _collect(work, rows, steps)
        total = add_kept(held.total, steps.hidden, shard_batch(kept))
        held = Held(cache, hidden, total)
        _retire(work, rows, total, ended)


def _slots(work: _Work, width: int) -> int:
    """For a prompt of that width, all it answers but the last token, and a dispatch's steps."""
    return width + work.max_new - 1 + work.steps


def _seat(work: _Work, held: Held, rows: Rows, queries: list[int], width: int) -> Held:
    """Give these prompts the first free rows, ``samples`` each."""
    k = work.samples
    free = np.flatnonzero(rows.left == 0)[: len(queries) * k]
    take = np.full(work.batch_size, -1, np.int32)
    take[free] = np.arange(len(free)) // k
    tokens, lengths = pad([work.prompts[i] for i in queries], work.at_a_time, width)
    rows.query[free] = np.repeat(queries, k)
    rows.sample[free] = np.arange(len(free)) % k
    rows.read[free] = lengths[take[free]]
    rows.emitted[free] = 0
    rows.left[free] = work.max_new
    held, mean_RD = admit(work.model, held, *shard_batch((tokens, lengths, take)))
    work.out.prompt_embedding[_line(work, rows, free)] = np.asarray(mean_RD)[take[free]]
    return held


def _collect(work: _Work, rows: Rows, steps: Steps) -> tuple[np.ndarray, np.ndarray]:
    """Write what was emitted; how many tokens each row keeps, and which rows have ended."""
    tokens, counts, told = jax.device_get((steps.tokens, steps.counts, steps.statistics))
    kept, stopped = _until_stop(work, rows, tokens, counts)
    row, column = np.nonzero(np.arange(tokens.shape[1])[None, :] < kept[:, None])
    at = (_line(work, rows, row), rows.emitted[row] + column)
    for whole, part in zip((work.out.tokens, *work.out.statistics), (tokens, *told), strict=True):
        whole[at] = part[row, column]
    rows.emitted[:] += kept
    rows.read[:] += kept
    last = tokens[np.arange(len(kept)), kept - 1]
    full = rows.emitted == work.max_new
    ended = (kept > 0) & (stopped | full | ends(last, work.settings["eos_id"]))
    rows.left[:] = np.where(ended | (rows.left == 0), 0, work.max_new - rows.emitted)
    return kept, ended


def _until_stop(
    work: _Work, rows: Rows, tokens: np.ndarray, counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Each row's new tokens up to a stop string's end, and which rows have one."""
    kept, stopped = counts.copy(), np.zeros(len(counts), bool)
    if work.stop is None:
        return kept, stopped
    for b in np.flatnonzero(counts):
        before = int(rows.emitted[b])
        earlier = work.out.tokens[_line(work, rows, b), :before]
        ids = np.concatenate([earlier, tokens[b, : counts[b]]])
        end = work.stop.end(ids, before)
        if end is not None:
            kept[b], stopped[b] = end - before, True
    return kept, stopped


def _line(work: _Work, rows: Rows, row: Any) -> Any:
    """Where the responses of these rows stand in the result."""
    return rows.query[row] * work.samples + rows.sample[row]


def _retire(work: _Work, rows: Rows, total_BD: Array, ended: np.ndarray) -> None:
    """Finish the responses of rows that have ended."""
    if not ended.any():
        return
    to, count = _line(work, rows, ended), rows.emitted[ended]
    work.out.lengths[to] = count
    work.out.response_embedding[to] = np.asarray(total_BD)[ended] / count[:, None]
    if work.progress is not None:
        done = (work.out.lengths.reshape(-1, work.samples) > 0).all(axis=1).sum()
        work.progress(int(done), len(work.prompts))


def sampled_answers(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    decode: Callable[[Sequence[int] | np.ndarray], str],
    *,
    sampling: Sampling,
    key: Key[Array, ""],
    samples: int,
    max_new: int,
    eos_id: Ends,
    batch_size: int,
    stop: Sequence[str] = (),
    progress: Progress | None = None,
) -> list[list[str]]:
    """``samples`` drawn answers to each prompt: the column ``sampled_responses`` of Records.

    Args:
        model: the decoder.
        prompts: token ids, as for ``generate_continuous``.
        decode: token ids to text, e.g. ``Tokenizer.decode``.
        sampling: how tokens are drawn; temperature above 0 unless ``samples`` is 1.
        key, samples, max_new, eos_id, batch_size, progress: as in ``generate_continuous``.
        stop: strings that end an answer, and are left out of it.

    Raises:
        InputError: as ``generate_continuous``.
    """
    stopper = Stop(tuple(stop), decode) if stop else None
    sizes: dict[str, Any] = dict(max_new=max_new, eos_id=eos_id, topk=1, batch_size=batch_size)
    how: dict[str, Any] = dict(sampling=sampling, key=key, samples=samples, stop=stopper)
    out = generate_continuous(model, prompts, **sizes, **how, progress=progress)
    texts = [decode(ids[:n]) for ids, n in zip(out.tokens, out.lengths, strict=True)]
    cut = texts if stopper is None else [stopper.before(text) for text in texts]
    return [cut[i : i + samples] for i in range(0, len(cut), samples)]
