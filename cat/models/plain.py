"""What attention is: the rule of who sees whom, and softmax attention as it is written down.

Every faster path (``cat.models.blockwise``, ``cat.models.kernels``) is tested against this one.

Letters: B batch, T query tokens, S key tokens, H query heads, K key/value heads, G query heads
per key/value head, C head size.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from cat.mesh import reshape


class Places(NamedTuple):
    """Where queries and keys stand; a segment is a text of a row, 0 = pad or empty slot."""

    q_positions: Int[Array, "B T"]
    q_segments: Int[Array, "B T"]
    k_positions: Int[Array, "B S"]
    k_segments: Int[Array, "B S"]


def visible(places: Places, window: int = 0) -> Bool[Array, "B T S"]:
    """Which keys each query may see: same positive segment, position not after its own.

    One rule for left and right padding (segment 0), packing (several segments a row) and
    cached decoding (empty slots have segment 0). With a window, only the last ``window``
    positions are seen, the query's own included.

    >>> positions, segments = jnp.array([[0, 1, 0]]), jnp.array([[1, 1, 2]])
    >>> places = Places(positions, segments, positions, segments)
    >>> visible(places)[0].astype(int).tolist()
    [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    >>> visible(places, window=1)[0].astype(int).tolist()
    [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    """
    q_positions, q_segments = places.q_positions[:, :, None], places.q_segments[:, :, None]
    k_positions, k_segments = places.k_positions[:, None, :], places.k_segments[:, None, :]
    seen = (q_segments == k_segments) & (k_positions <= q_positions) & (q_segments > 0)
    return seen & (k_positions > q_positions - window) if window else seen


def attend(
    q_BTHC: Float[Array, "B T H C"],
    k_BSKC: Float[Array, "B S K C"],
    v_BSKC: Float[Array, "B S K C"],
    visible_BTS: Bool[Array, "B T S"],
    *,
    scale: float,
    softcap: float = 0.0,
) -> Float[Array, "B T H C"]:
    """softmax(scale q k) v over the visible keys; exactly 0 for a query that sees none.

    Query head h reads key/value head h // G. The softmax is in float32. A soft-cap bends
    scores s to softcap tanh(s / softcap).

    Source: Attention Is All You Need (1706.03762), eq. 1; grouped heads: GQA (2305.13245);
    soft-cap: Gemma 2 (2408.00118), section 2.
    """
    B, T, H, C = q_BTHC.shape
    K = k_BSKC.shape[2]
    q_BTKGC = reshape(q_BTHC, B, T, K, H // K, C)
    scores = jnp.einsum("BTKGC,BSKC->BKGTS", q_BTKGC, k_BSKC, preferred_element_type=jnp.float32)
    scores = cap(scores * scale, softcap)
    mask = visible_BTS[:, None, None, :, :]
    scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(v_BSKC.dtype)
    mixed_BTKGC = jnp.einsum("BKGTS,BSKC->BTKGC", weights, v_BSKC)
    mixed_BTHC = reshape(mixed_BTKGC, B, T, H, C)
    # a query with no visible key has uniform weights, and must give 0
    sees_BT = jnp.any(visible_BTS, axis=-1)
    return jnp.where(sees_BT[:, :, None, None], mixed_BTHC, jnp.zeros((), mixed_BTHC.dtype))


def cap(x: Float[Array, ...], limit: float) -> Float[Array, ...]:
    """limit tanh(x / limit), which stays within (-limit, limit); x itself when limit is 0."""
    return limit * jnp.tanh(x / limit) if limit else x
