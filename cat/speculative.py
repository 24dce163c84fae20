"""Speculative execution of token-level rules: a small model drafts, a large one checks.

One round: the small model drafts ``gamma`` tokens, one pass each, and reads the last of them;
the large model reads all in one pass; draft v stays with probability min(1, pi(v) / q(v)). At
the first that does not stay, the token is drawn from max(0, pi - q), normalised; if all stay,
one more is drawn from pi. Each token then has the law pi of its rule (``cat.token_rules``),
whatever ``gamma`` is.

Letters: B batch, T prompt tokens, N response tokens, W = gamma + 1 places of a round, V
vocabulary, D small model's width, S slots.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Int, Key

from cat.batching import Progress, in_batches, pad
from cat.mesh import on_rows, row_zeros, shard_batch
from cat.models.cache import Cache
from cat.models.decoder import Decoder
from cat.rollback import prefill, scatter, settle
from cat.token_rules import Rule, distribution, make_pair
from cat.verify import numbered, verify
from routers.errors import InputError

Gate = Callable[[Array], Array]
"""Small model's last hidden states [..., D] to logits [..., 1], e.g. ``nnx.Linear(D, 1)``."""


class Speculation(NamedTuple):
    """B responses and where each token came from; columns are 0 past a row's length.

    ``drafted``: the small model wrote the token and it stayed. A token that is not ends a round,
    so rounds, FLOPs and bytes can be read off it (``cat.speculative_cost``).
    """

    tokens: Int[Array, "B N"] | Any
    lengths: Int[Array, " B"] | Any
    drafted: Bool[Array, "B N"] | Any


class _State(NamedTuple):
    """The loop's carry. Caches hold the tokens before ``last``, which nobody has read."""

    round: Int[Array, ""]
    last: Int[Array, " B"]
    read: Int[Array, " B"]  # tokens before ``last``: its position
    active: Bool[Array, " B"]
    small: Cache
    large: Cache
    out: Speculation


@functools.partial(jax.jit, static_argnames=("rule", "gamma", "max_new", "eos_id", "temperature"))
def speculate(
    small: Decoder,
    large: Decoder,
    prompt_tokens: Int[Array, "B T"],
    prompt_lengths: Int[Array, " B"],
    rows: Int[Array, " B"],
    key: Key[Array, ""],
    *,
    rule: Rule,
    thresholds: tuple[Any, ...],
    gamma: int,
    max_new: int,
    eos_id: int,
    temperature: float,
    gate: Gate | None = None,
) -> Speculation:
    """Responses to B prompts whose tokens have the law of ``rule``, position by position.

    A row's draws depend on ``key`` and its number in ``rows`` only, not on the rows beside it.
    Each row stops after ``eos_id``, which belongs to its response, or at ``max_new`` tokens.
    Changing ``thresholds`` compiles nothing anew.

    Args:
        small: drafts; same vocabulary as ``large``.
        large: checks.
        prompt_tokens: right-padded ids; B divides over the mesh (data x fsdp).
        prompt_lengths: tokens of each prompt; 0 marks a filler row, which generates nothing.
        rows: a number for each row.
        key: a typed key, ``jax.random.key(seed)``.
        rule: a function of ``cat.token_rules``.
        thresholds: the rule's, e.g. ``(alpha,)``; ``()`` for ``lossless``.
        gamma: tokens drafted a round, at least 1.
        max_new: N, the most tokens a response may have, at least 1.
        eos_id: the id that ends a response.
        temperature: of both models' sampling; 0 = greedy, its limit.
        gate: for ``co_llm`` and ``citer``.

    Raises:
        InputError: vocabularies that differ, or sizes below their least.

    Source: speculative cascades (2405.19261): acceptance and residual against any pi, as in the
    speculative sampling of 2211.17192 and 2302.01318. That the extra token is drawn from pi and
    not from p, which takes one more pass of the small model a round, is our choice: drawn from
    p, the law would depend on ``gamma``.
    """
    _check(small, large, gamma, max_new, temperature)
    tokens, lengths = on_rows(prompt_tokens), on_rows(prompt_lengths)
    row_keys = jax.vmap(jax.random.fold_in, (None, 0))(key, on_rows(rows))
    settled = tokens.shape[1] + max_new - 1  # slots of tokens that stay: slot = position
    first = _State(
        jnp.int32(0),
        _pick(tokens, lengths - 1),
        lengths - 1,
        lengths > 0,
        prefill(small, tokens, lengths - 1, settled=settled, places=gamma + 1),
        prefill(large, tokens, lengths - 1, settled=settled, places=gamma + 1),
        _nothing(len(tokens), max_new),
    )

    def advance(s: _State) -> _State:
        keys = numbered(row_keys, s.round)
        drafts, small_logits, hidden, small_cache = _draft(small, s, keys, gamma, temperature)
        block = jnp.concatenate([s.last[:, None], drafts], axis=1)
        place = jnp.arange(gamma + 1)[None, :]
        positions = s.read[:, None] + place
        segments = s.active.astype(jnp.int32)[:, None] + jnp.zeros_like(positions)
        checked, large_cache = large.hidden(block, positions, segments, s.large)
        gate_logits = None if gate is None else gate(hidden)[..., 0]
        pair = make_pair(small_logits, large.unembed(checked), temperature, gate_logits)
        target = rule(pair, *thresholds)
        kept, token = verify(drafts, pair.q, target, numbered(keys, gamma + 1))
        out, count, ended = _write(s, drafts, kept, token, eos_id)
        stays = place < count[:, None]
        return _State(
            s.round + 1,
            token,
            s.read + count,
            s.active & ~ended,
            settle(small_cache, settled, positions, stays),
            settle(large_cache, settled, positions, stays),
            out,
        )

    return lax.while_loop(lambda s: jnp.any(s.active), advance, first).out


def _check(small: Decoder, large: Decoder, gamma: int, max_new: int, temperature: float) -> None:
    """What the compiled function cannot run with."""
    ours, theirs = small.config.vocab_size, large.config.vocab_size
    if ours != theirs:
        raise InputError(
            f"the small model has {ours} tokens and the large one {theirs}; token-level rules "
            "compare distributions, so give models with one vocabulary"
        )
    if gamma < 1 or max_new < 1 or temperature < 0:
        raise InputError(
            f"gamma={gamma}, max_new={max_new}, temperature={temperature}; use at least 1, 1 and 0"
        )


def _pick(tokens_BT: Array, index_B: Array) -> Array:
    """The token at each row's index."""
    here = jnp.arange(tokens_BT.shape[1])[None, :] == index_B[:, None]
    return jnp.sum(jnp.where(here, tokens_BT, 0), axis=1)


def _nothing(B: int, N: int) -> Speculation:
    """No tokens yet."""
    lengths, drafted = row_zeros((B,), jnp.int32), row_zeros((B, N), jnp.bool_)
    return Speculation(row_zeros((B, N), jnp.int32), lengths, drafted)


def _draft(
    model: Decoder, s: _State, keys: Array, gamma: int, temperature: float
) -> tuple[Array, Array, Array, Cache]:
    """gamma drafts [B, G], with logits [B, W, V] and hidden states [B, W, D] at all places.

    The last pass reads the last draft: its logits are for the token after it.
    """
    segments = s.active.astype(jnp.int32)[:, None]

    def step(carry: tuple[Array, Cache], g: Array) -> tuple[tuple[Array, Cache], tuple]:
        token, cache = carry
        hidden, cache = model.hidden(token[:, None], (s.read + g)[:, None], segments, cache)
        logits = model.unembed(hidden[:, 0])
        log_q = jnp.log(distribution(logits, temperature))
        token = jax.vmap(jax.random.categorical)(numbered(keys, g), log_q).astype(jnp.int32)
        return (token, cache), (token, logits, hidden[:, 0])

    (_, cache), parts = lax.scan(step, (s.last, s.small), jnp.arange(gamma + 1))
    tokens, logits, hidden = (jnp.moveaxis(part, 0, 1) for part in parts)
    return tokens[:, :gamma], logits, hidden, cache


def _write(
    s: _State, drafts: Array, kept: Array, token: Array, eos_id: int
) -> tuple[Speculation, Array, Array]:
    """The response with this round's tokens, how many there are, and which rows have ended."""
    place = jnp.arange(drafts.shape[1] + 1)[None, :]
    block = jnp.concatenate([drafts, token[:, None]], axis=1)
    block = jnp.where(place == kept[:, None], token[:, None], block)
    room = s.out.tokens.shape[1] - s.out.lengths
    count = jnp.minimum(kept + 1, room)
    is_eos = (block == eos_id) & (place < count[:, None])
    eos = jnp.any(is_eos, axis=1)
    count = jnp.where(eos, jnp.argmax(is_eos, axis=1).astype(jnp.int32) + 1, count)
    ended = eos | (count == room)
    count = jnp.where(s.active, count, 0)
    to = jnp.where(place < count[:, None], s.out.lengths[:, None] + place, s.out.tokens.shape[1])
    out = Speculation(
        scatter(s.out.tokens, block, to),
        s.out.lengths + count,
        scatter(s.out.drafted, place < kept[:, None], to),
    )
    return out, count, ended


def speculate_all(
    small: Decoder,
    large: Decoder,
    prompts: Sequence[Sequence[int]],
    key: Key[Array, ""],
    *,
    rule: Rule,
    thresholds: tuple[Any, ...],
    gamma: int,
    max_new: int,
    eos_id: int,
    temperature: float,
    batch_size: int,
    gate: Gate | None = None,
    progress: Progress | None = None,
) -> Speculation:
    """``speculate`` for any number of prompts, as NumPy arrays in their order.

    Prompt i is row number i, so its response does not depend on ``batch_size`` beyond rounding.

    Args:
        small, large, key, rule, thresholds, gamma, max_new, eos_id, temperature, gate: as in
            ``speculate``.
        prompts: token ids, each at least one, begin-of-sequence and separator included.
        batch_size: rows at a time, a multiple of the mesh's data x fsdp.
        progress: called with (prompts done, prompts in all) after each batch.

    Raises:
        InputError: no prompts, an empty one, or sizes that do not fit.
    """
    settings: dict[str, Any] = dict(
        rule=rule,
        thresholds=thresholds,
        gamma=gamma,
        max_new=max_new,
        eos_id=eos_id,
        temperature=temperature,
        gate=gate,
    )

    def run(rows: np.ndarray) -> Speculation:
        numbers = np.zeros(batch_size, np.int32)
        numbers[: len(rows)] = rows
        batch = (*pad([prompts[i] for i in rows], batch_size), numbers)
        return speculate(small, large, *shard_batch(batch), key, **settings)

    return in_batches(run, [len(p) for p in prompts], batch_size, progress)
