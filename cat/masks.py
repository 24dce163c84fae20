"""Token masks: which response tokens the small model is trained on.

One mask is one public function ``name(hits, key) -> alpha_BT`` with values 0 or 1, and 0 off
the response; ``ArmConfig.mask`` names it. A *hit* is a position where a model's most likely
token equals the target (teacher-forced on the reference). The small model's hits come from the
same forward pass as the loss, so a mask follows the model as it learns.

Letters: B batch, T tokens.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from routers.errors import InputError, did_you_mean


class Hits(NamedTuple):
    """Where each model is right. ``mask_BT`` is 1 on response tokens; large may be unknown."""

    small_BT: Bool[Array, "B T"] | Any
    large_BT: Bool[Array, "B T"] | Any | None
    mask_BT: Float[Array, "B T"] | Any


class Table(NamedTuple):
    """Response tokens by (small hit, large hit): ``n10`` = small right and large wrong."""

    n11: Int[Array, ""] | Any
    n10: Int[Array, ""] | Any
    n01: Int[Array, ""] | Any
    n00: Int[Array, ""] | Any


Mask = Callable[[Hits, Any], Array]


def all(hits: Hits, key: Any) -> Float[Array, "B T"]:
    """Every response token: the baseline arms."""
    return _alpha(hits, jnp.ones_like(hits.small_BT))


def either_hit(hits: Hits, key: Any) -> Float[Array, "B T"]:
    """``small | large``: drops the tokens both models get wrong.

    Source: CAT (2406.00060), the token weight alpha as secondary sources report it; that
    "small" is the model being trained, not its frozen start, is our reading.

    >>> bits = jnp.array([[True, True, False, False]]), jnp.array([[True, False, True, False]])
    >>> either_hit(Hits(*bits, jnp.ones((1, 4))), None).tolist()
    [[1.0, 1.0, 1.0, 0.0]]
    """
    return _alpha(hits, hits.small_BT | _large(hits))


def large_handles(hits: Hits, key: Any) -> Float[Array, "B T"]:
    """``small | ~large``: drops what the large model would repair (small wrong, large right).

    A second reading of "mask what the large model should handle"; our choice, not CAT's rule.
    """
    return _alpha(hits, hits.small_BT | ~_large(hits))


def large_hit(hits: Hits, key: Any) -> Float[Array, "B T"]:
    """``large``: only what the large model gets right. An ablation; our choice."""
    return _alpha(hits, _large(hits))


def small_hit(hits: Hits, key: Any) -> Float[Array, "B T"]:
    """``small``: only what the small model already gets right. An ablation; our choice."""
    return _alpha(hits, hits.small_BT)


def both_hit(hits: Hits, key: Any) -> Float[Array, "B T"]:
    """``small & large``: the conjunctive reading of CAT's rule. An ablation."""
    return _alpha(hits, hits.small_BT & _large(hits))


def random_like(hits: Hits, key: Any) -> Float[Array, "B T"]:
    """Bernoulli(p), p = keep rate of ``either_hit`` over the global batch's response tokens.

    Separates "fewer tokens" from "the right tokens". Our choice.
    """
    kept, tokens = either_hit(hits, key).sum(), hits.mask_BT.sum()
    rate = kept / jnp.maximum(tokens, 1.0)
    return _alpha(hits, jax.random.uniform(key, hits.mask_BT.shape) < rate)


def two_by_two(hits: Hits) -> Table:
    """Counts of response tokens by (small hit, large hit), over the global batch.

    >>> bits = jnp.array([[True, True, False]]), jnp.array([[True, False, True]])
    >>> [int(n) for n in two_by_two(Hits(*bits, jnp.ones((1, 3))))]
    [1, 1, 1, 0]
    """
    small_BT, large_BT, on_BT = hits.small_BT, _large(hits), hits.mask_BT > 0
    cells = (small_BT & large_BT, small_BT & ~large_BT, ~small_BT & large_BT)
    n11, n10, n01 = (jnp.sum(cell & on_BT, dtype=jnp.int32) for cell in cells)
    return Table(n11, n10, n01, jnp.sum(on_BT, dtype=jnp.int32) - n11 - n10 - n01)


_TOOLS = {"two_by_two", "names", "get", "reads_large"}


def names() -> list[str]:
    """The masks of this file: every public function that is not a tool.

    >>> "either_hit" in names(), "two_by_two" in names()
    (True, False)
    """
    here = inspect.getmembers(sys.modules[__name__], inspect.isfunction)
    mine = [name for name, function in here if function.__module__ == __name__]
    return [name for name in mine if not name.startswith("_") and name not in _TOOLS]


def get(name: str) -> Mask:
    """The mask of that name; InputError with the nearest name if there is none."""
    if name not in names():
        raise InputError(f"no token mask {name!r} in cat/masks.py; {did_you_mean(name, names())}")
    return globals()[name]


def reads_large(name: str) -> bool:
    """Whether that mask needs the large model's hits, found by asking it to do without.

    >>> reads_large("either_hit"), reads_large("small_hit")
    (True, False)
    """
    hits = Hits(jnp.ones((1, 1), bool), None, jnp.ones((1, 1)))
    try:
        get(name)(hits, jax.random.key(0))
    except LargeHitsMissing:
        return True
    return False


class LargeHitsMissing(InputError):
    """A mask was asked for without the large model's hits."""


def _large(hits: Hits) -> Array:
    """The large model's hits, or an error that says how to get them."""
    if hits.large_BT is None:
        raise LargeHitsMissing(
            "this token mask reads the large model's hits; pass teacher= (stored) or large= (live)"
        )
    return hits.large_BT


def _alpha(hits: Hits, keep_BT: Array) -> Array:
    """0/1 weights on the response; no gradient flows through a mask."""
    keep_BT = keep_BT & (hits.mask_BT > 0)
    return jax.lax.stop_gradient(keep_BT.astype(jnp.float32))
