"""Which step's parameters a run ends with, by one rule for every arm.

The rule is the mean response-token cross-entropy on validation rows, whatever the arm's own
loss and mask: arms are compared by what they have in common.

Letters: B batch, R response places, D width.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from cat import response
from cat.config import ArmConfig
from cat.integrity import copied
from cat.mesh import shard_batch
from cat.objective import Whole, objective
from cat.source import Source
from cat.types import Batch


class Best(NamedTuple):
    """The least validation loss so far; ``params`` only where they are kept."""

    loss: float | None = None  # nats per token; None before the first validation
    step: int = 0
    since: int = 0  # validations in a row without a new least one
    params: Any = None

    def after(self, step: int, loss: float, params: Any) -> Best:
        """With one more validation; an equal loss later is not better, NaN or infinity never.

        >>> best = Best().after(10, 2.0, None).after(20, 1.5, None).after(30, 1.5, None)
        >>> best.loss, best.step, best.since
        (1.5, 20, 1)
        """
        better = np.isfinite(loss) and (self.loss is None or loss < self.loss)
        if not better:
            return self._replace(since=self.since + 1)
        return Best(loss, step, 0, None if params is None else copied(params))


def validation_loss(
    params: Any, source: Source, *, graph: Any, frozen: Any, batch_size: int
) -> float:
    """Mean cross-entropy of response tokens, nats: -sum mask log p(target) / sum mask.

    Args:
        params: what is trained; ``graph`` and ``frozen`` as in ``cat.step.dispatch``.
        source: the validation rows; the last batch is filled up with rows that do not count.
        batch_size: rows at once, a multiple of the mesh's row count.
    """
    process, processes = jax.process_index(), jax.process_count()
    total, count, response_width = 0.0, 0.0, source.response_width
    for first in range(0, len(source), batch_size):
        index_B = np.arange(first, first + batch_size)
        mine_B = index_B.reshape(processes, -1)[process]
        batch = source.batch(np.minimum(mine_B, len(source) - 1))
        real_B = (mine_B < len(source)).astype(np.float32)
        mask: Any = batch.mask * real_B[:, None]
        bare = Batch(*batch[:2], mask, *batch[3:5])
        rows = shard_batch(bare)
        found = _sums(params, frozen, rows, graph=graph, response_width=response_width)
        total, count = total + float(found[0]), count + float(found[1])
    return total / count


@functools.partial(jax.jit, static_argnames=("graph", "response_width"))
def _sums(
    params: Any, frozen: Any, batch: Batch, *, graph: Any, response_width: int
) -> tuple[Array, Array]:
    """Summed cross-entropy and count of a batch's response tokens."""
    model = nnx.merge(graph, params, *(() if frozen is None else (frozen,)))
    at_BR = response.places(batch.mask, response_width)
    hidden = model.hidden(batch.tokens, batch.positions, batch.segments).hidden
    hidden_BRD, near = response.take(hidden, at_BR), response.narrow(batch, at_BR)
    one = Whole(jnp.ones(()))  # a divisor of 1: the sum
    total, _ = objective(ArmConfig(), model.unembedding(), hidden_BRD, near, None, None, one)
    return total, near.mask.sum()
