"""The stable order against NumPy's own stable argsort, on everything that could upset it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from routers.sorting import stable_order

RNG = np.random.default_rng(0)
MANY = 20_000
CASES = {
    "uniform": RNG.random(MANY),
    "normal": RNG.normal(size=MANY),
    "heavy tails": RNG.standard_cauchy(MANY) ** 3,
    "few distinct": RNG.integers(0, 5, MANY) / 5,
    "all equal": np.full(MANY, 0.3),
    "two values": (RNG.random(MANY) < 0.5).astype(float),
    "one outlier": np.append(RNG.random(MANY), 1e300),  # every other value on one level
    "outlier and ties": np.append(RNG.integers(0, 9, MANY) / 9, -1e300),
    "neighbouring floats": 1.0 + RNG.integers(0, 400, MANY) * np.spacing(1.0),
    "clusters of neighbours": RNG.integers(0, 9, MANY) + RNG.integers(0, 4, MANY) * 2.0**-50,
    "denormal": RNG.integers(-40, 40, MANY) * 5e-324,
    "further apart than a float": RNG.choice([-1.7e308, 0.0, 1.7e308], MANY),
    "signed zeros": RNG.choice([-0.0, 0.0, 1.0], MANY),
    "rising": np.arange(MANY) / 7,
    "falling": -np.arange(MANY) / 7,
    "float32": RNG.random(MANY).astype(np.float32),
    "int": RNG.integers(-50, 50, MANY),
    "int beyond floats": 2**62 + RNG.integers(0, 1000, MANY),
    "int from end to end": RNG.integers(-(2**63), 2**63 - 1, MANY),
    "bool": RNG.random(MANY) < 0.3,
    "infinities": RNG.choice([-np.inf, 0.5, np.inf], MANY),
    "nan": RNG.choice([np.nan, 0.5, 0.1], MANY),
    "one": np.array([3.0]),
    "two": np.array([3.0, 1.0]),
    "none": np.zeros(0),
}


@pytest.mark.parametrize("values", CASES.values(), ids=CASES)
def test_equals_the_stable_argsort(values):
    before = values.copy()
    order, rising = stable_order(values)
    want = np.argsort(values, kind="stable")
    np.testing.assert_array_equal(order, want)
    np.testing.assert_array_equal(rising, values[want])
    assert rising.dtype == values.dtype
    np.testing.assert_array_equal(values, before)  # the argument is unchanged


@settings(max_examples=200, deadline=None)
@given(
    arrays.arrays(
        np.float64,
        st.integers(0, 60),
        elements=st.floats(allow_nan=False) | st.sampled_from([0.0, 0.5, 0.5 + 2**-53, 1e300]),
    )
)
def test_equals_the_stable_argsort_on_any_floats(values):
    np.testing.assert_array_equal(stable_order(values)[0], np.argsort(values, kind="stable"))


@settings(max_examples=100, deadline=None)
@given(arrays.arrays(np.int64, st.integers(0, 60)))
def test_equals_the_stable_argsort_on_any_integers(values):
    np.testing.assert_array_equal(stable_order(values)[0], np.argsort(values, kind="stable"))


def test_levels_too_coarse_are_put_right():
    """So many rows that pairs share a level although no two values are equal."""
    values = np.random.default_rng(1).permutation(300_000) * 2.0**-60
    values[0] = 1.0
    order, _ = stable_order(values)
    np.testing.assert_array_equal(order, np.argsort(values, kind="stable"))
