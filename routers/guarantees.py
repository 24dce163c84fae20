"""Thresholds that bound the quality a cascade loses, with a promise about queries to come.

Keeping the small model's answer to a query loses ``max(0, q_L - q_S)``, and nothing where the
small model is at least as good. The loss and the risk of the threshold tau are

    loss_i(tau) = max(0, q_L,i - q_S,i) 1[score_i < tau]        R(tau) = E[loss(tau)]

A win of the small model is not set off against a loss elsewhere, so R is never below the net
difference E[(q_L - q_S) 1[kept]]: where R(tau) <= epsilon, the cascade's mean quality is within
epsilon of the large model's, and often better. The net difference itself is not offered: it
is not monotone in tau, and mapped to [0, 1] it lies near 1/2, where bounds need queries of the
order of 1 / epsilon^2 instead of 1 / epsilon.

Which thresholds are tested? All real numbers, from -inf (send on everything, loss 0) upwards:
a family fixed before any data are seen. The p-value of a threshold changes only where tau passes
a score of the calibration queries, so looking at those finds the largest accepted one; it does
not choose the family. No correction for their number is needed, because the loss of every query
is monotone in tau: R is monotone and continuous from the left, the thresholds with
R(tau) > epsilon are all those above some fixed number tau*, and to accept any of them the walk
must first have accepted thresholds just above tau*, each of which a valid test accepts with
probability at most delta.

The promise is about queries drawn like the calibration queries, for a router that has not seen
the calibration labels. Letters: N queries, G distinct scores, J = G + 1 thresholds, the j-th
keeping the queries of the j lowest scores.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float, Float64, Int64, Shaped

from routers.base import Outcomes
from routers.bounds import (
    ROUNDING,
    Bound,
    check_share,
    p_value,
    queries_needed,
    queries_needed_in_expectation,
)
from routers.curves import check_score
from routers.errors import InputError


class NotSupported(InputError):
    """The data cannot support the promise; ``more`` queries like these could (None: none can)."""

    def __init__(self, message: str, more: int | None) -> None:
        super().__init__(message)
        self.more = more


@dataclasses.dataclass(frozen=True)
class Certified:
    """The largest threshold that is promised, and what was seen there.

    Args:
        threshold: keep iff ``score < threshold``; +inf = every query may be kept.
        kept: share of the calibration queries that it keeps, above 0.
        loss: their mean loss over all calibration queries, in the unit of quality.
    """

    threshold: float
    kept: float
    loss: float


def quality_lost(outcomes: Outcomes) -> Float64[np.ndarray, " N"]:
    """What keeping each small answer loses: ``max(0, q_L - q_S)``, in [0, 1].

    >>> quality_lost(Outcomes(*np.array([[1.0, 0.2], [0.0, 0.7], [1.0, 1.0], [9.0, 9.0]]))).tolist()
    [0.0, 0.49999999999999994]
    """
    return np.maximum(np.asarray(outcomes.gain, np.float64), 0.0)


def fixed_sequence(p_J: Float[np.ndarray, " J"], delta: float) -> int:
    """How many hypotheses, tested in this order, are rejected before the first that is not.

    Each is tested at the full level delta; the chance of one false rejection is at most delta if
    the order was fixed beforehand.

    Source: fixed-sequence testing as in Learn then Test (2110.01052).

    >>> fixed_sequence(np.array([0.01, 0.04, 0.2, 0.01]), 0.05), fixed_sequence(np.zeros(3), 0.05)
    (2, 3)
    """
    failed = np.flatnonzero(~(p_J <= delta))
    return int(failed[0]) if len(failed) else len(p_J)


def learn_then_test(
    score: Shaped[np.ndarray, " N"],
    loss: Float[np.ndarray, " N"],
    *,
    epsilon: float,
    delta: float,
    bound: Bound,
) -> Certified:
    """The largest threshold with ``P(R(threshold) <= epsilon) >= 1 - delta``.

    The probability is over the calibration queries, which must be independent draws of the
    queries to come.

    Args:
        score: [N] deferral scores of the calibration queries, higher = send on.
        loss: [N] what keeping each would lose (``quality_lost``), in [0, 1].
        epsilon: greatest risk, in (0, 1), in the unit of quality.
        delta: greatest probability that the promise fails, in (0, 1).
        bound: ``binomial`` only where every loss, also of queries to come, is 0 or 1.

    Raises:
        NotSupported: no threshold that keeps a query can be promised; says how many more
            queries could.
        InputError: an epsilon or delta outside its range, or scores that are not finite.

    Source: Learn then Test (2110.01052) with fixed-sequence testing; that no grid is needed for
    a monotone loss is the argument of 2101.02703, given at the top of this file.

    >>> score, loss = np.arange(100.0), np.append(np.zeros(90), np.ones(10))
    >>> learn_then_test(score, loss, epsilon=0.05, delta=0.05, bound="binomial")
    Certified(threshold=91.0, kept=0.91, loss=0.01)
    """
    check_share("max quality loss", epsilon)
    check_share("delta", delta)
    threshold_J, kept_J, total_J = _levels(score, loss, bound)
    accepted = fixed_sequence(p_value(total_J, len(score), epsilon, bound), delta)
    if accepted < 2:  # the first threshold keeps none of these queries
        raise _not_supported(
            f"a quality loss of at most {epsilon:.4g} with probability {1 - delta:.4g}",
            (kept_J, total_J),
            epsilon,
            queries_needed(0.0, epsilon, delta, bound),
            queries_needed(total_J[1] / len(score), epsilon, delta, bound),
        )
    return _certified(accepted - 1, threshold_J, kept_J, total_J)


def conformal_risk_control(
    score: Shaped[np.ndarray, " N"], loss: Float[np.ndarray, " N"], *, epsilon: float
) -> Certified:
    """The largest threshold with ``E[loss of the next query] <= epsilon``.

    The expectation is over the calibration queries too: over many calibrations the mean risk is
    at most epsilon, any one of them may be above. Keep the largest set whose losses obey

        (sum of losses + 1) / (N + 1) <= epsilon

    All thresholds pass: +inf, keep every query. (The reference code takes ``argmax`` of an
    array that is then False throughout, and returns the opposite end.)

    Arguments and errors as in ``learn_then_test``; the queries need only be exchangeable.

    Source: Angelopoulos et al., Conformal Risk Control (2208.02814), with B = 1.

    >>> score, loss = np.arange(99.0), np.append(np.zeros(90), np.ones(9))
    >>> conformal_risk_control(score, loss, epsilon=0.05).threshold
    94.0
    """
    check_share("max quality loss", epsilon)
    threshold_J, kept_J, total_J = _levels(score, loss, "hoeffding_bentkus")
    queries = len(score)
    allowed = epsilon * (queries + 1) * (1 + ROUNDING)  # 0.07 * 100 is meant to be 7
    over = np.flatnonzero(total_J + 1.0 > allowed)
    accepted = int(over[0]) if len(over) else len(total_J)
    if accepted < 2:
        raise _not_supported(
            f"a mean quality loss of at most {epsilon:.4g}",
            (kept_J, total_J),
            epsilon,
            queries_needed_in_expectation(0.0, epsilon),
            queries_needed_in_expectation(total_J[1] / queries, epsilon),
        )
    return _certified(accepted - 1, threshold_J, kept_J, total_J)


def _levels(
    score: np.ndarray, loss: np.ndarray, bound: Bound
) -> tuple[Float64[np.ndarray, " J"], Int64[np.ndarray, " J"], Float64[np.ndarray, " J"]]:
    """The J thresholds between distinct scores, rising; queries kept, and the sum of their losses.

    Every threshold in (u_j, u_j+1] keeps the same queries; the right end stands for all of them.
    """
    check_score(score, len(loss), "calibration")
    allowed = np.isin(loss, (0.0, 1.0)) if bound == "binomial" else (loss >= 0) & (loss <= 1)
    if not allowed.all():
        raise InputError(
            f"a loss of {loss[~allowed][0]:.4g} does not fit the bound '{bound}'; use "
            "hoeffding_bentkus for losses in [0, 1]"
        )
    order = np.argsort(score, kind="stable")
    rising = score[order].astype(np.float64)
    end = np.flatnonzero(np.append(rising[1:] != rising[:-1], True)) + 1
    kept_J = np.concatenate([[0], end]).astype(np.int64)
    total_J = np.concatenate([[0.0], np.cumsum(loss[order], dtype=np.float64)])[kept_J]
    threshold_J = np.append(rising[kept_J[:-1]], np.inf)
    return threshold_J, kept_J, total_J


def _certified(
    level: int, threshold_J: np.ndarray, kept_J: np.ndarray, total_J: np.ndarray
) -> Certified:
    queries = kept_J[-1]
    return Certified(
        float(threshold_J[level]), float(kept_J[level] / queries), float(total_J[level] / queries)
    )


def _not_supported(
    promise: str,
    levels: tuple[np.ndarray, np.ndarray],
    epsilon: float,
    at_best: int | None,
    at_rate: int | None,
) -> NotSupported:
    """The refusal: too few for any promise, too few at the loss seen, or no number would do."""
    kept_J, total_J = levels
    queries = int(kept_J[-1])
    start = f"{queries:,} calibration queries cannot promise {promise}"
    assert at_best is not None
    if queries < at_best:
        more = at_best - queries
        return NotSupported(
            f"{start}: even if none lost anything that takes {at_best:,}; log {more:,} more, or "
            "promise less",
            more,
        )
    seen = (
        f"keeping only the {kept_J[1]:,} with the lowest score loses {total_J[1] / queries:.4g} "
        "a query"
    )
    if at_rate is None:
        return NotSupported(
            f"{start}: {seen}, so more queries would not help; promise less, or choose a router "
            "that ranks better",
            None,
        )
    more = max(at_rate - queries, 1)
    return NotSupported(
        f"{start}: {seen}; at that rate it takes about {at_rate:,}, log {more:,} more or promise "
        "less",
        more,
    )
