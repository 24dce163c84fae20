"""The number of queries suggested: against the z-test's power, and in simulation."""

import make
import numpy as np
import pytest
from scipy import stats

from routers.curves import rank
from routers.errors import InputError
from routers.power import detectable_difference, queries_for_difference
from routers.significance import compare, permutation_p


def z_test_power(effect, sd, queries, level):
    """Chance that a two-sided z-test of a mean rejects on the side of the effect."""
    return stats.norm.sf(stats.norm.isf(level / 2) - effect * np.sqrt(queries) / sd)


@pytest.mark.parametrize("sd", [0.05, 0.3])
@pytest.mark.parametrize("effect", [0.004, 0.05])
@pytest.mark.parametrize(("power", "level"), [(0.8, 0.05), (0.95, 0.01)])
def test_it_is_the_least_number_with_that_power(sd, effect, power, level):
    n = queries_for_difference(sd, effect, power=power, level=level)
    assert z_test_power(effect, sd, n, level) >= power
    assert z_test_power(effect, sd, n - 1, level) < power
    least = detectable_difference(sd, n, power=power, level=level)
    assert z_test_power(least, sd, n, level) == pytest.approx(power, abs=1e-12)
    assert least <= effect


def test_half_the_difference_takes_four_times_the_queries():
    small, large = (queries_for_difference(0.2, x) for x in (0.005, 0.01))
    assert small / large == pytest.approx(4, rel=1e-3)


def test_rankings_that_never_differ_need_no_number():
    assert queries_for_difference(0.0, 0.01) is None
    assert detectable_difference(0.0, 100) == 0.0


@pytest.mark.parametrize("difference", [0.0, -0.1, np.nan, np.inf])
def test_a_difference_to_look_for_is_positive(difference):
    with pytest.raises(InputError, match="give a positive one"):
        queries_for_difference(0.1, difference)


@pytest.mark.parametrize("shares", [{"power": 1.0}, {"level": 0.0}])
def test_shares_lie_between_0_and_1(shares):
    with pytest.raises(InputError, match="is not between 0 and 1"):
        queries_for_difference(0.1, 0.01, **shares)


def draw(queries, rng, noise=0.45):
    """A calibrated score, and the same under noise."""
    score, outcomes = make.calibrated(queries, rng)
    return rank(score, outcomes), rank(score + noise * rng.normal(size=queries), outcomes)


def test_at_the_suggested_number_the_power_is_what_was_asked():
    """A pilot of 2,000 queries suggests n; 400 fresh sets of n find the true difference.

    The standard error of a rate of .8 over 400 sets is .02; the band allows three of them, and
    .03 on each side for the pilot's own error in s (a tenth of n) and the normal approximation.
    """
    rng = np.random.default_rng(0)
    better, worse = draw(200_000, rng)
    truth = np.subtract(
        *(np.trapezoid(c.quality, c.deferral_rate) for c in (better.curve(), worse.curve()))
    )
    pilot = dict(zip("ab", draw(2000, rng), strict=True))
    _, (found,) = compare(pilot, resamples=400, permutations=50)
    n = queries_for_difference(found.per_query, truth)
    assert 50 < n < 500
    p = [permutation_p(*draw(n, rng), permutations=199, seed=k) for k in range(400)]
    assert 0.71 <= np.mean(np.array(p) <= 0.05) <= 0.89
