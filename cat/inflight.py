"""The device's side of continuous batching: rows that enter, step on and leave at any time.

The device holds the cache and the hidden state that predicts each row's next token, both
donated from dispatch to dispatch, so there is one copy of them; all counting is the host's
(``cat.continuous``). Rows keep different numbers of tokens in one cache as in ``cat.rollback``:
steps are written behind the settled slots, then moved to the slots of their positions.

Letters: B rows, W steps of a dispatch, R prompts read at a time, T prompt tokens, D width.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key

from cat.mesh import ROWS, on_rows, reshape, row_zeros
from cat.models.cache import Cache, LayerCache, append, empty_cache
from cat.models.config import ModelConfig
from cat.models.decoder import Decoder
from cat.padded import Ends, ends, last_and_mean, places
from cat.rollback import settle
from cat.sampling import Sampling, draw, row_keys
from cat.statistics import Statistics, statistics, where


class Rows(NamedTuple):
    """What the host knows of each row; ``left`` = 0 is a free row."""

    query: Int[Array, " B"] | Any
    sample: Int[Array, " B"] | Any
    read: Int[Array, " B"] | Any  # tokens in the cache: the position of the next one
    emitted: Int[Array, " B"] | Any
    left: Int[Array, " B"] | Any  # tokens the row may still emit


class Held(NamedTuple):
    """What the device keeps of the rows between dispatches."""

    cache: Cache
    hidden: Float[Array, "B D"]  # predicts the next token
    total: Float[Array, "B D"]  # sum of the hidden states that predicted the tokens kept


class Steps(NamedTuple):
    """What a dispatch emitted: each row's first ``counts`` columns."""

    tokens: Int[Array, "B W"] | Any
    counts: Int[Array, " B"] | Any
    statistics: Statistics  # [B, W]
    hidden: Float[Array, "B W D"] | Any


class _Loop(NamedTuple):
    step: Int[Array, ""]
    active: Bool[Array, " B"]
    cache: Cache
    hidden: Float[Array, "B D"]
    out: Steps


@functools.partial(jax.jit, static_argnames=("config", "batch", "slots"))
def hold(config: ModelConfig, batch: int, slots: int) -> Held:
    """No rows yet."""
    hidden = row_zeros((batch, config.width), jnp.dtype(config.dtype))
    return Held(empty_cache(config, batch, slots), hidden, hidden.astype(jnp.float32))


@functools.partial(jax.jit, static_argnames="slots")
def grow(held: Held, slots: int) -> Held:
    """The same rows with more slots; the one dispatch for which the cache is there twice."""

    def wider(old: Array) -> Array:
        more = row_zeros((old.shape[0], slots - old.shape[1], *old.shape[2:]), old.dtype)
        return jnp.concatenate([old, more], axis=1)

    old = held.cache
    layers = tuple(LayerCache(wider(layer.k), wider(layer.v)) for layer in old.layers)
    cache = Cache(layers, wider(old.positions), wider(old.segments), old.next_slot)
    return held._replace(cache=cache)


@functools.partial(jax.jit, donate_argnames="held")
def admit(
    model: Decoder,
    held: Held,
    tokens: Int[Array, "R T"],
    lengths: Int[Array, " R"],
    take: Int[Array, " B"],
) -> tuple[Held, Float[Array, "R D"]]:
    """Read R prompts and put them into rows; also the mean hidden state of each prompt.

    Args:
        model: the decoder.
        held: the rows so far; its buffers are used up.
        tokens: right-padded ids.
        lengths: tokens of each prompt; 0 for a filler.
        take: the prompt that each row takes, -1 for rows that stay as they are.
    """
    tokens, lengths, take = on_rows(tokens), on_rows(lengths), on_rows(take)
    fresh = empty_cache(model.config, *tokens.shape)
    hidden, fresh = model.hidden(tokens, *places(tokens, lengths), fresh)
    last_RD, mean_RD = last_and_mean(hidden, lengths)
    enters = take >= 0

    def enter(old: Array, new: Array) -> Array:
        mask = reshape(enters, len(enters), *[1] * (old.ndim - 1))
        return jnp.where(mask, _rows_of(new, take).astype(old.dtype), old)

    def begin(old: Array, new: Array) -> Array:
        """The first T slots; those behind them are empty by their segments."""
        head = enter(lax.slice_in_dim(old, 0, new.shape[1], axis=1), new)
        return append(old, head, jnp.int32(0))

    old = held.cache
    emptied = jnp.where(enters[:, None], 0, old.segments)
    layers = zip(old.layers, fresh.layers, strict=True)
    cache = Cache(
        tuple(LayerCache(begin(o.k, n.k), begin(o.v, n.v)) for o, n in layers),
        begin(old.positions, fresh.positions),
        begin(emptied, fresh.segments),
        old.next_slot,
    )
    total = jnp.where(enters[:, None], 0.0, held.total)
    return Held(cache, enter(held.hidden, last_RD), total), mean_RD


def _rows_of(array: Array, index_B: Array) -> Array:
    """array[index], split as rows of the mesh whatever rows the index picks."""
    if jax.sharding.get_abstract_mesh().empty:
        return array[index_B]
    whole = jax.reshard(array, jax.P())
    return whole.at[index_B].get(out_sharding=jax.P(ROWS))


@functools.partial(
    jax.jit,
    static_argnames=("steps", "eos_id", "topk", "sampling"),
    donate_argnames=("cache", "hidden"),
)
def advance(
    model: Decoder,
    cache: Cache,
    hidden: Float[Array, "B D"],
    rows: Rows,
    floor: Int[Array, ""],
    key: Key[Array, ""],
    *,
    steps: int,
    eos_id: Ends,
    topk: int,
    sampling: Sampling,
) -> tuple[Cache, Float[Array, "B D"], Steps]:
    """At most ``steps`` tokens for every row that has some left, or until few rows go on.

    Args:
        model: the decoder.
        cache: its last ``steps`` slots are this dispatch's; used up.
        hidden: predicts each row's next token; used up.
        rows: what the rows are.
        floor: stop as soon as no more rows than this go on.
        key: of the draws.
        steps: W.
        eos_id: the id, or every id, that ends a response.
        topk: K of the statistics.
        sampling: how tokens are chosen.
    """
    rows = jax.tree.map(on_rows, rows)
    settled, (B, D) = cache.positions.shape[1] - steps, hidden.shape
    keys = row_keys(key, rows.query, rows.sample) if sampling.temperature else None

    def advanced(s: _Loop) -> _Loop:
        logits = model.unembed(s.hidden)
        number = rows.emitted + s.step
        now = None if keys is None else jax.vmap(jax.random.fold_in)(keys, number)
        token = jnp.where(s.active, draw(now, logits, sampling), 0)
        out = _write(s, token, where(s.active, statistics(logits, token, topk)))
        active = s.active & ~ends(token, eos_id) & (s.step + 1 < rows.left)
        segments = active.astype(jnp.int32)[:, None]
        position = (rows.read + s.step)[:, None]
        hidden, cache = model.hidden(token[:, None], position, segments, s.cache)
        return _Loop(s.step + 1, active, cache, hidden[:, 0], out)

    def proceed(s: _Loop) -> Array:
        return (s.step < steps) & (jnp.sum(s.active, dtype=jnp.int32) > floor)

    cache = cache._replace(next_slot=jnp.int32(settled))
    first = _Loop(jnp.int32(0), rows.left > 0, cache, hidden, _no_steps(B, steps, D, topk))
    last = lax.while_loop(proceed, advanced, first)
    cache = last.cache
    stays = cache.segments[:, settled:] > 0  # 0 also where no step came
    return settle(cache, settled, cache.positions[:, settled:], stays), last.hidden, last.out


def _no_steps(B: int, W: int, D: int, topk: int) -> Steps:
    plane = row_zeros((B, W), jnp.float32)
    told = Statistics(plane, plane, row_zeros((B, W, topk), jnp.float32))
    hidden = row_zeros((B, W, D), jnp.float32)
    return Steps(row_zeros((B, W), jnp.int32), row_zeros((B,), jnp.int32), told, hidden)


def _write(s: _Loop, token: Array, column: Statistics) -> Steps:
    """This step's column of active rows."""

    def write(old: Array, new: Array) -> Array:
        return append(old, new[:, None], s.step)

    return Steps(
        write(s.out.tokens, token),
        s.out.counts + s.active.astype(jnp.int32),
        Statistics(*map(write, s.out.statistics, column)),
        write(s.out.hidden, s.hidden),
    )


@functools.partial(jax.jit, donate_argnames="total")
def add_kept(
    total: Float[Array, "B D"], hidden: Float[Array, "B W D"], kept: Int[Array, " B"]
) -> Float[Array, "B D"]:
    """The sums with the first ``kept`` columns of each row added."""
    real = jnp.arange(hidden.shape[1])[None, :, None] < on_rows(kept)[:, None, None]
    return total + jnp.sum(jnp.where(real, hidden, 0.0), axis=1)
