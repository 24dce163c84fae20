"""Calibrated confidence: the stated chance is the observed frequency; the ranking is kept."""

import numpy as np
import pytest
from planted import from_rows, planted

from routers.base import Outcomes
from routers.build import build
from routers.errors import InputError
from routers.zoo.calibrated import Calibrated

RNG = np.random.default_rng(0)
N = 6000
NLL = RNG.exponential(1.0, N)
WRONG = (RNG.random(N) < 1 - np.exp(-NLL / 3.0)).astype(float)  # over-cautious: T = 3
INPUTS = from_rows(
    logprobs=(-NLL[:, None]).tolist(),
    topk=np.stack([np.zeros(N), -NLL], axis=1)[:, None, :].tolist(),
)
OUTCOMES = Outcomes(1 - WRONG, np.ones(N), np.ones(N), np.ones(N))


@pytest.mark.parametrize("method", ["isotonic", "temperature"])
def test_what_is_said_is_what_happens_on_fresh_queries(method):
    fit, fresh = np.arange(3000), np.arange(3000, N)
    router = Calibrated(signal="chow_average", method=method)
    score = router.fit(INPUTS.take(fit), OUTCOMES.take(fit)).score(INPUTS.take(fresh))
    raw = -np.expm1(-NLL[fresh])
    gaps = [
        [abs(WRONG[fresh][rows].mean() - said[rows].mean()) for said in (score, raw)]
        for rows in np.array_split(np.argsort(NLL[fresh]), 6)
    ]
    # Standard error of the share in a bin of 500, fit and fresh together: 0.03.
    assert np.max(gaps, axis=0)[0] < 0.09
    assert np.mean(gaps, axis=0)[0] < 0.03
    assert np.mean(gaps, axis=0)[1] > 0.15


def test_the_ranking_is_the_signals():
    for router in (
        Calibrated(signal="chow_average", method="temperature"),
        Calibrated(signal="chow_average"),
    ):
        score = router.fit(INPUTS, OUTCOMES).score(INPUTS)[np.argsort(NLL)]
        assert (np.diff(score) >= 0).all()
    assert len(set(score.tolist())) > 10


def test_a_signal_with_a_field_and_its_cost():
    inputs, outcomes = planted(50)
    router = build("calibrated:signal=chow_quantile:alpha=0.5,method=temperature")
    assert router.fit(inputs, outcomes).flops_per_query(inputs).tolist() == [2.0] * 50
    inner = build("chow_quantile:alpha=0.5").score(inputs)
    score = router.fit(inputs, outcomes).score(inputs)
    assert (np.argsort(inner) == np.argsort(score)).all()


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("calibrated:signal=knn", "'knn' is learned"),
        ("calibrated:signal=oracle", "sees the outcomes"),
        ("calibrated:signal=length+margin", "is several"),
        ("calibrated:signal=marigin", "did you mean 'margin'"),
    ],
)
def test_refusals(spec, says):
    with pytest.raises(InputError, match=says):
        build(spec)


def test_temperature_of_a_margin_is_refused():
    with pytest.raises(InputError, match="method=isotonic"):
        Calibrated(method="temperature").fit(INPUTS, OUTCOMES)
