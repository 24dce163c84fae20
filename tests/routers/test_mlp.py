"""The NumPy perceptron against a loop; targets and constants by hand."""

import math

import numpy as np
import pytest
from planted import planted

from routers import mlp
from routers.base import Outcomes
from routers.errors import InputError


def outcomes_of(small, large):
    small, large = np.array(small, np.float32), np.array(large, np.float32)
    return Outcomes(small, large, np.ones(len(small)), np.ones(len(small)))


def test_the_gain_is_regressed_and_a_fix_is_classified():
    binary, graded = outcomes_of([0, 0, 1, 1], [0, 1, 0, 1]), outcomes_of([0.5, 0], [0.25, 1])
    for outcomes, gain, fixes in (
        (binary, [0.0, 1.0, -1.0, 0.0], [0.0, 1.0, 0.0, 0.0]),
        (graded, [-0.25, 1.0], [0.0, 1.0]),
    ):
        target, loss = mlp.target(outcomes, "gain")
        assert (target.tolist(), loss) == (gain, "squared")
        target, loss = mlp.target(outcomes, "fixes")
        assert (target.tolist(), loss) == (fixes, "bce")


def test_the_gain_ranks_where_fixes_alone_would_mislead():
    # Half of the queries: the large model fixes .5 and spoils .45; the others: fixes .3.
    rng = np.random.default_rng(0)
    hard = np.repeat([True, False], 5_000)
    draw = rng.random(len(hard))
    small = np.where(hard, (draw > 0.5) & (draw < 0.95), draw > 0.3)
    large = np.where(hard, draw <= 0.5, True)
    outcomes = outcomes_of(small, large)
    gain, _ = mlp.target(outcomes, "gain")
    fixes, _ = mlp.target(outcomes, "fixes")
    assert fixes[hard].mean() > fixes[~hard].mean()
    assert gain[hard].mean() < gain[~hard].mean()


def test_nothing_to_fit_on_is_refused():
    with pytest.raises(InputError, match="no queries to fit"):
        mlp.target(outcomes_of([], []), "gain")


def test_learnable_needs_rows_and_two_values():
    assert not mlp.learnable(np.tile([0.0, 1.0], 9))
    assert not mlp.learnable(np.ones(500))
    assert mlp.learnable(np.tile([0.0, 1.0], 10))


@pytest.mark.parametrize(
    ("target", "loss", "want"),
    [
        ([0.0] * 8, "bce", 1 / 10),
        ([1.0] * 8, "bce", 9 / 10),
        ([1.0, 0.0, 0.0], "bce", 2 / 5),
        ([0.25, 0.75], "squared", 0.5),
    ],
)
def test_constant_answers_laplace_or_the_mean(target, loss, want):
    arrays = mlp.constant(3, np.array(target), loss)
    got = mlp.predict(arrays, np.random.default_rng(0).normal(size=(5, 3)))
    np.testing.assert_allclose(got, want, rtol=1e-14)


@pytest.mark.parametrize("as_probability", [True, False])
def test_predict_equals_a_loop(as_probability):
    rng = np.random.default_rng(1)
    shapes = [(3, 4), (4, 2), (2, 1)]
    arrays = {f"w{i}": rng.normal(size=s) for i, s in enumerate(shapes)}
    arrays |= {f"b{i}": rng.normal(size=s[1]) for i, s in enumerate(shapes)}
    arrays |= {"mean": rng.normal(size=3), "scale": rng.uniform(0.1, 2, 3)}
    arrays |= {"sigmoid": np.array(as_probability)}
    x = rng.normal(size=(6, 3)) * 9
    got = mlp.predict(arrays, x)
    for n in range(6):
        h = [
            min(max((x[n, f] - arrays["mean"][f]) / arrays["scale"][f], -mlp.CLIP), mlp.CLIP)
            for f in range(3)
        ]
        for i, (ins, outs) in enumerate(shapes):
            h = [
                sum(h[j] * arrays[f"w{i}"][j, k] for j in range(ins)) + arrays[f"b{i}"][k]
                for k in range(outs)
            ]
            if i < 2:
                h = [max(v, 0.0) for v in h]
        want = 1 / (1 + math.exp(-h[0])) if as_probability else h[0]
        np.testing.assert_allclose(got[n], want, rtol=1e-12)
    assert mlp.flops(arrays) == 2 * (12 + 8 + 2)


def test_standardiser_leaves_a_constant_feature_alone():
    features = np.column_stack([np.full(30, 7.0), np.arange(30.0)])
    arrays = mlp.standardiser(features)
    standard = mlp.standardise(arrays, features)
    assert (standard[:, 0] == 0).all()
    np.testing.assert_allclose([standard[:, 1].mean(), standard[:, 1].std()], [0, 1], atol=1e-15)


def test_an_odd_query_is_clipped():
    arrays = mlp.standardiser(np.array([[0.0], [1.0]] * 10))
    assert mlp.standardise(arrays, np.array([[1e9], [-1e9]])).tolist() == [[mlp.CLIP], [-mlp.CLIP]]


def test_planted_outcomes_are_the_binary_case():
    _, outcomes = planted(40)
    assert set(mlp.target(outcomes, "gain")[0].tolist()) <= {-1.0, 0.0, 1.0}
