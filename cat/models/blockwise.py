"""Attention block by block, forward and backward: memory grows with T + S, never with T S.

Scores exist for one block of queries and one block of keys at a time. The forward pass keeps a
running maximum and sum; the backward pass computes each block of scores again from the saved
log-sum-exp. Key blocks that no query of a block can see are not visited, so a causal row costs
about half of a full one, and a window costs its length.

Letters: B batch, T queries, S keys, H query heads, K key/value heads, G query heads per
key/value head, C head size; N query blocks of I queries, M key blocks of J keys.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from cat.mesh import reshape
from cat.models.plain import Places, cap, visible

BLOCK = 256
"""Queries, and keys, of a block. On a CPU 128 and 256 are as fast, 512 and more are slower
(benchmarks/attention.py); larger blocks mean fewer kernel calls on an accelerator."""

LOWEST = float(jnp.finfo(jnp.float32).min)


class Rule(NamedTuple):
    """What does not depend on the data."""

    window: int
    scale: float
    softcap: float


class Blocks(NamedTuple):
    """The arguments in blocks; the block is the leading axis, pads at the end have segment 0."""

    q_NBKGIC: Array
    k_MBKJC: Array
    v_MBKJC: Array


def blockwise(
    q_BTHC: Float[Array, "B T H C"],
    k_BSKC: Float[Array, "B S K C"],
    v_BSKC: Float[Array, "B S K C"],
    places: Places,
    *,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
    block: int = BLOCK,
) -> Float[Array, "B T H C"]:
    """``attend`` under ``visible(places, window)`` without an array of T x S.

    Exactly 0, with gradient 0, for a query that sees no key. Any T and S; any places: packing,
    pads on either side, caches. Sums are in float32. Differentiable once, in reverse mode.

    Args:
        block: queries and keys of a block; memory is B H block^2 numbers.

    Source: online softmax: Milakov and Gimelshein (1805.02867), alg. 3; blocks and the backward
    pass: FlashAttention-2 (2307.08691), alg. 1 and 2; visiting only the range of key blocks
    that the positions and segments leave is our choice.

    >>> q, at = jnp.ones((1, 3, 1, 2)), jnp.arange(3)[None]
    >>> places = Places(at, jnp.array([[1, 1, 0]]), at, jnp.array([[1, 1, 0]]))
    >>> blockwise(q, q, 5 * q, places, scale=1.0, block=2)[0, :, 0, 0].tolist()
    [5.0, 5.0, 0.0]
    """
    B, T, H, C = q_BTHC.shape
    K, I, J = k_BSKC.shape[2], min(block, T), min(block, k_BSKC.shape[1])
    blocks = Blocks(
        _split(reshape(q_BTHC, B, T, K, H // K, C), I).transpose(0, 1, 3, 4, 2, 5),
        _split(k_BSKC, J).swapaxes(2, 3),
        _split(v_BSKC, J).swapaxes(2, 3),
    )
    split = Places(*map(_split, places, (I, I, J, J)))
    mixed_NBKGIC: Any = _attention(Rule(window, scale, softcap), blocks, split)
    mixed_BNIKGC = mixed_NBKGIC.transpose(1, 0, 4, 2, 3, 5)
    # one pair of axes at a time: a reshape of several is refused on an explicit mesh
    mixed_BTKGC = reshape(mixed_BNIKGC, B, -1, K, H // K, C)[:, :T]
    return reshape(mixed_BTKGC, B, T, H, C)


def _split(x_BT: Array, size: int) -> Array:
    """[B, T, ...] to [blocks, B, size, ...]; zeros fill the last block."""
    B, T, *rest = x_BT.shape
    pad = -T % size
    padded = jnp.pad(x_BT, [(0, 0), (0, pad)] + [(0, 0)] * len(rest)) if pad else x_BT
    return reshape(padded, B, -1, size, *rest).swapaxes(0, 1)


def _reach(places: Places, window: int) -> tuple[Int[Array, " N"], Int[Array, " N"]]:
    """The key blocks [first, end) that a query of each query block might see, in any row.

    Judged by the least and greatest position and segment of each block, so a block within the
    range may hold nothing visible, and none outside does.
    """
    q_low, q_high, q_first, q_last = _extremes(places.q_positions, places.q_segments)
    k_low, k_high, k_first, k_last = _extremes(places.k_positions, places.k_segments)

    def pairs(q_NB: Array, k_MB: Array) -> tuple[Array, Array]:
        return q_NB[:, None], k_MB[None]

    latest, earliest = pairs(q_high, k_low)
    seen_NMB = earliest <= latest
    q_starts, k_ends = pairs(q_first, k_last)
    q_ends, k_starts = pairs(q_last, k_first)
    seen_NMB = seen_NMB & (q_starts <= k_ends) & (k_starts <= q_ends)
    if window:
        oldest, newest = pairs(q_low, k_high)
        seen_NMB = seen_NMB & (newest > oldest - window)
    seen_NM = jnp.any(seen_NMB, axis=-1)
    some_N, M = jnp.any(seen_NM, axis=1), seen_NM.shape[1]
    end_N = M - jnp.argmax(seen_NM[:, ::-1], axis=1).astype(jnp.int32)
    return jnp.argmax(seen_NM, axis=1).astype(jnp.int32), jnp.where(some_N, end_N, jnp.int32(0))


def _extremes(positions_NBI: Array, segments_NBI: Array) -> tuple[Array, Array, Array, Array]:
    """Least and greatest position, least and greatest segment of each block's real tokens.

    Of a block of pads alone, the least is above the greatest: no test against it holds.
    """
    real, top = segments_NBI > 0, jnp.iinfo(jnp.int32).max // 2  # half: a window is subtracted

    def low(x: Array) -> Array:
        return jnp.min(jnp.where(real, x, jnp.asarray(top, x.dtype)), axis=-1)

    def high(x: Array) -> Array:
        return jnp.max(jnp.where(real, x, jnp.asarray(-top, x.dtype)), axis=-1)

    return low(positions_NBI), high(positions_NBI), low(segments_NBI), high(segments_NBI)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(rule: Rule, blocks: Blocks, places: Places) -> Array:
    return _forward(rule, blocks, places)[0]


def _forward(rule: Rule, blocks: Blocks, places: Places) -> tuple[Array, Any]:
    """The mixed values, and what the backward pass needs: no array larger than the arguments."""
    _, k_MBKJC, v_MBKJC = blocks

    def queries(none: None, block: Any) -> tuple[None, tuple[Array, Array]]:
        q_BKGIC, q_positions, q_segments, first, end = block

        def keys(j: Array, running: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            top_BKGI, sum_BKGI, mixed_BKGIC = running
            k_BKJC, v_BKJC = _at(k_MBKJC, j), _at(v_MBKJC, j)
            seen = _seen(rule, q_positions, q_segments, places, j)
            scores = jnp.where(seen, _scores(rule, q_BKGIC, k_BKJC), LOWEST)
            new_top = jnp.maximum(top_BKGI, jnp.max(scores, axis=-1))
            # a query that has seen nothing yet has top LOWEST, and exp(0) = 1 at its unseen keys
            weights = jnp.where(seen, jnp.exp(scores - new_top[..., None]), 0.0)
            shrink_BKGI = jnp.exp(top_BKGI - new_top)
            sum_BKGI = sum_BKGI * shrink_BKGI + jnp.sum(weights, axis=-1)
            more = _product("BKGIJ,BKJC->BKGIC", weights.astype(v_BKJC.dtype), v_BKJC)
            return new_top, sum_BKGI, mixed_BKGIC * shrink_BKGI[..., None] + more

        zeros_BKGIC = jnp.zeros_like(q_BKGIC, dtype=jnp.float32)
        zeros_BKGI = zeros_BKGIC[..., 0]
        start = (zeros_BKGI + LOWEST, zeros_BKGI, zeros_BKGIC)
        top_BKGI, sum_BKGI, mixed_BKGIC = lax.fori_loop(first, end, keys, start)
        sum_BKGI = jnp.where(sum_BKGI > 0, sum_BKGI, 1.0)  # a query that sees nothing gives 0
        mixed_BKGIC = (mixed_BKGIC / sum_BKGI[..., None]).astype(v_MBKJC.dtype)
        return None, (mixed_BKGIC, top_BKGI + jnp.log(sum_BKGI))

    reach = _reach(places, rule.window)
    _, (mixed, lse) = lax.scan(queries, None, (blocks.q_NBKGIC, *places[:2], *reach))
    return mixed, (blocks, places, reach, mixed, lse)


def _backward(rule: Rule, saved: Any, cotangent: Array) -> tuple[Blocks, None]:
    """Gradients of q, k and v; each block of weights is computed again."""
    blocks, places, reach, mixed_NBKGIC, lse_NBKGI = saved
    q_NBKGIC, k_MBKJC, v_MBKJC = blocks
    own = jnp.sum(mixed_NBKGIC.astype(jnp.float32) * cotangent.astype(jnp.float32), axis=-1)

    def queries(sums: Any, block: Any) -> tuple[Any, Array]:
        q_BKGIC, q_positions, q_segments, first, end, lse_BKGI, d_BKGIC, own_BKGI = block

        def keys(j: Array, sums: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            dq_BKGIC, dk_MBKJC, dv_MBKJC = sums
            k_BKJC, v_BKJC = _at(k_MBKJC, j), _at(v_MBKJC, j)
            scores = _scores(rule, q_BKGIC, k_BKJC)
            seen = _seen(rule, q_positions, q_segments, places, j)
            weights = jnp.where(seen, jnp.exp(scores - lse_BKGI[..., None]), 0.0)
            toward = _product("BKGIC,BKJC->BKGIJ", d_BKGIC, v_BKJC) - own_BKGI[..., None]
            slope = 1 - (scores / rule.softcap) ** 2 if rule.softcap else 1.0
            ds = (weights * toward * slope * rule.scale).astype(q_BKGIC.dtype)
            dq_BKGIC = dq_BKGIC + _product("BKGIJ,BKJC->BKGIC", ds, k_BKJC)
            dk_BKJC = _product("BKGIJ,BKGIC->BKJC", ds, q_BKGIC)
            dv_BKJC = _product("BKGIJ,BKGIC->BKJC", weights.astype(d_BKGIC.dtype), d_BKGIC)
            return dq_BKGIC, _add(dk_MBKJC, dk_BKJC, j), _add(dv_MBKJC, dv_BKJC, j)

        start = (jnp.zeros_like(q_BKGIC, dtype=jnp.float32), *sums)
        dq_BKGIC, *sums = lax.fori_loop(first, end, keys, start)
        return tuple(sums), dq_BKGIC.astype(q_BKGIC.dtype)

    zeros = tuple(jnp.zeros_like(x, dtype=jnp.float32) for x in (k_MBKJC, v_MBKJC))
    each = (q_NBKGIC, *places[:2], *reach, lse_NBKGI, cotangent, own)
    (dk, dv), dq_NBKGIC = lax.scan(queries, zeros, each)
    return Blocks(dq_NBKGIC, dk.astype(k_MBKJC.dtype), dv.astype(v_MBKJC.dtype)), None


_attention.defvjp(_forward, _backward)


def _scores(rule: Rule, q_BKGIC: Array, k_BKJC: Array) -> Array:
    """Scaled and capped scores of one block pair, float32."""
    return cap(_product("BKGIC,BKJC->BKGIJ", q_BKGIC, k_BKJC) * rule.scale, rule.softcap)


def _seen(rule: Rule, q_positions: Array, q_segments: Array, places: Places, j: Array) -> Array:
    """[B, 1, 1, I, J] the rule of ``visible`` for one block pair."""
    keys = _at(places.k_positions, j), _at(places.k_segments, j)
    return visible(Places(q_positions, q_segments, *keys), rule.window)[:, None, None]


def _product(letters: str, a: Array, b: Array) -> Array:
    return jnp.einsum(letters, a, b, preferred_element_type=jnp.float32)


def _at(blocks: Array, j: Array) -> Array:
    return lax.dynamic_index_in_dim(blocks, j, keepdims=False)


def _add(blocks: Array, block: Array, j: Array) -> Array:
    return lax.dynamic_update_index_in_dim(blocks, _at(blocks, j) + block, j, axis=0)
