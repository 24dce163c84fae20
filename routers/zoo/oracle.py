"""The oracle: what no router can beat, drawn as a reference line."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from routers import mlp
from routers.base import Inputs, Outcomes, Router
from routers.errors import InputError
from routers.features import stable_hash


@dataclasses.dataclass(frozen=True, eq=False)
class Oracle(Router):
    """The true gain quality_large - quality_small of each query; not deployable.

    ``fit`` stores the gains by query id and ``score`` looks them up, so fit it on the very
    queries it is to score; raises InputError for any other. Charged like any response-stage
    cascade, so that lines compare.
    Source: oracle order by q_L - q_S, the maximiser of the area under quality against
    deferral rate.
    """

    learned: ClassVar[bool] = True
    peeks: ClassVar[bool] = True
    gains_: dict[str, np.ndarray] | None = None

    def fit(self, inputs: Inputs, outcomes: Outcomes) -> Oracle:
        """Remember every query's gain."""
        key_U, first_U, of_N = np.unique(
            stable_hash(inputs.query_id), return_index=True, return_inverse=True
        )
        gain_U = outcomes.gain[first_U].astype(np.float64)
        if (gain_U[of_N] != outcomes.gain).any():
            raise InputError(
                "a query_id occurs twice with different gains; give each query its own id"
            )
        return dataclasses.replace(self, gains_={"key": key_U, "gain": gain_U})

    def score(self, inputs: Inputs) -> np.ndarray:
        """[N] true gains in [-1, 1]."""
        gains = mlp.fitted(self, self.gains_)
        key_U = gains["key"]
        key_N = stable_hash(inputs.query_id)
        place_N = np.minimum(np.searchsorted(key_U, key_N), len(key_U) - 1)
        unknown_N = key_U[place_N] != key_N
        if unknown_N.any():
            raise InputError(
                f"oracle: query {str(inputs.query_id[unknown_N][0])!r} was not among those it was "
                "fitted on; fit it on the queries it scores"
            )
        return gains["gain"][place_N]
