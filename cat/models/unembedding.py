"""The step from hidden states to logits, apart from its model.

Letters: D width, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cat.models.plain import cap


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=("table",), meta_fields=("tied", "dtype", "cap")
)
@dataclasses.dataclass(frozen=True)
class Unembedding:
    """A model's last step as a value: ``cap(hidden @ table)``, logits in float32.

    ``table`` is the embedding [V, D] where the model ties them, else [D, V]; products are in
    ``dtype`` and added up in float32.

    >>> Unembedding(jnp.eye(3)[:, :2], True, "float32")(jnp.array([[2.0, 5.0]])).tolist()
    [[2.0, 5.0, 0.0]]
    """

    table: Float[Array, "_ _"] | Any
    tied: bool
    dtype: str
    cap: float = 0.0

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.table.shape[0 if self.tied else 1]

    def __call__(self, hidden: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
        """Logits; a soft-cap bends them to ``cap tanh(logits / cap)``."""
        hidden, table = hidden.astype(self.dtype), self.table.astype(self.dtype)
        contracted = (((hidden.ndim - 1,), (int(self.tied),)), ((), ()))
        logits = jax.lax.dot_general(hidden, table, contracted, preferred_element_type=jnp.float32)
        return cap(logits, self.cap)
