"""Stacking: a learned rule over the scores of other routers."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from routers import mlp, trees
from routers.base import Inputs, Outcomes, Router
from routers.crossfit import cross_fit
from routers.errors import InputError
from routers.nested import charged, joined, members, pack, part, unpack


@dataclasses.dataclass(frozen=True, eq=False)
class Stack(Router):
    """Predicted gain from the deferral scores of other routers.

    score = g(s_1(x), ..., s_m(x)), g 100 boosted trees of depth 3 fitted to q_L - q_S by
    squared error. Learned members are cross-fitted inside ``fit``: g learns from scores of
    members that had not seen the query (``folds`` of them), and then each member is fitted on
    all. ``members`` are specs joined by ``+``, the fields of one by ``;``:
    ``stack:members=chow_average+knn:k=10+length``. Every member's FLOPs are charged, and the
    small model's, even where all members read only the prompt. With fewer than 20 fitting
    queries, or all alike, the score is a constant. Raises InputError for a member that sees the
    outcomes, an unknown one, one named twice, and fewer than 2 folds.

    Source: stacked generalisation (Wolpert 1992); the members, the trees and 5 folds are our
    choice.
    """

    learned: ClassVar[bool] = True
    members: str = "chow_average+margin+knn"
    folds: int = 5
    seed: int = 0
    weights_: dict[str, np.ndarray] | None = None

    def __post_init__(self) -> None:
        members(self.members, "stack")  # raises now rather than in ``fit``
        if self.folds < 2:
            raise InputError(f"stack: folds is {self.folds}; give at least 2")

    def charged(self, embedding_flops: int) -> Stack:
        """Its members charged once per prompt token for the embedding, if any of them reads it."""
        return dataclasses.replace(self, members=charged(self.members, "stack", embedding_flops))

    def fit(self, inputs: Inputs, outcomes: Outcomes) -> Stack:
        """Fit the rule on out-of-fold scores, then every member on all queries."""
        target_N, loss = mlp.target(outcomes, "gain")
        routers = members(self.members, "stack")
        whole = [r.fit(inputs.at_stage(r.stage), outcomes) for r in routers]
        if mlp.learnable(target_N):
            columns = [cross_fit(r, inputs, outcomes, self.folds, self.seed) for r in routers]
        else:
            columns = [r.score(inputs.at_stage(r.stage)) for r in whole]  # the rule is a constant
        rule = trees.train(np.column_stack(columns), target_N, loss, self.seed)
        weights = joined({"rule": rule, "member": pack(whole)})
        return dataclasses.replace(self, weights_=weights)

    def score(self, inputs: Inputs) -> np.ndarray:
        """[N] predicted gains."""
        weights = mlp.fitted(self, self.weights_)
        columns = [r.score(inputs.at_stage(r.stage)) for r in self._members(weights)]
        return trees.predict(part(weights, "rule"), np.column_stack(columns))

    def flops_per_query(self, inputs: Inputs) -> np.ndarray:
        """[N] what the members spend, and the trees' comparisons and additions."""
        weights = mlp.fitted(self, self.weights_)
        spent = [r.flops_per_query(inputs.at_stage(r.stage)) for r in self._members(weights)]
        return np.sum(spent, axis=0) + trees.flops(part(weights, "rule"))

    def _members(self, weights: mlp.Arrays) -> list[Router]:
        """The members as they were fitted."""
        return unpack(members(self.members, "stack"), part(weights, "member"))
