"""Out-of-fold scores: every query scored by a router that was fitted without it.

Letters: N queries.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int64

from routers.base import Inputs, Outcomes, Router
from routers.errors import InputError
from routers.features import stable_hash


def cross_fit(
    router: Router, inputs: Inputs, outcomes: Outcomes, folds: int = 5, seed: int = 0
) -> Float64[np.ndarray, " N"]:
    """Out-of-fold deferral scores: each fold scored by a copy fitted on the other folds.

    Use it where there is one honest split only, for instance because the small model was
    trained on the validation split: there it is over-confident, and a router fitted on it
    learns to trust it. Fit and judge on the untouched split instead, out of fold. It does *not*
    mend a split the small model has seen: what is over-confident there is the small model, not
    the router, and only a small model trained per fold would help. Scores of different folds
    come from different fits, so a threshold chosen on them is that of an average fold.

    A training-free router has nothing to learn and is asked directly.

    Args:
        folds: at least 2; every distinct query id is in exactly one.
        seed: of the assignment (``fold_of``).

    Raises:
        InputError: fewer than 2 folds, fewer distinct queries than folds, or a router that
            sees the outcomes.

    Source: cross-fitting as in stacking (Wolpert 1992); the assignment is our choice.
    """
    if router.peeks:
        raise InputError(
            f"{type(router).__name__} sees the outcomes; cross-fit a deployable router"
        )
    seen = inputs.at_stage(router.stage)
    if not router.learned:
        return router.score(seen)
    fold_N = fold_of(inputs.query_id, folds, seed)
    score_N = np.empty(len(inputs))
    for fold in range(folds):
        rest, held = np.flatnonzero(fold_N != fold), np.flatnonzero(fold_N == fold)
        fitted = router.fit(seen.take(rest), outcomes.take(rest))
        score_N[held] = fitted.score(seen.take(held))
    return score_N


def fold_of(query_id: np.ndarray, folds: int, seed: int = 0) -> Int64[np.ndarray, " N"]:
    """The fold of each query: the rank of hash(seed, query id) modulo ``folds``.

    Folds differ by at most one distinct query; a query id that occurs twice is in one fold; the
    order of the rows does not matter.

    Raises:
        InputError: fewer than 2 folds, or fewer distinct queries than folds.

    >>> sorted(fold_of(np.array(["a", "b", "c", "d"]), 2).tolist())
    [0, 0, 1, 1]
    """
    if folds < 2:
        raise InputError(f"folds is {folds}; give at least 2")
    distinct, rank_N = np.unique(stable_hash(query_id, seed), return_inverse=True)
    if len(distinct) < folds:
        raise InputError(
            f"{len(distinct)} distinct queries for {folds} folds; use fewer folds or another "
            "fit split"
        )
    return rank_N.astype(np.int64) % folds
