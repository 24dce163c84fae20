"""The walk against brute force; promises against 1,000 simulated calibrations.

Every assertion on a simulation states the probability that a correct implementation fails it.
"""

import math

import make
import numpy as np
import pytest
from scipy.stats import binom
from slow_bounds import slow_hoeffding_bentkus, slow_tail

from routers.bounds import queries_needed
from routers.errors import InputError
from routers.guarantees import (
    Certified,
    NotSupported,
    conformal_risk_control,
    fixed_sequence,
    learn_then_test,
    quality_lost,
)


def test_fixed_sequence_stops_at_the_first_failure():
    rng = np.random.default_rng(0)
    for _ in range(200):
        p = rng.random(rng.integers(0, 8)) ** 2
        count = 0
        for value in p.tolist():
            if value > 0.3:
                break
            count += 1
        assert fixed_sequence(p, 0.3) == count
    assert fixed_sequence(np.array([0.0, np.nan, 0.0]), 0.5) == 1  # NaN is no evidence


def test_what_is_lost():
    outcomes = make.outcomes(50, graded=True)
    pairs = zip(outcomes.quality_small, outcomes.quality_large, strict=True)
    want = [large - small if large > small else 0.0 for small, large in pairs]
    np.testing.assert_allclose(quality_lost(outcomes), want, atol=1e-15)


def sample(rng, n, levels=None, graded=False):
    """Scores in (0, 1] and losses of mean ``score``: R(tau) = tau^2 / 2 for continuous scores."""
    score = 1 - rng.random(n) if levels is None else rng.integers(1, levels + 1, n) / levels
    # graded: Beta(2 s, 2 (1 - s)) has mean s and is neither 0 nor 1
    loss = rng.beta(2 * score, np.maximum(2 - 2 * score, 1e-3)) if graded else rng.random(n) < score
    return score, np.minimum(loss.astype(np.float64), 1.0)


def risk(threshold, levels=None):
    """The true risk of a threshold in that world."""
    if levels is None:
        return min(threshold, 1.0) ** 2 / 2
    scores = [k / levels for k in range(1, levels + 1)]
    return sum(s for s in scores if s < threshold) / levels


def slow_walk(score, loss, passes):
    """Fixed sequence by the rule itself: every threshold, safest first, until one fails."""
    best = None
    for tau in [*sorted(set(score.tolist())), np.inf]:
        if not passes(
            sum(b for a, b in zip(score.tolist(), loss.tolist(), strict=True) if a < tau)
        ):
            break
        best = tau
    return best


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("levels", [None, 5])
@pytest.mark.parametrize("graded", [False, True])
def test_the_walk_over_thresholds(seed, levels, graded):
    score, loss = sample(np.random.default_rng(seed), 90, levels, graded)
    if graded:
        bound, slow = "hoeffding_bentkus", lambda t: slow_hoeffding_bentkus(t, 90, 0.3)
    else:
        bound, slow = "binomial", lambda t: slow_tail(int(t), 90, 0.3)
    got = learn_then_test(score, loss, epsilon=0.3, delta=0.2, bound=bound)
    want = slow_walk(score, loss, lambda total: slow(total) <= 0.2)
    kept = score < want
    assert got.threshold == want
    assert got.kept == pytest.approx(kept.mean(), abs=1e-15)
    assert got.loss == pytest.approx(loss[kept].sum() / 90, abs=1e-12)
    assert conformal_risk_control(score, loss, epsilon=0.3).threshold == slow_walk(
        score, loss, lambda total: total / 90 * (90 / 91) + 1 / 91 <= 0.3
    )


def test_order_of_the_queries_does_not_matter():
    score, loss = sample(np.random.default_rng(3), 200, levels=7)
    shuffle = np.random.default_rng(4).permutation(200)
    asked = {"epsilon": 0.2, "delta": 0.1, "bound": "binomial"}
    assert learn_then_test(score, loss, **asked) == learn_then_test(
        score[shuffle], loss[shuffle], **asked
    )


def test_when_every_threshold_passes_every_query_is_kept():
    """The reference code of conformal risk control returns the opposite end here."""
    score, none = np.linspace(0, 1, 100), np.zeros(100)
    everything = Certified(threshold=math.inf, kept=1.0, loss=0.0)
    assert conformal_risk_control(score, none, epsilon=0.05) == everything
    assert learn_then_test(score, none, epsilon=0.05, delta=0.05, bound="binomial") == everything


def test_conformal_risk_control_at_equality():
    """(6 + 1) / (99 + 1) is 0.07 exactly, which floating point puts above 0.07 * 100."""
    score, loss = np.arange(99.0), np.append(np.zeros(89), np.ones(10))
    assert conformal_risk_control(score, loss, epsilon=0.07).loss == 6 / 99
    assert conformal_risk_control(score, loss, epsilon=0.0699).loss == 5 / 99


REPETITIONS, QUERIES, EPSILON, DELTA = 1_000, 300, 0.1, 0.1
UNLUCKY = int(binom.ppf(1 - 1e-6, REPETITIONS, DELTA))
"""Broken promises in 1,000 that a true promise of 1 - delta exceeds with P < 1e-6."""


def broken(choose, **world):
    """In how many of 1,000 calibrations the true risk is above epsilon."""
    rng = np.random.default_rng(2026)
    found = 0
    for _ in range(REPETITIONS):
        found += risk(choose(*sample(rng, QUERIES, **world)), world.get("levels")) > EPSILON
    return found


def promised(bound):
    def choose(score, loss):
        done = learn_then_test(score, loss, epsilon=EPSILON, delta=DELTA, bound=bound)
        return done.threshold

    return choose


def best_on_validation(score, loss):
    """No correction: the largest threshold whose observed risk is within epsilon."""
    order = np.argsort(score)
    within = np.flatnonzero(np.cumsum(loss[order]) <= EPSILON * len(score))
    return float(score[order[min(within[-1] + 1, len(score) - 1)]])


def test_the_promise_of_the_exact_bound():
    """It breaks exactly as often as it should: continuous scores have a closed form.

    The chosen threshold passes tau* iff at most k of n losses lie below tau*, k the greatest
    count that is accepted. Two-sided, each side P < 1e-6.
    """
    counts = np.arange(QUERIES)
    k = counts[binom.cdf(counts, QUERIES, EPSILON) <= DELTA].max()
    chance = binom.cdf(k, QUERIES, EPSILON)
    assert 0.05 < chance <= DELTA
    got = broken(promised("binomial"))
    assert binom.ppf(1e-6, REPETITIONS, chance) <= got <= binom.ppf(1 - 1e-6, REPETITIONS, chance)


@pytest.mark.parametrize(
    ("bound", "world"),
    [
        ("binomial", {"levels": 20}),
        ("hoeffding_bentkus", {}),
        ("hoeffding_bentkus", {"graded": True}),
        ("hoeffding_bentkus", {"graded": True, "levels": 20}),
    ],
)
def test_the_promise_is_kept(bound, world):
    """A promise of 90 % is broken more than UNLUCKY times in 1,000 with P < 1e-6."""
    assert broken(promised(bound), **world) <= UNLUCKY


@pytest.mark.parametrize("world", [{}, {"graded": True}])
def test_the_best_threshold_on_validation_breaks_it(world):
    """The same simulation catches the usual shortcut: it breaks the promise half of the time."""
    assert UNLUCKY < 200
    assert broken(best_on_validation, **world) > 350


def test_promise_on_average():
    """Continuous scores: the mean risk is (k + 1) / (n + 1), k the losses that may be kept.

    Two-sided at 4.9 standard errors: P < 1e-6.
    """
    rng, n, epsilon = np.random.default_rng(7), 50, 0.1
    risks = []
    for _ in range(REPETITIONS):
        chosen = conformal_risk_control(*sample(rng, n), epsilon=epsilon)
        risks.append(risk(chosen.threshold))
    error = 4.9 * np.std(risks) / math.sqrt(REPETITIONS)
    assert np.mean(risks) == pytest.approx(5 / 51, abs=error)
    assert epsilon >= 5 / 51
    assert np.mean(np.array(risks) > epsilon) > 0.3  # on average only: single ones exceed it


def test_the_average_without_its_correction_is_too_high():
    rng, n, epsilon = np.random.default_rng(7), 50, 0.1
    risks = []
    for _ in range(REPETITIONS):
        score, loss = sample(rng, n)
        order = np.argsort(score)
        first_over = int(np.argmax(np.cumsum(loss[order]) > epsilon * n))
        risks.append(risk(float(score[order[first_over]])))
    assert np.mean(risks) - 4.9 * np.std(risks) / math.sqrt(REPETITIONS) > epsilon


def test_refusal_says_how_many_more():
    """That many more queries without a loss make the promise possible, one fewer does not."""
    asked = {"epsilon": 0.05, "delta": 0.05, "bound": "binomial"}
    with pytest.raises(NotSupported, match=r"takes 59; log 39 more") as refusal:
        learn_then_test(np.arange(20.0), np.zeros(20), **asked)
    assert refusal.value.more == 39
    assert "\n" not in str(refusal.value)
    assert learn_then_test(np.arange(59.0), np.zeros(59), **asked).kept == 1
    with pytest.raises(NotSupported, match="log 1 more"):
        learn_then_test(np.arange(58.0), np.zeros(58), **asked)
    with pytest.raises(NotSupported, match="takes 19; log 1 more"):
        conformal_risk_control(np.arange(18.0), np.zeros(18), epsilon=0.05)
    assert conformal_risk_control(np.arange(19.0), np.zeros(19), epsilon=0.05).kept == 1


def test_refusal_at_the_loss_that_was_seen():
    """The lowest score is shared by queries that lose: their rate decides."""
    score, loss = np.zeros(100), np.append(np.ones(3), np.zeros(97))
    asked = {"epsilon": 0.05, "delta": 0.05, "bound": "binomial"}
    needed = queries_needed(0.03, 0.05, 0.05, "binomial")
    with pytest.raises(NotSupported, match=f"about {needed}, log {needed - 100} more") as refusal:
        learn_then_test(score, loss, **asked)
    assert refusal.value.more == needed - 100
    times = math.ceil(needed / 100)
    assert learn_then_test(np.tile(score, times), np.tile(loss, times), **asked).kept == 1
    hopeless = np.append(np.ones(10), np.zeros(90))
    with pytest.raises(NotSupported, match="more queries would not help") as refusal:
        learn_then_test(score, hopeless, **asked)
    assert refusal.value.more is None
    with pytest.raises(NotSupported, match="more queries would not help"):
        conformal_risk_control(score, hopeless, epsilon=0.05)


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, 2.0, float("nan")])
def test_what_is_no_share(value):
    score, loss = np.arange(50.0), np.zeros(50)
    for asked in ({"epsilon": value, "delta": 0.1}, {"epsilon": 0.1, "delta": value}):
        with pytest.raises(InputError, match="between 0 and 1"):
            learn_then_test(score, loss, bound="binomial", **asked)
    with pytest.raises(InputError, match="between 0 and 1"):
        conformal_risk_control(score, loss, epsilon=value)


def test_losses_that_do_not_fit_the_bound():
    score = np.arange(50.0)
    asked = {"epsilon": 0.2, "delta": 0.1}
    with pytest.raises(InputError, match="hoeffding_bentkus"):
        learn_then_test(score, np.full(50, 0.5), bound="binomial", **asked)
    with pytest.raises(InputError, match=r"-0\.1"):
        learn_then_test(score, np.full(50, -0.1), bound="hoeffding_bentkus", **asked)
    with pytest.raises(InputError, match="score is nan"):
        learn_then_test(np.full(50, np.nan), np.zeros(50), bound="binomial", **asked)
