"""Per-token losses of the small model, and the one function that divides.

A loss is a public function ``name(logits_BTV, targets_BT, ...) -> loss_BT`` in nats, unmasked;
``ArmConfig.loss`` names it. Its further parameters carry the names of ``ArmConfig`` fields, or
``teacher``: ``per_token`` fills them in. Masks are no business of a loss.

Letters: B batch, T tokens, V vocabulary, C kept teacher log-probabilities.
"""

from __future__ import annotations

import inspect
import math
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from cat.config import ArmConfig
from cat.types import Teacher
from routers.errors import InputError

LOWEST = float(jnp.finfo(jnp.float32).min)  # stands in for -inf where 0 * log 0 must be 0


def cross_entropy(
    logits_BTV: Float[Array, "B T V"], targets_BT: Int[Array, "B T"]
) -> Float[Array, "B T"]:
    """Negative log-likelihood of the target: ``logsumexp(logits) - logits[target]``, nats.

    >>> round(float(cross_entropy(jnp.zeros((1, 1, 4)), jnp.zeros((1, 1), int))[0, 0]), 4)
    1.3863
    """
    return jax.nn.logsumexp(logits_BTV, axis=-1) - target_logit(logits_BTV, targets_BT)


def distill(
    logits_BTV: Float[Array, "B T V"],
    targets_BT: Int[Array, "B T"],
    teacher: Teacher,
    label_weight: float,
    temperature: float,
) -> Float[Array, "B T"]:
    """``w CE(label) + (1 - w) tau^2 CE(p_L^(1/tau), p_S^(1/tau))``, nats.

    The second term is forward KL(p_L || p_S) plus the teacher's entropy, a constant. The factor
    ``tau^2`` keeps gradients of equal size as the temperature changes (Hinton et al. 2015).

    ``teacher.topk_ids`` None: ``topk_logprob`` is the whole log-distribution in vocabulary
    order. Otherwise C entries are kept and the remaining V - C tokens are one more class for
    both models, so the student's mass in the tail is trained to the teacher's and nothing is
    renormalised (our choice). C = V is the whole distribution. A bucket cannot be tempered:
    C < V with temperature other than 1 is an InputError.

    Source: CAT (2406.00060), L_dist as secondary sources report it, w on the label.
    """
    label_BT = cross_entropy(logits_BTV, targets_BT)
    scaled_BTV = logits_BTV / temperature
    soft_BT = temperature**2 * _teacher_cross_entropy(scaled_BTV, teacher, temperature)
    return label_weight * label_BT + (1.0 - label_weight) * soft_BT


def gatekeeper(
    logits_BTV: Float[Array, "B T V"], targets_BT: Int[Array, "B T"], correct_weight: float
) -> Float[Array, "B T"]:
    """``a CE`` where the model's own argmax is the target, else ``(1 - a) KL(p || uniform)``.

    No large model is needed.

    Source: Gatekeeper (2502.19335), L = a L_corr + (1 - a) L_incorr as secondary sources report
    it; that i runs over response tokens is our reading.
    """
    correct_BT = correct_weight * cross_entropy(logits_BTV, targets_BT)
    wrong_BT = (1.0 - correct_weight) * to_uniform(logits_BTV)
    return jnp.where(hit(logits_BTV, targets_BT), correct_BT, wrong_BT)


def hand_over(
    logits_BTV: Float[Array, "B T V"],
    targets_BT: Int[Array, "B T"],
    large_hit: Bool[Array, "B T"],
    correct_weight: float,
) -> Float[Array, "B T"]:
    """``(1 - a) KL(p || uniform)`` where the model is wrong and the large one right, else ``a CE``.

    Gatekeeper's push to uniform, only where somebody stands behind: tokens the large model would
    repair are handed over, the others learned. With the mask ``either_hit``, what both get wrong
    is dropped as in CAT. A hybrid of the two; our choice.

    Source: CAT (2406.00060) for the hits, Gatekeeper (2502.19335) for the two terms.
    """
    handed_BT = large_hit & ~hit(logits_BTV, targets_BT)
    learned_BT = correct_weight * cross_entropy(logits_BTV, targets_BT)
    uniform_BT = (1.0 - correct_weight) * to_uniform(logits_BTV)
    return jnp.where(handed_BT, uniform_BT, learned_BT)


def to_uniform(logits_BTV: Float[Array, "B T V"]) -> Float[Array, "B T"]:
    """``KL(p || U) = log V - H(p)``, nats.

    >>> round(float(to_uniform(jnp.array([[[0.0, -jnp.inf]]]))[0, 0]), 4)
    0.6931
    """
    logprob_BTV = jax.nn.log_softmax(logits_BTV, axis=-1)
    negative_entropy_BT = jnp.sum(jnp.exp(logprob_BTV) * _finite(logprob_BTV), axis=-1)
    return math.log(logits_BTV.shape[-1]) + negative_entropy_BT


def per_token(
    arm: ArmConfig,
    logits_BTV: Float[Array, "B T V"],
    targets_BT: Int[Array, "B T"],
    teacher: Teacher | None,
) -> Float[Array, "B T"]:
    """The arm's loss at every token: parameters are filled from the arm by name."""
    loss, names = globals()[arm.loss], _parameters(arm.loss)
    if "teacher" in names and (teacher is None or teacher.topk_logprob.shape[-1] == 0):
        raise InputError(
            f"loss {arm.loss} needs the large model's probabilities; "
            "store them (teacher_topk > 0) or use a live teacher"
        )
    if "large_hit" in names and teacher is None:
        raise InputError(f"loss {arm.loss} needs the large model's hits; pass its signals")
    signals = {"teacher": teacher, "large_hit": None if teacher is None else teacher.hit}
    given = {name: signals[name] if name in signals else getattr(arm, name) for name in names}
    return loss(logits_BTV, targets_BT, **given)


def reads_teacher(name: str) -> bool:
    """Whether that loss needs the large model's probabilities.

    >>> reads_teacher("distill"), reads_teacher("cross_entropy")
    (True, False)
    """
    return "teacher" in _parameters(name)


def reads_hits(name: str) -> bool:
    """Whether that loss needs the large model's hits.

    >>> reads_hits("hand_over"), reads_hits("gatekeeper")
    (True, False)
    """
    return "large_hit" in _parameters(name)


def hit(logits_BTV: Float[Array, "B T V"], targets_BT: Int[Array, "B T"]) -> Bool[Array, "B T"]:
    """Whether the target is the argmax; ties go to the lowest id, as in ``jnp.argmax``.

    Written as comparisons because an index-returning reduction does not vectorise on CPU.

    >>> hit(jnp.array([[[1.0, 2.0, 2.0]]]), jnp.array([[2]])).tolist()
    [[False]]
    """
    logits_BTV = jax.lax.stop_gradient(logits_BTV)
    target_BT1 = target_logit(logits_BTV, targets_BT)[..., None]
    ids_BTV = token_ids(logits_BTV)
    before_BTV = ids_BTV < targets_BT[..., None]
    beaten_BTV = jnp.where(before_BTV, logits_BTV < target_BT1, logits_BTV <= target_BT1)
    return jnp.all(beaten_BTV, axis=-1)


def target_logit(
    logits_BTV: Float[Array, "B T V"], targets_BT: Int[Array, "B T"]
) -> Float[Array, "B T"]:
    """``logits[target]``, without a gather: its gradient is a select, not a scatter."""
    on_BTV = token_ids(logits_BTV) == targets_BT[..., None]
    return jnp.sum(jnp.where(on_BTV, logits_BTV, 0.0), axis=-1)


def token_ids(logits: Float[Array, "*B V"]) -> Int[Array, "*B V"]:
    """0 ... V - 1 along the last axis, split over the mesh as the logits are."""
    last, sharding = logits.ndim - 1, jax.typeof(logits).sharding
    split = None if sharding.mesh.empty else sharding
    return jax.lax.broadcasted_iota(jnp.int32, logits.shape, last, out_sharding=split)


def masked_sum(per_token_BT: Float[Array, "B T"], alpha_BT: Float[Array, "B T"]) -> Array:
    """``sum alpha * loss`` over the global batch; a NaN where alpha is 0 stays there."""
    return jnp.sum(jnp.where(alpha_BT > 0, per_token_BT * alpha_BT, 0.0))


def masked_mean(
    per_token_BT: Float[Array, "B T"],
    alpha_BT: Float[Array, "B T"],
    mask_BT: Float[Array, "B T"],
    denominator: Literal["tokens", "kept"] = "tokens",
) -> Float[Array, ""]:
    """``sum alpha * loss / max(count, 1)``, nats per token; the only division.

    ``tokens``: count = all response tokens of the global batch (sum of mask), so a dropped
    token contributes nothing and the learning rate means the same in every arm. ``kept``: count
    = sum of alpha. CAT's own reduction is not known to us; ``tokens`` is our choice.

    >>> float(masked_mean(jnp.array([[2.0, 4.0]]), jnp.array([[1.0, 0.0]]), jnp.ones((1, 2))))
    1.0
    """
    count = {"tokens": mask_BT, "kept": alpha_BT}[denominator].sum()
    return masked_sum(per_token_BT, alpha_BT) / jnp.maximum(count, 1.0)


def _parameters(name: str) -> list[str]:
    """What a loss takes besides logits and targets."""
    return list(inspect.signature(globals()[name]).parameters)[2:]


def _teacher_cross_entropy(scaled_BTV: Array, teacher: Teacher, temperature: float) -> Array:
    """``- sum_v p_L(v) log p_S(v)``, both tempered; the tail as one class if C < V."""
    vocab, ids_BTC = scaled_BTV.shape[-1], teacher.topk_ids
    logprob_BTC = jax.lax.stop_gradient(teacher.topk_logprob).astype(scaled_BTV.dtype)
    kept = logprob_BTC.shape[-1]
    if kept == vocab:
        whole_BTV = logprob_BTC if ids_BTC is None else _spread(ids_BTC, logprob_BTC, vocab)
        probability_BTV = jax.nn.softmax(whole_BTV / temperature, axis=-1)
        return _dot(probability_BTV, jax.nn.log_softmax(scaled_BTV, axis=-1))
    if temperature != 1.0:
        raise InputError(
            f"distill: temperature {temperature} needs the teacher's whole distribution, not its "
            f"{kept} largest of {vocab}; set temperature 1, teacher_topk {vocab}, or a live teacher"
        )
    return _with_tail(scaled_BTV, _spread(ids_BTC, logprob_BTC, vocab))


def _with_tail(logits_BTV: Array, teacher_BTV: Array) -> Array:
    """Cross-entropy over the kept tokens (above -inf in ``teacher_BTV``) and the tail."""
    kept_BTV, probability_BTV = teacher_BTV > -jnp.inf, jnp.exp(teacher_BTV)
    normaliser_BT = jax.nn.logsumexp(logits_BTV, axis=-1)
    # The student's tail is summed, not 1 minus the rest: exact however small it is.
    outside_BTV = jnp.where(kept_BTV, LOWEST, logits_BTV)
    tail_logprob_BT = jax.nn.logsumexp(outside_BTV, axis=-1) - normaliser_BT
    tail_BT = jnp.maximum(1.0 - probability_BTV.sum(-1), 0.0)
    inside_BT = _dot(probability_BTV, logits_BTV - normaliser_BT[..., None])
    return inside_BT - tail_BT * _finite(tail_logprob_BT)


def _spread(ids_BTC: Array, logprob_BTC: Array, vocab: int) -> Array:
    """Kept log-probabilities in vocabulary order, -inf elsewhere. No gradient passes here."""

    def one(ids_C: Array, logprob_C: Array) -> Array:
        return jnp.full(vocab, -jnp.inf, logprob_C.dtype).at[ids_C].set(logprob_C)

    return jax.vmap(jax.vmap(one))(ids_BTC, logprob_BTC)


def _dot(probability_BTV: Array, logprob_BTV: Array) -> Array:
    """``- sum_v p log q`` with 0 log 0 = 0."""
    return -jnp.sum(probability_BTV * _finite(logprob_BTV), axis=-1)


def _finite(logprob_BTV: Array) -> Array:
    """-inf (a forbidden token) becomes a number, so that 0 * log 0 is 0 with gradient 0."""
    return jnp.maximum(logprob_BTV, LOWEST)
