"""Whether thresholds chosen on validation can be trusted on the test split.

A threshold fixes a deferral rate only as long as scores are distributed as they were. The largest
gap between the two distribution functions (Kolmogorov-Smirnov) is exactly the largest miss of a
deferral rate over all thresholds, so it is the figure the verdict goes by.

SciPy is imported where it is used. Letters: N validation queries, M test queries, T tasks.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import numpy as np
from jaxtyping import Float, Shaped

from routers.curves import check_score
from routers.errors import InputError

Verdict = Literal["stable", "slight", "shifted", "too few"]
LEVEL = 0.05
SMALL = 0.05  # a miss of the deferral rate up to here is slight (our choice)
UNSEEN = 0.1  # with a larger critical distance, "no drift found" would mean little (our choice)
CRITICAL = 1.3580986  # the 95 % point of the Kolmogorov distribution


@dataclasses.dataclass(frozen=True)
class ScoreDrift:
    """One router's scores on two splits.

    ``distance``: the largest difference in deferral rate between the splits, over all
    thresholds. ``p``: of a distance as large without drift. ``visible``: the least distance that
    would be significant. ``psi``: population stability index.
    """

    distance: float
    p: float
    visible: float
    psi: float
    verdict: Verdict

    @property
    def sentence(self) -> str:
        """What it means for thresholds."""
        found = f"p = {self.p:.2g}, PSI {self.psi:.3f}"
        miss = f"deferral rates are missed by up to {self.distance:.3f}"
        return {
            "stable": f"thresholds can be trusted: {miss}, which chance explains ({found})",
            "slight": f"thresholds hold about: {miss} ({found})",
            "shifted": f"do not trust thresholds: {miss} ({found}); choose them on queries like "
            "those of the test split",
            "too few": f"too few queries to tell: {miss}, and up to {self.visible:.3f} would pass "
            f"for chance ({found})",
        }[self.verdict]


@dataclasses.dataclass(frozen=True)
class TaskDrift:
    """The mix of tasks in two splits.

    ``distance``: total variation, the share of queries that would have to change task. ``p``: of
    a difference as large if both splits were drawn from one pool.
    """

    distance: float
    p: float

    @property
    def sentence(self) -> str:
        """What it means for pooled thresholds."""
        found = f"{self.distance:.3f} of the queries, p = {self.p:.2g}"
        if self.p > LEVEL:
            return f"the task mix is the same as far as can be told ({found})"
        return f"the task mix differs ({found}); choose thresholds per task"


def score_drift(
    validation: Float[np.ndarray, " N"], test: Float[np.ndarray, " M"], name: str = "this router"
) -> ScoreDrift:
    """Two-sample Kolmogorov-Smirnov test, stability index, and a verdict on thresholds.

    ``D = max_t |P(s >= t on validation) - P(s >= t on test)|``; p from the limiting
    distribution, which errs towards "no drift" with few queries or tied scores. A learned router
    that was fitted on these validation queries scores them unlike any others: then this finds
    overfitting as well as drift, and both spoil thresholds.

    The verdict: ``stable`` if p > .05 (``too few`` if a distance of .1 would not have been
    significant), otherwise ``slight`` up to D = .05 and ``shifted`` beyond. With many queries p
    alone condemns harmless drifts.

    Raises:
        InputError: a split without queries, or a score that is not finite.

    Source: Smirnov (1948); the verdict is our choice.
    """
    from scipy.special import kolmogorov

    for score in (validation, test):
        check_score(score, len(score), name)
    ours, theirs = np.sort(validation), np.sort(test)
    value = np.concatenate([ours, theirs])
    below_ours = np.searchsorted(ours, value, side="right") / len(ours)
    below_theirs = np.searchsorted(theirs, value, side="right") / len(theirs)
    distance = float(np.abs(below_ours - below_theirs).max())
    scale = math.sqrt(len(ours) * len(theirs) / (len(ours) + len(theirs)))
    p, visible = float(kolmogorov(scale * distance)), min(1.0, CRITICAL / scale)
    index = population_stability_index(validation, test)
    return ScoreDrift(distance, p, visible, index, _verdict(distance, p, visible))


def population_stability_index(
    expected: Float[np.ndarray, " N"], actual: Float[np.ndarray, " M"], bins: int = 10
) -> float:
    """``sum_b (a_b - e_b) ln(a_b / e_b)`` over quantile bins of the expected scores, in nats.

    Rule of thumb: below .1 stable, above .25 shifted. Without drift its mean is about
    ``(bins - 1) (1/N + 1/M)``, so with few queries the rule raises false alarms. Tied quantiles
    merge their bins; each count is raised by 1/2 so that an empty bin stays finite (our choice).

    Source: Siddiqi, Credit Risk Scorecards (2006).

    >>> population_stability_index(np.arange(100.0), np.arange(100.0))
    0.0
    """
    edges = np.unique(np.quantile(expected, np.arange(1, bins) / bins))
    size = len(edges) + 1
    e, a = (
        np.bincount(np.searchsorted(edges, score, side="right"), minlength=size)
        for score in (expected, actual)
    )
    used = e + a > 0
    e, a = e[used] + 0.5, a[used] + 0.5
    e, a = e / e.sum(), a / a.sum()
    return float(np.sum((a - e) * np.log(a / e)))


def task_drift(
    validation: Shaped[np.ndarray, " N"],
    test: Shaped[np.ndarray, " M"],
    *,
    permutations: int = 10_000,
    seed: int = 0,
) -> TaskDrift:
    """Chi-square statistic of the splits' task counts, p by permuting queries between splits.

    The permutation distribution of the counts is multivariate hypergeometric, so rare tasks
    need no pooling and no query is moved.

    Raises:
        InputError: a split without queries.

    Source: Pearson (1900); Monte Carlo p-value, Phipson and Smyth (2010).
    """
    if not len(validation) or not len(test):
        raise InputError("no queries to compare task mixes; check the split and task filters")
    tasks, at = np.unique(np.concatenate([validation, test]), return_inverse=True)
    total_T = np.bincount(at, minlength=len(tasks))
    ours_T = np.bincount(at[: len(validation)], minlength=len(tasks))
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(3,)))
    drawn_PT = rng.multivariate_hypergeometric(
        total_T, len(validation), size=permutations, method="marginals"
    )
    expected_T = total_T * (len(validation) / len(at))
    # Both rows of the table deviate alike: chi-square is this sum times a constant.
    found = float(np.sum((ours_T - expected_T) ** 2 / expected_T))
    reached = ((drawn_PT - expected_T) ** 2 / expected_T).sum(axis=1) >= found * (1 - 1e-9)
    shares = ours_T / len(validation) - (total_T - ours_T) / len(test)
    p = (1 + int(reached.sum())) / (permutations + 1)
    return TaskDrift(float(np.abs(shares).sum()) / 2, p)


def _verdict(distance: float, p: float, visible: float) -> Verdict:
    if p > LEVEL:
        return "stable" if visible <= UNSEEN else "too few"
    return "slight" if distance <= SMALL else "shifted"
