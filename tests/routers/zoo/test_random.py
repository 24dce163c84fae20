"""Random: worked by hand from the hash, uniform, tied to the id and the seed only."""

import hashlib

import numpy as np
import pytest
from planted import from_rows, planted

from routers.zoo.random import Random


@pytest.mark.parametrize(("seed", "row"), [(0, 0), (0, 1), (7, 2)])
def test_three_scores_by_hand(seed, row):
    inputs = from_rows(logprobs=[[-1.0]] * 3)
    digest = hashlib.blake2b(f"{seed}\0q{row}".encode(), digest_size=8).digest()
    want = (int.from_bytes(digest, "little") >> 11) / 2**53
    assert Random(seed=seed).score(inputs)[row] == want


def test_uniform_and_different_by_seed():
    inputs, _ = planted(5000)
    a, b = Random().score(inputs), Random(seed=1).score(inputs)
    assert (a >= 0).all()
    assert (a < 1).all()
    # Standard error of each: 0.004; of the correlation: 0.014.
    np.testing.assert_allclose(np.quantile(a, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.03)
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.06
