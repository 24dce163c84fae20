"""Attention by a library's kernel: cuDNN on NVIDIA GPUs, splash attention on TPUs.

Both mask by column, not by position: a query sees the columns up to its own. That is the rule of
``visible`` only for rows in order (``in_order``), which training and teacher-forced scoring have.
Whether a row is in order is data, unknown while a program is compiled; the output of a row that
is not is NaN, never a wrong number.

Letters: B batch, T tokens, H query heads, K key/value heads, C head size, L columns with pads.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from cat.models.plain import Places
from routers.errors import InputError

LANES = 128
"""Splash attention takes whole multiples of so many tokens."""


def in_order(places: Places) -> Bool[Array, " B"]:
    """Rows in which columns can stand for positions.

    Queries and keys are the same tokens; segments follow one another, each in one piece with an
    id above the last one's; positions go up by one inside a segment. Pads (segment 0) may stand
    before, between and after segments. Rows of this toolkit's data are like that, packed or
    padded on either side; rows of a cache are not.

    >>> at = jnp.array([[0, 1, 0, 0], [0, 1, 3, 0]])
    >>> packed = jnp.array([[1, 1, 2, 0], [1, 1, 1, 0]])
    >>> in_order(Places(at, packed, at, packed)).tolist()  # the second jumps from 1 to 3
    [True, False]
    """
    q_positions, segments, k_positions, k_segments = places
    if q_positions.shape != k_positions.shape:
        return jnp.zeros_like(segments[:, 0], dtype=bool)
    same = jnp.all((q_positions == k_positions) & (segments == k_segments), axis=1)
    step = q_positions[:, 1:] - q_positions[:, :-1]
    before, after = segments[:, :-1], segments[:, 1:]
    highest = lax.cummax(before, axis=1)
    fine = (after == 0) | ((after == before) & (step == 1)) | (after > highest)
    return same & jnp.all(fine, axis=1)


def splash(
    q_BTHC: Float[Array, "B T H C"],
    k_BSKC: Float[Array, "B S K C"],
    v_BSKC: Float[Array, "B S K C"],
    places: Places,
    *,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
    interpret: bool = False,
) -> Float[Array, "B T H C"]:
    """``attend`` by JAX's splash attention for TPUs: packing, pads, windows and soft-caps.

    Args:
        interpret: run the kernel's body on any platform, slowly; for tests.

    Returns:
        0 for pads; NaN for every token of a row that is not ``in_order``.

    Raises:
        InputError: this process has no TPU.

    Source: jax.experimental.pallas.ops.tpu.splash_attention.
    """
    if not interpret:
        _need("tpu", "splash", "a TPU")
    run = functools.partial(
        _splash, scale=scale, window=window, softcap=softcap, interpret=interpret
    )
    return _guarded(run, in_order(places), q_BTHC, k_BSKC, v_BSKC, places)


def cudnn(
    q_BTHC: Float[Array, "B T H C"],
    k_BSKC: Float[Array, "B S K C"],
    v_BSKC: Float[Array, "B S K C"],
    places: Places,
    *,
    scale: float,
    window: int = 0,
) -> Float[Array, "B T H C"]:
    """``attend`` by cuDNN's flash attention, bfloat16: right-padded rows and windows.

    It knows one text a row, from the first column on: no packing, no left pads, no soft-cap.

    Returns:
        0 for pads; NaN for every token of a row that is not one text from the first column on.

    Raises:
        InputError: this process has no NVIDIA GPU.

    Source: jax.nn.dot_product_attention(implementation="cudnn").
    """
    _need("gpu", "cudnn", "an NVIDIA GPU")
    segments = places.q_segments
    first = jnp.all((segments == segments[:, :1]) | (segments == 0), axis=1)
    run = functools.partial(_cudnn, scale=scale, window=window)
    return _guarded(run, in_order(places) & first, q_BTHC, k_BSKC, v_BSKC, places)


def _need(backend: str, name: str, device: str) -> None:
    found = jax.default_backend()
    if found != backend:
        raise InputError(
            f"attention={name} needs {device} and this process runs on {found}; "
            "use auto or blockwise"
        )


def _guarded(
    run: Callable[..., Array], fine_B: Array, q: Array, k: Array, v: Array, places: Places
) -> Array:
    """``run`` on each device's part; 0 at pads, NaN in rows that the kernel would get wrong."""
    out_BTHC = _on_devices(run, q, k, v, places.q_segments)
    real_BTHC = (places.q_segments > 0)[:, :, None, None]
    out_BTHC = jnp.where(real_BTHC, out_BTHC, jnp.zeros((), out_BTHC.dtype))
    return jnp.where(fine_B[:, None, None, None], out_BTHC, jnp.asarray(jnp.nan, out_BTHC.dtype))


def _on_devices(run: Callable[..., Array], *arrays: Array) -> Array:
    """A kernel knows no mesh: each device runs it on the rows, and the heads, that it holds."""
    sharding = jax.typeof(arrays[0]).sharding
    if sharding.mesh.empty:
        return run(*arrays)
    specs = tuple(jax.typeof(array).sharding.spec for array in arrays)
    return jax.shard_map(run, in_specs=specs, out_specs=specs[0], check_vma=False)(*arrays)


def _splash(
    q_BTHC: Array,
    k_BTKC: Array,
    v_BTKC: Array,
    segments_BT: Array,
    *,
    scale: float,
    window: int,
    softcap: float,
    interpret: bool,
) -> Array:
    """Causal by column within equal segment ids; pads see themselves, as the kernel demands."""
    from jax.experimental.pallas.ops.tpu import splash_attention as library

    T, H = q_BTHC.shape[1:3]
    L = -(-T // LANES) * LANES
    block = next(size for size in (512, 256, 128) if L % size == 0)
    left = window - 1 if window else None  # columns before its own
    kernel = library.make_splash_mha_single_device(
        library.MultiHeadMask([library.LocalMask((L, L), (left, 0), 0)] * H),
        block_sizes=library.BlockSizes(
            block_q=block,
            block_kv=block,
            block_q_dkv=block,
            block_kv_dkv=block,
            block_q_dq=block,
            block_kv_dq=block,
        ),
        attn_logits_soft_cap=softcap or None,
        interpret=interpret,
    )

    def heads_first(x_BTHC: Array) -> Array:
        return jnp.pad(x_BTHC, [(0, 0), (0, L - T), (0, 0), (0, 0)]).swapaxes(1, 2)

    q, k, v = map(heads_first, (q_BTHC * scale, k_BTKC, v_BTKC))
    segments = jnp.pad(segments_BT, [(0, 0), (0, L - T)])
    out_BHLC: Any = jax.vmap(kernel)(q, k, v, library.SegmentIds(segments, segments))
    return out_BHLC.swapaxes(1, 2)[:, :T].astype(v_BTKC.dtype)


def _cudnn(
    q_BTHC: Array, k_BTKC: Array, v_BTKC: Array, segments_BT: Array, *, scale: float, window: int
) -> Array:
    """Causal by column, up to each row's length."""
    real_B = jnp.maximum(jnp.sum(segments_BT > 0, axis=1, dtype=jnp.int32), jnp.int32(1))
    return jax.nn.dot_product_attention(
        q_BTHC,
        k_BTKC,
        v_BTKC,
        scale=scale,
        is_causal=True,
        query_seq_lengths=real_B,
        key_value_seq_lengths=real_B,
        local_window_size=(window - 1, 0) if window else None,
        implementation="cudnn",
    )
