"""How many queries it takes to see a difference between two routers.

The normal approximation with the paired standard deviation of a comparison already made. The
effect is one that would *matter*, chosen beforehand: the power at the observed difference says
nothing that its p-value does not.

Source: two-sided test of a mean, e.g. Cohen (1988), chapter 2.
"""

from __future__ import annotations

import math
from statistics import NormalDist

from routers.bounds import check_share
from routers.errors import InputError

POWER, LEVEL = 0.8, 0.05


def queries_for_difference(
    per_query: float, difference: float, *, power: float = POWER, level: float = LEVEL
) -> int | None:
    """Queries at which a difference is found significant with that probability.

    ``n = ((z_{1 - level/2} + z_power) s / x)^2``, rounded up.

    Args:
        per_query: s, from ``significance.compare``: paired, so it shrinks as routers agree.
        difference: x > 0 in the unit of the area, e.g. 0.01.
        level: of one two-sided comparison, not corrected for others.

    Returns:
        n, or None where s is 0: the two rankings never differ.

    Raises:
        InputError: a difference that is not positive, or a share not between 0 and 1.

    >>> queries_for_difference(0.2, 0.01)  # 7.849 * 400
    3140
    """
    check_difference(difference)
    return math.ceil((_deviates(power, level) * per_query / difference) ** 2) or None


def detectable_difference(
    per_query: float, queries: int, *, power: float = POWER, level: float = LEVEL
) -> float:
    """The difference these queries show with that power: ``(z + z) s / sqrt(n)``.

    >>> round(detectable_difference(0.2, 3140), 4)
    0.01
    """
    return _deviates(power, level) * per_query / math.sqrt(queries)


def check_difference(difference: float) -> None:
    """Raise InputError unless it is positive and finite."""
    if not (difference > 0 and math.isfinite(difference)):
        raise InputError(f"difference {difference} to look for; give a positive one such as 0.01")


def _deviates(power: float, level: float) -> float:
    check_share("power", power)
    check_share("level", level)
    normal = NormalDist()
    return normal.inv_cdf(1 - level / 2) + normal.inv_cdf(power)
