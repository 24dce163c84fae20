"""Greedy generation with a key-value cache, and teacher-forced statistics of given responses.

Both read right-padded prompts and give [B, N] statistics of response tokens: natural logs
(nats), from the untruncated float32 distribution at temperature 1, end-of-sequence included.

Letters: B batch, T prompt tokens, N response tokens, V vocabulary, K largest, D width.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from cat.batching import Progress, in_batches, pad, round_up
from cat.mesh import on_rows, row_zeros, shard_batch
from cat.models.cache import Cache, append, empty_cache
from cat.models.decoder import Decoder
from cat.statistics import Statistics, statistics, where
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


@functools.partial(jax.jit, static_argnames=("max_new", "eos_id", "topk"))
def generate(
    model: Decoder,
    prompt_tokens: Int[Array, "B T"],
    prompt_lengths: Int[Array, " B"],
    *,
    max_new: int,
    eos_id: int,
    topk: int,
) -> Generation:
    """Greedy responses to B prompts: one prefill, then a loop until every row has ended.

    Each row stops after ``eos_id``, which belongs to its response, or at ``max_new`` tokens.
    Ties go to the lowest id. N tokens cost N - 1 steps after the prefill.

    Args:
        model: the decoder.
        prompt_tokens: right-padded ids; B divides over the mesh (data x fsdp).
        prompt_lengths: tokens of each prompt; 0 marks a filler row, which generates nothing.
        max_new: N, the most tokens a response may have, at least 1.
        eos_id: the id that ends a response.
        topk: K of the statistics, at most the vocabulary's size.
    """
    _check(model, max_new, topk)
    tokens, lengths = on_rows(prompt_tokens), on_rows(prompt_lengths)
    B, T = tokens.shape
    cache = empty_cache(model.config, B, T + max_new - 1)
    hidden, cache = model.hidden(tokens, *_places(tokens, lengths), cache)
    hidden_BD, prompt_BD = _last_and_mean(hidden, lengths)
    active = lengths > 0
    out = _nothing(B, max_new, topk, prompt_BD)
    out, last = _emit(model, out, hidden_BD, active, jnp.int32(0), topk)
    first = _State(jnp.int32(1), last, active & (last != eos_id), cache, out)

    def proceed(s: _State) -> Bool[Array, ""]:
        return (s.step < max_new) & jnp.any(s.active)

    def advance(s: _State) -> _State:
        positions = (lengths + s.step - 1)[:, None]
        segments = s.active.astype(jnp.int32)[:, None]
        hidden, cache = model.hidden(s.last[:, None], positions, segments, s.cache)
        out, last = _emit(model, s.out, hidden[:, 0], s.active, s.step, topk)
        return _State(s.step + 1, last, s.active & (last != eos_id), cache, out)

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
    _check(model, response_tokens.shape[1], topk)
    tokens, lengths = on_rows(prompt_tokens), on_rows(prompt_lengths)
    response, counts = on_rows(response_tokens), on_rows(response_lengths)
    positions, segments = _places(tokens, lengths)
    steps, real = _places(response, counts)
    # pads between prompt and response are invisible, and positions carry on from the prompt
    hidden = model.hidden(
        jnp.concatenate([tokens, response[:, :-1]], axis=1),
        jnp.concatenate([positions, (lengths[:, None] + steps)[:, :-1]], axis=1),
        jnp.concatenate([segments, real[:, :-1]], axis=1),
    ).hidden
    last_BD, _ = _last_and_mean(hidden[:, : tokens.shape[1]], lengths)
    predicts_BND = jnp.concatenate([last_BD[:, None], hidden[:, tokens.shape[1] :]], axis=1)
    logits = model.unembed(predicts_BND)
    hit = (jnp.argmax(logits, axis=-1) == response) & (real > 0)
    return Forced(hit, where(real > 0, statistics(logits, response, topk)))


def _check(model: Decoder, response_tokens: int, topk: int) -> None:
    """Sizes that the compiled functions cannot run with."""
    if response_tokens < 1:
        raise InputError(f"max response tokens is {response_tokens}; use at least 1")
    if not 1 <= topk <= model.config.vocab_size:
        raise InputError(
            f"topk={topk} is not between 1 and the vocabulary's {model.config.vocab_size} tokens; "
            "choose a smaller evaluation.topk"
        )


def _places(tokens: Array, lengths: Array) -> tuple[Array, Array]:
    """Positions and segments of right-padded rows."""
    positions = jnp.arange(tokens.shape[1])[None, :] + jnp.zeros_like(tokens)
    return positions, (positions < lengths[:, None]).astype(jnp.int32)


def _last_and_mean(hidden_BTD: Array, lengths: Array) -> tuple[Array, Array]:
    """Hidden state of each row's last token, and the mean over its tokens; [B, D] both."""
    place = jnp.arange(hidden_BTD.shape[1])[None, :] - lengths[:, None]
    last_BD = jnp.sum(jnp.where((place == -1)[:, :, None], hidden_BTD, 0.0), axis=1)
    total_BD = jnp.sum(jnp.where((place < 0)[:, :, None], hidden_BTD, 0.0), axis=1)
    return last_BD, total_BD / jnp.maximum(lengths, 1).astype(hidden_BTD.dtype)[:, None]


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
    model: Decoder, out: Generation, hidden_BD: Array, active: Array, step: Array, topk: int
) -> tuple[Generation, Array]:
    """Write the token these hidden states predict into column ``step`` of active rows."""
    logits = model.unembed(hidden_BD)
    token = jnp.where(active, jnp.argmax(logits, axis=-1).astype(jnp.int32), 0)
    column = where(active, statistics(logits, token, topk))

    def write(old: Array, new: Array) -> Array:
        return append(old, new[:, None], step)

    total = out.response_embedding + jnp.where(active[:, None], hidden_BD, 0.0)
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
    eos_id: int,
    topk: int,
    batch_size: int,
    progress: Progress | None = None,
) -> Generation:
    """``generate`` for any number of prompts, as NumPy arrays in their order.

    Prompts of like length share a batch, padded to a multiple of 8 tokens (one compilation
    per width); filler rows complete the last batch. Results do not depend on ``batch_size``
    beyond rounding.

    Args:
        model: the decoder.
        prompts: token ids, each at least one, begin-of-sequence and separator included.
        max_new: the most tokens a response may have.
        eos_id: the id that ends a response.
        topk: K of the statistics.
        batch_size: rows at a time, a multiple of the mesh's data x fsdp.
        progress: called with (prompts done, prompts in all) after each batch.

    Raises:
        InputError: no prompts, an empty one, or sizes that do not fit.
    """

    def run(rows: np.ndarray) -> Generation:
        batch = shard_batch(pad([prompts[i] for i in rows], batch_size))
        return generate(model, *batch, max_new=max_new, eos_id=eos_id, topk=topk)

    return in_batches(run, [len(p) for p in prompts], batch_size, progress)


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
