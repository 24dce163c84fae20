"""From hidden states to per-token values a chunk of tokens at a time: never a whole [B, T, V].

With a vocabulary of 262,144 the logits of 8,192 tokens are 8 GiB, and their softmax and gradient
as much again. Nothing outside needs them: a loss wants one number per token, and the gradient
with respect to hidden states and table. So both are computed together, chunk by chunk, in the
forward pass: the same products as without chunks (nothing is computed twice), one chunk's logits
at a time. What a chunk computes is any function of its logits; losses and masks do not know.

On several devices each works through its own rows; the table's gradient is summed over them
once, after the last chunk. A vocabulary split over ``tensor`` stays split within a chunk.

Letters: B batch, R places of a row, n chunks, c places of a chunk, D width, V vocabulary,
K largest.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from cat import losses
from cat.mesh import ROWS, gathered, row_count
from cat.models.unembedding import Unembedding
from cat.statistics import Statistics, statistics

CHUNK_BYTES = 2**29
"""Float32 logits of one chunk on one device, at most, unless a single place of all rows is more.
Larger chunks add up the table's gradient less often; 512 MiB costs little on either side."""


Chunk = Callable[[Unembedding, Array, Any, Any], tuple[Array, Any]]
"""(unembedding, hidden [B, c, D], columns [B, c, ...], constants) to a sum and columns [B, c]."""


def summed(
    one: Chunk,
    unembedding: Unembedding,
    hidden_BRD: Float[Array, "B R D"],
    columns: Any,
    constants: Any = None,
) -> tuple[Float[Array, ""], Any]:
    """The sum over chunks of what ``one`` sums, and the columns it tells, [B, R, ...].

    Differentiable with respect to ``unembedding`` and ``hidden_BRD`` alone.

    Args:
        one: called with a chunk; a pure function that closes over no array.
        columns: a tree of [B, R, ...], cut into chunks alongside the hidden states. Places that
            fill the last chunk have zeros in every column: they must add nothing.
        constants: a tree given whole to every chunk.
    """
    if row_count() == 1:
        return _chunks(one, jnp.zeros(()), unembedding, hidden_BRD, columns, constants)

    def local(unembedding: Unembedding, hidden: Array, columns: Any, constants: Any) -> Any:
        # Varying from here on, so that gradients are summed over devices after the last chunk.
        zero, unembedding, constants = _varying((jnp.zeros(()), unembedding, constants))
        total, told = _chunks(one, zero, unembedding, hidden, columns, constants)
        return lax.psum(total, ROWS), told

    rows = PartitionSpec(ROWS)
    run = jax.shard_map(
        local,
        in_specs=(PartitionSpec(), rows, rows, PartitionSpec()),
        out_specs=(PartitionSpec(), rows),
        axis_names=set(ROWS),
    )
    return run(unembedding, hidden_BRD, columns, constants)


class TokenStatistics(NamedTuple):
    """Of each target: is it the argmax, and what routers read."""

    hit: Bool[Array, "B R"]
    statistics: Statistics


def token_statistics(
    unembedding: Unembedding,
    hidden_BRD: Float[Array, "B R D"],
    targets_BR: Int[Array, "B R"],
    topk: int,
) -> TokenStatistics:
    """Hit, label log-probability, entropy and the ``topk`` largest log-probabilities, nats."""
    one = functools.partial(_statistics_of, topk)
    return summed(one, unembedding, hidden_BRD, targets_BR)[1]


def _statistics_of(
    topk: int, unembedding: Unembedding, hidden: Array, targets: Array, constants: Any
) -> tuple[Array, TokenStatistics]:
    """The columns of one chunk; nothing to sum."""
    logits = gathered(unembedding(hidden), "tensor")  # the largest are looked for in all of V
    found = statistics(logits, targets, topk)
    return jnp.zeros(()), TokenStatistics(losses.hit(logits, targets), found)


def _varying(tree: Any) -> Any:
    """Copies that may differ from device to device, so far equal."""
    return jax.tree.map(lambda array: lax.pcast(array, ROWS, to="varying"), tree)


def chunk_count(rows: int, places: int, vocab: int) -> int:
    """Into how many chunks R places of ``rows`` rows are cut.

    >>> chunk_count(8, 1024, 262_144), chunk_count(64, 17, 64)
    (16, 1)
    """
    at_once = max(1, CHUNK_BYTES // (4 * rows * vocab))
    return -(-places // at_once)


def _chunks(
    one: Chunk,
    zero: Array,
    unembedding: Unembedding,
    hidden_BRD: Array,
    columns: Any,
    constants: Any,
) -> tuple[Array, Any]:
    """``summed`` of one device's rows; a single chunk is left to plain differentiation."""
    B, R, _ = hidden_BRD.shape
    count = chunk_count(B, R, unembedding.vocab_size)
    if count == 1:
        return one(unembedding, hidden_BRD, columns, constants)
    cut = functools.partial(_cut, count)
    hidden_nBcD, columns = cut(hidden_BRD), jax.tree.map(cut, columns)
    total, told = cast(Any, _fused)(one, zero, unembedding, hidden_nBcD, columns, constants)
    return total, jax.tree.map(lambda column: _joined(column, R), told)


def _cut(count: int, column: Array) -> Array:
    """[B, R, ...] as [n, B, c, ...], filled up with zeros."""
    B, R = column.shape[:2]
    c = -(-R // count)
    widths = [(0, 0), (0, count * c - R), *[(0, 0)] * (column.ndim - 2)]
    padded = jnp.pad(column, widths)
    return jnp.moveaxis(padded.reshape(B, count, c, *column.shape[2:]), 1, 0)


def _joined(column: Array, places: int) -> Array:
    """[n, B, c, ...] back as [B, R, ...]."""
    n, B, c = column.shape[:3]
    return jnp.moveaxis(column, 0, 1).reshape(B, n * c, *column.shape[3:])[:, :places]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _fused(one: Chunk, zero: Array, unembedding: Unembedding, *given: Any) -> tuple[Array, Any]:
    """The sum over chunks from ``zero`` on, values only; ``given``: hidden, columns, constants."""
    hidden_nBcD, columns, constants = given

    def chunk(total: Array, part: tuple[Array, Any]) -> tuple[Array, Any]:
        hidden_BcD, here = part
        value, told = one(unembedding, hidden_BcD, here, constants)
        return total + value, told

    return lax.scan(chunk, zero, (hidden_nBcD, columns))


def _values_and_gradients(
    one: Chunk, zero: Array, unembedding: Unembedding, *given: Any
) -> tuple[tuple[Array, Any], tuple[Any, Array]]:
    """The same with both gradients, while each chunk's logits are at hand."""
    hidden_nBcD, columns, constants = given
    gradient = jax.value_and_grad(one, argnums=(0, 1), has_aux=True)

    def chunk(carried: Any, part: Any) -> tuple[Any, Any]:
        total, by_table = carried
        (value, told), (table, hidden) = gradient(unembedding, *part, constants)
        return (total + value, jax.tree.map(jnp.add, by_table, table)), (told, hidden)

    start = zero, jax.tree.map(lambda table: jnp.zeros_like(table) + zero, unembedding)
    (total, by_table), (told, by_hidden) = lax.scan(chunk, start, (hidden_nBcD, columns))
    return (total, told), (by_table, by_hidden)


def _scaled(one: Chunk, gradients: tuple[Any, Array], cotangents: Any) -> tuple[Any, ...]:
    """Gradients of the sum, times what the sum is worth."""

    def scaled(g: Array) -> Array:
        return (g.astype(jnp.float32) * cotangents[0]).astype(g.dtype)

    by_table, by_hidden = jax.tree.map(scaled, gradients)
    return None, by_table, by_hidden, None, None


_fused.defvjp(_values_and_gradients, _scaled)
