"""A ready-made deferral score as a router: the records column ``score:<name>``."""

from __future__ import annotations

import dataclasses

import numpy as np

from routers.base import Inputs, Router
from routers.errors import InputError

PREFIX = "score"
"""``score:<name>`` is written where another router's ``name:field=value`` would be."""


@dataclasses.dataclass(frozen=True)
class Column(Router):
    """A ready-made deferral score: the records column ``score:<name>``, higher = send on.

    Charged as a response-stage rule that costs nothing itself. Source: our choice.
    """

    name: str = ""

    def score(self, inputs: Inputs) -> np.ndarray:
        """The column, or InputError where these queries lack it."""
        if self.name not in inputs.scores:
            raise InputError(
                f"records lack column '{PREFIX}:{self.name}' for these queries; fill it in"
            )
        return inputs.scores[self.name]
