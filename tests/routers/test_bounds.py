"""Bounds against SciPy and sums of terms; numbers of queries against a search."""

import math

import numpy as np
import pytest
from scipy.stats import binom
from slow_bounds import slow_hoeffding_bentkus, slow_tail

from routers.bounds import (
    check_share,
    p_value,
    queries_needed,
    queries_needed_in_expectation,
)
from routers.errors import InputError


@pytest.mark.parametrize("n", [1, 7, 60, 400])
@pytest.mark.parametrize("epsilon", [0.003, 0.05, 0.5, 0.97])
def test_the_binomial_tail(n, epsilon):
    errors = np.arange(n + 1.0)
    got = p_value(errors, n, epsilon, "binomial")
    np.testing.assert_allclose(got, binom.cdf(errors, n, epsilon), rtol=1e-9, atol=1e-300)
    slow = [slow_tail(k, n, epsilon) for k in range(n + 1)]
    np.testing.assert_allclose(got, slow, rtol=1e-9, atol=1e-200)  # its powers underflow


@pytest.mark.parametrize("n", [1, 7, 60])
@pytest.mark.parametrize("epsilon", [0.05, 0.5, 0.97])
def test_hoeffding_bentkus(n, epsilon):
    totals = np.linspace(0, n, 4 * n + 1)
    got = p_value(totals, n, epsilon, "hoeffding_bentkus")
    slow = [slow_hoeffding_bentkus(total, n, epsilon) for total in totals.tolist()]
    np.testing.assert_allclose(got, slow, rtol=1e-9)
    assert (np.diff(got) >= -1e-12).all()  # more loss is never better evidence
    assert (got >= p_value(totals, n, epsilon, "binomial") * (1 - 1e-9))[::4].all()


@pytest.mark.parametrize("bound", ["binomial", "hoeffding_bentkus"])
def test_large_numbers_do_not_break_a_bound(bound):
    """Ten million queries, three standard deviations below epsilon: SciPy's own tail agrees."""
    n, epsilon = 10_000_000, 0.02
    errors = n * epsilon - 3 * math.sqrt(n * epsilon * (1 - epsilon))
    got = p_value(np.array([errors]), n, epsilon, bound)[0]
    tail = binom.cdf(math.ceil(errors), n, epsilon)
    assert tail == pytest.approx(0.00135, rel=0.01)  # the normal tail
    # exp(-9 / 2) and e times the tail: the second is the smaller
    assert got == pytest.approx(tail * (1 if bound == "binomial" else math.e), rel=1e-6)


@pytest.mark.parametrize("epsilon", [0.3, 0.05, 0.01])
@pytest.mark.parametrize("delta", [0.5, 0.01])
@pytest.mark.parametrize("bound", ["binomial", "hoeffding_bentkus"])
def test_queries_needed_without_a_loss(epsilon, delta, bound):
    """Closed form against a search: the least n with (1 - epsilon)^n <= delta."""
    least = next(n for n in range(1, 10_000) if slow_tail(0, n, epsilon) <= delta)
    assert queries_needed(0.0, epsilon, delta, bound) == least
    assert slow_hoeffding_bentkus(0.0, least, epsilon) <= delta
    mean = next(n for n in range(1, 10_000) if 1 / (n + 1) <= epsilon + 1e-12)
    assert queries_needed_in_expectation(0.0, epsilon) == mean


@pytest.mark.parametrize("rate", [0.002, 0.01, 0.04])
@pytest.mark.parametrize("bound", ["binomial", "hoeffding_bentkus"])
@pytest.mark.parametrize("delta", [0.5, 0.05])
def test_queries_needed_at_a_rate(rate, bound, delta):
    """A search over every n finds the same, up to the steps that whole losses make."""
    epsilon = 0.05
    needed = queries_needed(rate, epsilon, delta, bound)
    n = np.arange(1, 3 * needed)
    if bound == "binomial":
        p = binom.cdf(np.ceil(rate * n), n, epsilon)
    else:
        p = np.array([slow_hoeffding_bentkus(rate * int(k), int(k), epsilon) for k in n[:3000]])
        n = n[:3000]
    first, always = int(n[p <= delta].min()), int(n[p > delta].max()) + 1
    assert first <= needed <= always
    assert p[needed - 1] <= delta


@pytest.mark.parametrize("rate", [0.002, 0.01, 0.04, 0.0499])
def test_queries_needed_on_average(rate):
    needed = queries_needed_in_expectation(rate, 0.05)
    assert (rate * needed + 1) / (needed + 1) <= 0.05 + 1e-12
    assert (rate * (needed - 1) + 1) / needed > 0.05


@pytest.mark.parametrize("rate", [0.05, 0.3])
def test_no_number_of_queries_helps_a_loss_above_the_promise(rate):
    assert queries_needed(rate, 0.05, 0.05, "binomial") is None
    assert queries_needed_in_expectation(rate, 0.05) is None


def test_a_share_lies_between_zero_and_one():
    check_share("delta", 0.5)
    for value in (0.0, 1.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match=r"^delta .* is not between 0 and 1"):
            check_share("delta", value)
