"""Generation with a key-value cache, and teacher-forced statistics of given responses.

Both read right-padded prompts and give [B, N] statistics of response tokens: natural logs
(nats), from the untruncated float32 distribution at temperature 1, end-of-sequence included,
however the tokens were chosen.

Letters: B batch, T prompt tokens, N response tokens, V vocabulary, K largest, D width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key

from cat.batching import Progress, in_batches, pad, round_up
from cat.mesh import on_rows, row_count, row_zeros, shard_batch
from cat.models.cache import Cache, append, empty_cache
from cat.models.decoder import Decoder
from cat.padded import Ends, check_sizes, ends, last_and_mean, places, repeat
from cat.sampling import GREEDY, Sampling, check_draws, draw, row_keys
from cat.statistics import Statistics, statistics, where
from cat.verify import numbered
from cat.vocab import token_statistics
from routers.errors import InputError


class Generation(NamedTuple):
    """B responses. ``tokens`` are 0 past each row's length; a row that did not end is cut.

    ``prompt_embedding`` is the mean of the last hidden states over the prompt's tokens;
    ``response_embedding`` over the positions that predicted the response's tokens, so it
    costs no forward pass (our choice).
    """

    tokens: Int[Array, "B N"] | Any
    lengths: Int[Array, " B"] | Any
    statistics: Statistics  # [B, N]
    prompt_embedding: Float[Array, "B D"] | Any
    response_embedding: Float[Array, "B D"] | Any


class Forced(NamedTuple):
    """Statistics of given responses; ``hit`` = the model's argmax is the given token."""

    hit: Bool[Array, "B N"] | Any
    statistics: Statistics  # [B, N]


class _State(NamedTuple):
    """The loop's carry; ``step`` tokens have been emitted, ``hidden`` predicted the last."""

    step: Int[Array, ""]
    last: Int[Array, " B"]  # the token just emitted
    active: Bool[Array, " B"]  # rows that have not ended
    cache: Cache
    out: Generation  # response_embedding still a sum


@functools.partial(jax.jit, static_argnames=("max_new", "eos_id", "topk", "sampling", "samples"))
def generate(
    model: Decoder,
    prompt_tokens: Int[Array, "B T"],
    prompt_lengths: Int[Array, " B"],
    queries: Int[Array, " B"] | None = None,
    key: Key[Array, ""] | None = None,
    *,
    max_new: int,
    eos_id: Ends,
    topk: int,
    sampling: Sampling = GREEDY,
    samples: int = 1,
) -> Generation:
    """Responses to B prompts: one prefill, then a loop until every row has ended.

    Each row stops after ``eos_id``, which belongs to its response, or at ``max_new`` tokens.
    Ties go to the lowest id. N tokens cost N - 1 steps after the prefill. Draws depend on
    ``key``, the row's number in ``queries`` and which sample it is, not on the rows beside it.

    Args:
        model: the decoder.
        prompt_tokens: right-padded ids; B divides over the mesh (data x fsdp).
        prompt_lengths: tokens of each prompt; 0 marks a filler row, which generates nothing.
        queries: a number for each prompt; None = 0 .. B - 1.
        key: a typed key, ``jax.random.key(seed)``; not needed for greedy.
        max_new: N, the most tokens a response may have, at least 1.
        eos_id: the id, or every id, that ends a response.
        topk: K of the statistics, at most the vocabulary's size.
        sampling: how tokens are chosen; the statistics are never truncated.
        samples: k per prompt, which is read once; prompt i has rows i k .. i k + k - 1.

    Raises:
        InputError: sizes that do not fit, or sampling without a key.
    """
    check_sizes(model, max_new, topk)
    check_draws(sampling, key, samples)
    tokens, lengths = on_rows(prompt_tokens), on_rows(prompt_lengths)
    B, T = tokens.shape
    cache = empty_cache(model.config, B, T + max_new - 1)
    hidden, cache = model.hidden(tokens, *places(tokens, lengths), cache)
    hidden_BD, prompt_BD = last_and_mean(hidden, lengths)
    numbers = on_rows(jnp.arange(B) if queries is None else queries)
    rows = lengths, hidden_BD, prompt_BD, cache, numbers
    lengths, hidden_BD, prompt_BD, cache, numbers = repeat(rows, samples)
    copy = on_rows(jnp.arange(B * samples) % samples)
    keys = None if key is None else row_keys(key, numbers, copy)

    def choose(logits: Array, step: Array) -> Array:
        return draw(None if keys is None else numbered(keys, step), logits, sampling)

    active = lengths > 0
    out = _nothing(B * samples, max_new, topk, prompt_BD)
    out, last = _emit(model, out, hidden_BD, active, jnp.int32(0), choose)
    first = _State(jnp.int32(1), last, active & ~ends(last, eos_id), cache, out)

    def proceed(s: _State) -> Bool[Array, ""]:
        return (s.step < max_new) & jnp.any(s.active)

    def advance(s: _State) -> _State:
        positions = (lengths + s.step - 1)[:, None]
        segments = s.active.astype(jnp.int32)[:, None]
        hidden, cache = model.hidden(s.last[:, None], positions, segments, s.cache)
        out, last = _emit(model, s.out, hidden[:, 0], s.active, s.step, choose)
        return _State(s.step + 1, last, s.active & ~ends(last, eos_id), cache, out)

    out = lax.while_loop(proceed, advance, first).out
    count = jnp.maximum(out.lengths, 1).astype(jnp.float32)[:, None]
    return out._replace(response_embedding=out.response_embedding / count)


@functools.partial(jax.jit, static_argnames="topk")
def forced(
    model: Decoder,
    prompt_tokens: Int[Array, "B T"],
    prompt_lengths: Int[Array, " B"],
    response_tokens: Int[Array, "B N"],
    response_lengths: Int[Array, " B"],
    *,
    topk: int,
) -> Forced:
    """Statistics of given responses, each token seeing the true tokens before it.

    One forward pass; logits only at the N places that predict a response token. On the
    response that ``generate`` gave, the statistics are those of ``generate``.

    Args:
        model: the decoder.
        prompt_tokens: right-padded ids; B divides over the mesh (data x fsdp).
        prompt_lengths: tokens of each prompt.
        response_tokens: right-padded ids, end-of-sequence included.
        response_lengths: tokens of each response.
        topk: K of the statistics, at most the vocabulary's size.
    """
    check_sizes(model, response_tokens.shape[1], topk)
    tokens, lengths = on_rows(prompt_tokens), on_rows(prompt_lengths)
    response, counts = on_rows(response_tokens), on_rows(response_lengths)
    positions, segments = places(tokens, lengths)
    steps, real = places(response, counts)
    # pads between prompt and response are invisible, and positions carry on from the prompt
    hidden = model.hidden(
        jnp.concatenate([tokens, response[:, :-1]], axis=1),
        jnp.concatenate([positions, (lengths[:, None] + steps)[:, :-1]], axis=1),
        jnp.concatenate([segments, real[:, :-1]], axis=1),
    ).hidden
    last_BD, _ = last_and_mean(hidden[:, : tokens.shape[1]], lengths)
    predicts_BND = jnp.concatenate([last_BD[:, None], hidden[:, tokens.shape[1] :]], axis=1)
    found = token_statistics(model.unembedding(), predicts_BND, response, topk)
    return Forced(found.hit & (real > 0), where(real > 0, found.statistics))


def _nothing(B: int, N: int, topk: int, prompt_BD: Array) -> Generation:
    """A generation of no tokens yet."""
    plane = row_zeros((B, N), jnp.float32)
    return Generation(
        row_zeros((B, N), jnp.int32),
        row_zeros((B,), jnp.int32),
        Statistics(plane, plane, row_zeros((B, N, topk), jnp.float32)),
        prompt_BD,
        jnp.zeros_like(prompt_BD),
    )


def _emit(
    model: Decoder,
    out: Generation,
    hidden_BD: Array,
    active: Array,
    step: Array,
    choose: Callable[[Array, Array], Array],
) -> tuple[Generation, Array]:
    """Write the token chosen from these hidden states into column ``step`` of active rows."""
    logits = model.unembed(hidden_BD)
    token = jnp.where(active, choose(logits, step), 0)
    column = where(active, statistics(logits, token, out.statistics.topk_logprob.shape[-1]))

    def write(old: Array, new: Array) -> Array:
        return append(old, new[:, None], step)

    total = out.response_embedding + jnp.where(active[:, None], hidden_BD.astype(jnp.float32), 0.0)
    out = Generation(
        write(out.tokens, token),
        out.lengths + active.astype(jnp.int32),
        Statistics(*map(write, out.statistics, column)),
        out.prompt_embedding,
        total,
    )
    return out, token


def generate_all(
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
) -> Generation:
    """``generate`` for any number of prompts, as NumPy arrays in their order.

    Prompts of like length share a batch, padded to a multiple of 8 tokens (one compilation
    per width); filler rows complete the last batch. Results do not depend on ``batch_size``
    beyond rounding. Where responses differ much in length, ``cat.continuous`` is faster.

    Args:
        model: the decoder.
        prompts: token ids, each at least one, begin-of-sequence and separator included.
        max_new: the most tokens a response may have.
        eos_id: the id, or every id, that ends a response.
        topk: K of the statistics.
        batch_size: rows at a time, a multiple of the mesh's data x fsdp; a prompt takes
            ``samples`` of them.
        progress: called with (prompts done, prompts in all) after each batch.
        sampling, key, samples: as in ``generate``; prompt i is query i.

    Raises:
        InputError: no prompts, an empty one, or sizes that do not fit.
    """
    at_a_time = prompts_at_a_time(batch_size, samples)

    def run(rows: np.ndarray) -> Generation:
        queries = np.zeros(at_a_time, np.int32)
        queries[: len(rows)] = rows
        batch = shard_batch((*pad([prompts[i] for i in rows], at_a_time), queries))
        sizes: dict[str, Any] = dict(max_new=max_new, eos_id=eos_id, topk=topk)
        out = generate(model, *batch, key, **sizes, sampling=sampling, samples=samples)
        # [B k, ...] as [B, k, ...]
        return jax.tree.map(lambda a: a.reshape(-1, samples, *a.shape[1:]), jax.device_get(out))

    out = in_batches(run, [len(p) for p in prompts], at_a_time, progress)
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), out)


def prompts_at_a_time(batch_size: int, samples: int) -> int:
    """How many prompts with that many rows each fit into a batch and divide over the mesh."""
    if samples <= 1:
        return batch_size
    at_a_time = batch_size // samples // row_count() * row_count()
    if at_a_time < 1:
        raise InputError(
            f"batch size {batch_size} has no room for {samples} samples on each of "
            f"{row_count()} devices; use at least {samples * row_count()}"
        )
    return at_a_time


def forced_all(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    *,
    topk: int,
    batch_size: int,
    progress: Progress | None = None,
) -> Forced:
    """``forced`` for any number of prompts and responses, as NumPy arrays in their order.

    Batches are made as in ``generate_all``; columns past a response's length are 0.

    Raises:
        InputError: as ``generate_all``; an empty response; unequal numbers of both.
    """
    if len(prompts) != len(responses) or not all(map(len, responses)):
        raise InputError(
            f"{len(prompts)} prompts and {len(responses)} responses, or an empty response; "
            "give one response of at least one token (end-of-sequence) per prompt"
        )
    width = round_up(max(map(len, responses), default=1))

    def run(rows: np.ndarray) -> Forced:
        prompt = pad([prompts[i] for i in rows], batch_size)
        response = pad([responses[i] for i in rows], batch_size, width)
        return forced(model, *shard_batch((*prompt, *response)), topk=topk)

    return in_batches(run, [len(p) for p in prompts], batch_size, progress)
