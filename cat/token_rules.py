"""Token-level deferral: who writes the next token, decided from both models' distributions.

A rule is a public function ``rule(pair, *thresholds) -> target_BV``: the distribution pi that
the next token shall have. q is the small model's distribution and p the large one's.
``cat.speculative`` draws from pi while it runs the large model once per several tokens.

The rules are written in jnp alone, because they run inside compiled decoding.

Letters: V vocabulary; leading axes B are any.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from routers.errors import InputError


class Pair(NamedTuple):
    """Both models at the same position.

    ``q`` and ``p`` are what tokens are drawn from; the ``plain_`` ones are at temperature 1 and
    are what decisions read, whatever the temperature of sampling. ``gate`` is the logit of a
    learned gate on the small model's hidden state, for the rules that need one.
    """

    q: Float[Array, "*B V"] | Any
    p: Float[Array, "*B V"] | Any
    plain_q: Float[Array, "*B V"] | Any
    plain_p: Float[Array, "*B V"] | Any
    gate: Float[Array, "*B"] | Any | None = None


Rule = Callable[..., Array]
"""``rule(pair, *thresholds) -> [*B, V]``, rows that sum to 1."""


def make_pair(
    small_logits: Float[Array, "*B V"],
    large_logits: Float[Array, "*B V"],
    temperature: float,
    gate: Float[Array, "*B"] | None = None,
) -> Pair:
    """The pair of softmax(logits / temperature); at temperature 0, all mass on the argmax.

    >>> pair = make_pair(jnp.array([1.0, 3.0]), jnp.array([2.0, 0.0]), 0.0)
    >>> pair.q.tolist(), pair.p.tolist(), round(float(pair.plain_q[1]), 3)
    ([0.0, 1.0], [1.0, 0.0], 0.881)
    """
    return Pair(
        distribution(small_logits, temperature),
        distribution(large_logits, temperature),
        distribution(small_logits, 1.0),
        distribution(large_logits, 1.0),
        gate,
    )


def distribution(logits: Float[Array, "*B V"], temperature: float) -> Float[Array, "*B V"]:
    """softmax(logits / temperature) in float32; its limit at 0, ties to the lowest id."""
    logits = logits.astype(jnp.float32)
    if temperature:
        return jax.nn.softmax(logits / temperature, axis=-1)
    ids = jnp.arange(logits.shape[-1]).reshape(*[1] * (logits.ndim - 1), -1)
    return (ids == jnp.argmax(logits, axis=-1, keepdims=True)).astype(jnp.float32)


def total_variation(q: Float[Array, "*B V"], p: Float[Array, "*B V"]) -> Float[Array, "*B"]:
    """TV(p, q) = sum_v max(0, q(v) - p(v)), in [0, 1].

    >>> float(total_variation(jnp.array([0.5, 0.5]), jnp.array([0.25, 0.75])))
    0.25
    """
    return jnp.sum(jnp.maximum(q - p, 0.0), axis=-1)


def lossless(pair: Pair) -> Float[Array, "*B V"]:
    """pi = p: plain speculative decoding, the large model's own law.

    Source: Leviathan et al. (2211.17192), Algorithm 1; Chen et al. (2302.01318).
    """
    return pair.p


def lossy(pair: Pair, alpha: Any) -> Float[Array, "*B V"]:
    """pi = m + (1 - sum m) r, with m = min(q, p / (1 - alpha)), r = max(0, p - q) normalised.

    The law of accepting a draft v with probability min(1, p(v) / ((1 - alpha) q(v))) and drawing
    from r otherwise. alpha = 0: pi = p; alpha = 1: pi = q. Reads tempered probabilities only.

    Source: Leviathan et al. (2211.17192), A.5, as run in the notebook of speculative cascades
    (2405.19261); the closed form of pi is ours.
    """
    q, p = pair.q, pair.p
    kept = jnp.where((1.0 - alpha) * q <= p, q, p / (1.0 - alpha))
    rest = jnp.maximum(p - q, 0.0)
    mass = jnp.sum(rest, axis=-1, keepdims=True)
    # q = p leaves no residual, and nothing to be drawn from it
    rest = jnp.where(mass > 0, rest / jnp.where(mass > 0, mass, 1.0), p)
    return kept + _missing(kept) * rest


def chow(pair: Pair, alpha: Any) -> Float[Array, "*B V"]:
    """pi = q if max q >= 1 - alpha, else p. The large model is not consulted.

    alpha >= 1: pi = q; alpha < 0: pi = p; alpha = 0 keeps q only where it is certain.

    Source: speculative cascades (2405.19261), eq. 2.
    """
    return _whole(pair, jnp.max(pair.plain_q, axis=-1) >= 1.0 - alpha)


def diff(pair: Pair, alpha: Any) -> Float[Array, "*B V"]:
    """pi = q if max q >= max p - alpha, else p.

    alpha >= 1: pi = q; alpha <= -1: pi = p; alpha = 0: the more confident model, ties to the
    small one.

    Source: speculative cascades (2405.19261), eq. 5.
    """
    return _whole(pair, _top(pair.plain_q) >= _top(pair.plain_p) - alpha)


def opt(pair: Pair, alpha: Any) -> Float[Array, "*B V"]:
    """pi = q if max q >= max p - alpha TV(p, q), else p.

    TV is between the tempered distributions, as it is the share of drafts that the large model
    would reject. alpha = 0 is ``diff`` at 0. At temperature 1, alpha > 1 gives pi = q, because
    max p - max q <= TV (alpha = 1 too, up to rounding).

    Source: speculative cascades (2405.19261), eq. 10.
    """
    bonus = alpha * total_variation(pair.q, pair.p)
    return _whole(pair, _top(pair.plain_q) >= _top(pair.plain_p) - bonus)


def token_v1(pair: Pair, alpha: Any) -> Float[Array, "*B V"]:
    """Keep the tokens v with q(v) >= max p - alpha; p for the mass of the others.

    alpha >= 1: pi = q; alpha <= -1: pi = p.

    Source: speculative cascades (2405.19261), eq. 13.
    """
    return _by_token(pair, pair.plain_q >= _top(pair.plain_p)[..., None] - alpha)


def token_v2(pair: Pair, alpha: Any) -> Float[Array, "*B V"]:
    """Keep the tokens v with p(v) >= max p - alpha; p for the mass of the others.

    alpha >= 1: pi = q; alpha < 0: pi = p. alpha = 0 keeps the large model's argmax alone: p when
    greedy, not when sampling.

    Source: speculative cascades (2405.19261), eq. 14.
    """
    return _by_token(pair, pair.plain_p >= _top(pair.plain_p)[..., None] - alpha)


def token_v3(pair: Pair, alpha: Any) -> Float[Array, "*B V"]:
    """Keep the tokens v with p(v) >= (1 - alpha) max p; p for the mass of the others.

    alpha >= 1: pi = q; alpha < 0: pi = p; alpha = 0 as in ``token_v2``.

    Source: speculative cascades (2405.19261), eq. 15.

    >>> q, p = jnp.array([0.5, 0.25, 0.25]), jnp.array([0.5, 0.5, 0.0])
    >>> token_v3(Pair(q, p, q, p), 0.2).tolist()  # token 2 may not stay; p takes its quarter
    [0.625, 0.375, 0.0]
    """
    return _by_token(pair, pair.plain_p >= (1.0 - alpha) * _top(pair.plain_p)[..., None])


def bild(pair: Pair, fallback: Any, rollback: Any) -> Float[Array, "*B V"]:
    """Keep v if max q >= fallback and - log p(v) <= rollback nats; p for the mass of the others.

    fallback > 1 or rollback < 0: pi = p; fallback = 0 and rollback = inf: pi = q.

    Source: Big Little Decoder (2302.07863), its fallback and rollback policies, greedy there
    (defaults of its code .6 and 5); as a law for sampling it is our choice, and so is applying
    it to every token (there the large model writes the token after a full round).
    """
    sure = _top(pair.plain_q) >= fallback
    return _by_token(pair, sure[..., None] & (-jnp.log(pair.plain_p) <= rollback))


def co_llm(pair: Pair, threshold: Any) -> Float[Array, "*B V"]:
    """pi = p if sigmoid(gate) > threshold, else q: the gate says when to defer.

    threshold >= 1: pi = q; threshold < 0: pi = p.

    Source: Co-LLM (2403.03870), its rule at test time; the gate is one more logit of the small
    model, linear in its last hidden state.
    """
    return _whole(pair, jax.nn.sigmoid(_gate(pair)) <= threshold)


def citer(pair: Pair, threshold: Any) -> Float[Array, "*B V"]:
    """pi = q if sigmoid(gate) >= threshold, else p: the gate says when to keep.

    threshold <= 0: pi = q; threshold > 1: pi = p.

    Source: CITER (2502.01976), its rule at test time (.9 in its code); the gate is a multi-layer
    perceptron on the small model's last hidden state.
    """
    return _whole(pair, jax.nn.sigmoid(_gate(pair)) >= threshold)


def _top(probabilities: Array) -> Array:
    return jnp.max(probabilities, axis=-1)


def _gate(pair: Pair) -> Array:
    if pair.gate is None:
        raise InputError("this rule reads the logits of a gate; give a gate, or another rule")
    return pair.gate


def _whole(pair: Pair, keep: Bool[Array, "*B"]) -> Array:
    """The small model's distribution where ``keep``, the large one's elsewhere."""
    return jnp.where(keep[..., None], pair.q, pair.p)


def _by_token(pair: Pair, stays: Bool[Array, "*B V"]) -> Array:
    """q(v) 1[v stays] + p(v) (1 - sum of q over those that stay)."""
    kept = jnp.where(stays, pair.q, 0.0)
    return kept + _missing(kept) * pair.p


def _missing(kept: Array) -> Array:
    """1 - sum, which rounding must not make negative: [*B, 1]."""
    return jnp.maximum(1.0 - jnp.sum(kept, axis=-1, keepdims=True), 0.0)
