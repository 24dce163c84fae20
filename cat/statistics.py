"""What a model thought of each token: the columns that routers read.

Letters: V vocabulary, K largest; leading axes are any.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int


class Statistics(NamedTuple):
    """Statistics of tokens, in nats; 0 where there is no token.

    ``logprob`` of the token itself, ``entropy`` of the distribution it came from, and the K
    largest log-probabilities, descending.
    """

    logprob: Float[Array, "*B"]
    entropy: Float[Array, "*B"]
    topk_logprob: Float[Array, "*B K"]


def statistics(logits: Float[Array, "*B V"], tokens: Int[Array, "*B"], topk: int) -> Statistics:
    """log p(token), H(p) = - sum p log p and the ``topk`` largest log p, p = softmax(logits).

    >>> s = statistics(jnp.zeros((1, 4)), jnp.array([2]), 2)
    >>> [round(float(x), 4) for x in (s.logprob[0], s.entropy[0], s.topk_logprob[0, 1])]
    [-1.3863, 1.3863, -1.3863]
    """
    logp = jax.nn.log_softmax(logits.astype(jnp.float32))
    # a masked sum, as a gather loses the sharding of a batch of one row
    is_token = jnp.arange(logp.shape[-1]).reshape(*[1] * tokens.ndim, -1) == tokens[..., None]
    logprob = jnp.sum(jnp.where(is_token, logp, 0.0), axis=-1)
    p = jnp.exp(logp)
    entropy = -jnp.sum(jnp.where(p > 0, p * logp, 0.0), axis=-1)  # logits of -inf give 0
    return Statistics(logprob, entropy, lax.top_k(logp, topk)[0])


def where(real: Bool[Array, "*B"], values: Statistics) -> Statistics:
    """The statistics where ``real``, 0 elsewhere."""
    return Statistics(
        jnp.where(real, values.logprob, 0.0),
        jnp.where(real, values.entropy, 0.0),
        jnp.where(real[..., None], values.topk_logprob, 0.0),
    )
