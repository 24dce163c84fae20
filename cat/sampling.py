"""How the next token is chosen: greedily, or drawn from a truncated distribution.

Only the choice is truncated: the statistics that routers read are always those of the
untruncated distribution at temperature 1 (``cat.statistics``).

Letters: B rows, V vocabulary, K largest.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Key

from cat.token_rules import distribution
from routers.errors import InputError


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Temperature first, then the ``top_k`` likeliest tokens, then the nucleus of ``top_p``.

    Args:
        temperature: 0 is greedy, the limit.
        top_k: tokens kept at most; 0 = all.
        top_p: probability that the kept tokens reach together, in (0, 1]; 1 = all.

    Raises:
        InputError: a value out of its range.

    >>> Sampling(temperature=0.8, top_p=1.5)
    Traceback (most recent call last):
    ...
    routers.errors.InputError: sampling: top_p=1.5; use 0 < top_p <= 1 (1 = all tokens)
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise InputError(
                f"sampling: temperature={self.temperature}; use a finite number >= 0 (0 = greedy)"
            )
        if self.top_k < 0:
            raise InputError(f"sampling: top_k={self.top_k}; use at least 0 (0 = all tokens)")
        if not 0 < self.top_p <= 1:
            raise InputError(f"sampling: top_p={self.top_p}; use 0 < top_p <= 1 (1 = all tokens)")


GREEDY = Sampling()


def check_draws(sampling: Sampling, key: Key[Array, ""] | None, samples: int) -> None:
    """Raise InputError for draws without a key, or several samples that would all be equal."""
    if samples < 1:
        raise InputError(f"samples={samples}; use at least 1")
    if samples > 1 and not sampling.temperature:
        raise InputError(
            f"samples={samples} greedy responses would all be equal; "
            "give a sampling temperature above 0, or one sample"
        )
    if sampling.temperature and key is None:
        raise InputError("sampling draws at random and has no key; give key=jax.random.key(seed)")


def row_keys(
    key: Key[Array, ""], queries: Int[Array, " B"], samples: Int[Array, " B"]
) -> Key[Array, " B"]:
    """One key per (query, sample) number, whatever batch and row they are in."""
    by_query = jax.vmap(jax.random.fold_in, (None, 0))(key, queries)
    return jax.vmap(jax.random.fold_in)(by_query, samples)


def truncate(logits: Float[Array, "B V"], sampling: Sampling) -> Float[Array, "B V"]:
    """logits / temperature in float32, -inf at the tokens that are not kept.

    With tokens in descending order of probability, kept are the first ``top_k``; of these,
    renormalised, the smallest number whose probabilities reach ``top_p``, so the token that
    crosses it is kept. At temperature 0 only the argmax is. Equal logits: the lowest id first,
    so exactly ``top_k`` tokens are kept (our choice; transformers keeps all that tie with the
    last one).

    Source: top-k (1805.04833), section 5.4; nucleus (1904.09751), eq. 2 and 3; the order of the
    three as in transformers' logits warpers.

    >>> logits = jnp.log(jnp.array([[0.5, 0.25, 0.125, 0.125]]))
    >>> truncate(logits, Sampling(temperature=1.0, top_p=0.6)).round(2).tolist()
    [[-0.6899999976158142, -1.3899999856948853, -inf, -inf]]
    """
    if not sampling.temperature:
        return jnp.log(distribution(logits, 0.0))
    x_BV = logits.astype(jnp.float32) / sampling.temperature
    x_BV = jnp.where(x_BV == 0, 0.0, x_BV)  # top_k ranks -0 below 0, and they are equal
    V = x_BV.shape[-1]
    K = min(sampling.top_k or V, V)
    if K == V and sampling.top_p == 1:
        return x_BV
    values_BK, ids_BK = lax.top_k(x_BV, K)  # equal values: the lowest id first
    kept_BK = _nucleus(values_BK, sampling.top_p)
    is_last = jnp.arange(K)[None, :] == jnp.sum(kept_BK, axis=-1, keepdims=True) - 1
    least = jnp.sum(jnp.where(is_last, values_BK, 0.0), axis=-1, keepdims=True)
    last_id = jnp.sum(jnp.where(is_last, ids_BK, 0), axis=-1, keepdims=True)
    tie_stays = (x_BV == least) & (jnp.arange(V)[None, :] <= last_id)
    return jnp.where((x_BV > least) | tie_stays, x_BV, -jnp.inf)


def _nucleus(values_BK: Array, top_p: float) -> Array:
    """Which of the descending logits have less than ``top_p`` before them; always the first."""
    if top_p == 1:  # the sum of all may round to less than 1, or to more
        return jnp.ones_like(values_BK, jnp.bool_)
    p_BK = jax.nn.softmax(values_BK, axis=-1)
    return jnp.cumsum(p_BK, axis=-1) - p_BK < top_p


def draw(
    keys: Key[Array, " B"] | None, logits: Float[Array, "B V"], sampling: Sampling
) -> Int[Array, " B"]:
    """One token per row from softmax(truncate(logits)), each row with its own key.

    At temperature 0 the argmax, ties to the lowest id; keys are not read and may be None.
    """
    if keys is None or not sampling.temperature:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    tokens = jax.vmap(jax.random.categorical)(keys, truncate(logits, sampling))
    return tokens.astype(jnp.int32)
