"""The bounds written one number at a time, for tests."""

import math


def slow_tail(errors, n, epsilon):
    """P(Bin(n, epsilon) <= errors) by its sum of terms, exact integers as far as they go."""
    terms = (math.comb(n, k) * epsilon**k * (1 - epsilon) ** (n - k) for k in range(errors + 1))
    return math.fsum(terms)


def slow_hoeffding_bentkus(total, n, epsilon):
    """The bound of the reference code, one number at a time."""
    rate = total / n
    y = min(rate, epsilon)
    first = y * math.log(y / epsilon) if y > 0 else 0.0
    rest = (1 - y) * math.log((1 - y) / (1 - epsilon))
    bentkus = math.e * slow_tail(math.ceil(total), n, epsilon)
    return min(math.exp(-n * (first + rest)), bentkus, 1.0)
