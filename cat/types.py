"""The values that travel between rooms as tokens: batches and the teacher's signals.

Letters: B batch, T tokens, C kept teacher log-probabilities per token.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from jaxtyping import Array, Bool, Float, Int


class Teacher(NamedTuple):
    """The large model's signals on the targets, aligned with ``Batch.targets``.

    ``hit``: its argmax equals the target. ``topk_*``: its C largest log-probabilities, for
    distillation; C = 0 when only the bit is stored. ``logprob``: the target's own, for masks
    that ask how probable it is; None when it is not stored.
    """

    hit: Bool[Array, "*B T"] | Any
    topk_ids: Int[Array, "*B T C"] | Any
    topk_logprob: Float[Array, "*B T C"] | Any
    logprob: Float[Array, "*B T"] | Any | None = None


class Batch(NamedTuple):
    """Token rows; position t of ``tokens`` predicts ``targets`` at t.

    ``mask`` is 1 where the target is a response token (EOS included; prompt and pad not).
    ``segments``: 0 = pad, tokens attend only within their own positive segment.
    Leading axes may be [B] or [steps, B].
    """

    tokens: Int[Array, "*B T"] | Any
    targets: Int[Array, "*B T"] | Any
    mask: Float[Array, "*B T"] | Any
    positions: Int[Array, "*B T"] | Any
    segments: Int[Array, "*B T"] | Any
    teacher: Teacher | None = None
    before: Teacher | None = None  # the same signals of the small model before this training
    family: Int[Array, "*B T"] | Any | None = None  # index of the example's task, where several
