"""Bounds on a risk from losses in [0, 1], and how many queries they need.

SciPy is imported where it is used: deciding needs NumPy alone. Letters: J sums of losses.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from jaxtyping import Float, Float64

from routers.errors import InputError

Bound = Literal["binomial", "hoeffding_bentkus"]
ROUNDING = 1e-12  # relative; far below any effect on a promise


def p_value(
    total: Float[np.ndarray, "*J"], queries: int, epsilon: float, bound: Bound
) -> Float64[np.ndarray, "*J"]:
    """The p-value of "the risk is above epsilon" when N losses in [0, 1] sum to ``total``.

    binomial (losses 0 or 1)::

        P(Bin(N, epsilon) <= total)

    hoeffding_bentkus (losses in [0, 1]), r = total / N, h(a, b) the relative entropy in nats of
    a coin of bias a to one of bias b::

        min(exp(-N h(min(r, epsilon), epsilon)), e P(Bin(N, epsilon) <= ceil(total)), 1)

    Source: Bates et al., Distribution-Free, Risk-Controlling Prediction Sets (2101.02703);
    Angelopoulos et al., Learn then Test (2110.01052), ``core/bounds.py`` of its code.

    >>> p_value(np.array([0.0]), 29, 0.1, "binomial").round(4).tolist()  # 0.9 ** 29
    [0.0471]
    """
    from scipy.special import bdtr, rel_entr

    tail_J = bdtr(np.minimum(np.ceil(total), queries), queries, epsilon)
    if bound == "binomial":
        return tail_J
    rate_J = np.minimum(total / queries, epsilon)
    entropy_J = rel_entr(rate_J, epsilon) + rel_entr(1 - rate_J, 1 - epsilon)
    return np.minimum(np.minimum(np.exp(-queries * entropy_J), math.e * tail_J), 1.0)


def queries_needed(rate: float, epsilon: float, delta: float, bound: Bound) -> int | None:
    """About how many queries ``learn_then_test`` needs where the observed risk is ``rate``.

    The bound inverted at that rate; its steps, as losses come in whole numbers, make that "about".
    Exact where nothing is lost, ``n >= ln(delta) / ln(1 - epsilon)``. None where
    ``rate >= epsilon``: no number of queries would do.

    >>> queries_needed(0.0, 0.01, 0.05, "binomial"), queries_needed(0.02, 0.01, 0.05, "binomial")
    (299, None)
    """
    if rate >= epsilon:
        return None

    def suffice(queries: int) -> bool:
        p_1 = p_value(np.array([rate * queries]), queries, epsilon, bound)
        return bool(p_1[0] <= delta)

    too_few, enough = 0, 1
    while not suffice(enough):
        too_few, enough = enough, 2 * enough
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        too_few, enough = (too_few, middle) if suffice(middle) else (middle, enough)
    return enough


def queries_needed_in_expectation(rate: float, epsilon: float) -> int | None:
    """Queries that suffice for ``conformal_risk_control``: ``n (epsilon - rate) >= 1 - epsilon``.

    None where ``rate >= epsilon``.

    >>> queries_needed_in_expectation(0.0, 0.05)
    19
    """
    if rate >= epsilon:
        return None
    return math.ceil((1 - epsilon) / (epsilon - rate) * (1 - ROUNDING))


def check_share(what: str, value: float) -> None:
    """Raise InputError unless the value lies strictly between 0 and 1."""
    if not 0 < value < 1:
        raise InputError(f"{what} {value} is not between 0 and 1; 0.05 means five percent")
