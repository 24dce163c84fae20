"""Right-padded rows of prompts: where their tokens stand, and what is read off them.

Letters: B batch, T tokens, D width, k copies.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cat.mesh import reshape
from cat.models.decoder import Decoder
from routers.errors import InputError


def check_sizes(model: Decoder, response_tokens: int, topk: int) -> None:
    """Raise InputError for sizes that the compiled functions cannot run with."""
    if response_tokens < 1:
        raise InputError(f"max response tokens is {response_tokens}; use at least 1")
    if not 1 <= topk <= model.config.vocab_size:
        raise InputError(
            f"topk={topk} is not between 1 and the vocabulary's {model.config.vocab_size} tokens; "
            "choose a smaller evaluation.topk"
        )


Ends = int | tuple[int, ...]
"""The id, or every id, that ends a response."""


def ends(tokens: Any, eos_id: Ends) -> Any:
    """Which tokens end a response; NumPy or JAX, any shape.

    >>> import numpy as np
    >>> ends(np.array([2, 5, 7]), (2, 7)).tolist(), ends(np.array([2, 5]), 2).tolist()
    ([True, False, True], [True, False])
    """
    first, *others = (eos_id,) if isinstance(eos_id, int) else eos_id
    found = tokens == first
    for other in others:
        found |= tokens == other
    return found


def places(
    tokens: Int[Array, "B T"], lengths: Int[Array, " B"]
) -> tuple[Int[Array, "B T"], Int[Array, "B T"]]:
    """Positions and segments of right-padded rows.

    >>> [a.tolist() for a in places(jnp.array([[7, 8, 0]]), jnp.array([2]))]
    [[[0, 1, 2]], [[1, 1, 0]]]
    """
    positions = jnp.arange(tokens.shape[1])[None, :] + jnp.zeros_like(tokens)
    return positions, (positions < lengths[:, None]).astype(jnp.int32)


def last_and_mean(
    hidden_BTD: Float[Array, "B T D"], lengths: Int[Array, " B"]
) -> tuple[Float[Array, "B D"], Float[Array, "B D"]]:
    """Hidden state of each row's last token, and the float32 mean over its tokens."""
    place = jnp.arange(hidden_BTD.shape[1])[None, :] - lengths[:, None]
    nothing = jnp.zeros((), hidden_BTD.dtype)
    last_BD = jnp.sum(jnp.where((place == -1)[:, :, None], hidden_BTD, nothing), axis=1)
    real_BTD = jnp.where((place < 0)[:, :, None], hidden_BTD.astype(jnp.float32), 0.0)
    return last_BD, jnp.sum(real_BTD, axis=1) / jnp.maximum(lengths, 1).astype(jnp.float32)[:, None]


def repeat(tree: Any, times: int) -> Any:
    """Every row of the tree's arrays that many times, side by side; scalars as they are.

    >>> repeat(jnp.array([4, 5]), 2).tolist()
    [4, 4, 5, 5]
    """

    def wide(array: Array) -> Array:
        if times == 1 or array.ndim == 0:
            return array
        copies = jnp.broadcast_to(array[:, None], (len(array), times, *array.shape[1:]))
        return reshape(copies, len(array) * times, *array.shape[1:])

    return jax.tree.map(wide, tree)
