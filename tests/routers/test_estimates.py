"""Estimates of quality and cost: calibrated, honest about what they have not seen."""

import dataclasses

import numpy as np
import pytest
import tiers_planted as planted

from routers.build import build
from routers.errors import InputError
from routers.estimates import fit_estimates, prompt_features, subsets
from routers.evaluate import Column
from routers.tier_policy import prompt_of
from routers.tiers import join

UNSURE = (Column("unsure"),) * 2


@pytest.fixture(scope="module")
def splits():
    records = planted.records(800, clue=0.3)
    return tuple(join(records, planted.MODELS, split) for split in ("validation", "test"))


@pytest.fixture(scope="module")
def estimates(splits):
    return fit_estimates(splits[0], UNSURE)


def asked(estimates, tiers, seen):
    given = {k: tiers.inputs[k] for k in seen}
    return estimates.quality(prompt_of(tiers.inputs[0]), given, tiers.models)


@pytest.mark.parametrize("seen", subsets(range(3)))
def test_each_tenth_of_the_estimates_is_right_on_new_queries(splits, estimates, seen):
    """Mean estimate and mean quality of a tenth differ by less than 4 standard errors + .05."""
    test = splits[1]
    quality_NK = asked(estimates, test, seen)
    for k in range(3):
        for rows in np.array_split(np.argsort(quality_NK[:, k]), 10):
            truth = test.quality[rows, k]
            error = np.sqrt(0.25 / len(rows))
            assert abs(quality_NK[rows, k].mean() - truth.mean()) < 4 * error + 0.05


def test_seeing_more_predicts_better(splits, estimates):
    test = splits[1]
    errors = [
        ((asked(estimates, test, seen) - test.quality) ** 2).mean() for seen in ((), (0,), (0, 1))
    ]
    assert errors[0] > errors[1] > errors[2]


def test_the_last_tier_says_nothing(splits, estimates):
    test = splits[1]
    np.testing.assert_array_equal(asked(estimates, test, (2,)), asked(estimates, test, ()))
    np.testing.assert_array_equal(asked(estimates, test, (0, 2)), asked(estimates, test, (0,)))


def test_the_covariance_is_that_of_the_change(splits, estimates):
    """Recomputed on new queries, by loops; the fit queries' was made out of fold."""
    test = splits[1]
    for before, after in (((), (0,)), ((), (0, 1)), ((1,), (0, 1))):
        change = asked(estimates, test, after) - asked(estimates, test, before)
        want = np.array(
            [[np.mean((a - a.mean()) * (b - b.mean())) for b in change.T] for a in change.T]
        )
        got = estimates.change_of(before, after)
        np.testing.assert_allclose(got, want, atol=0.35 * want.max())
    np.testing.assert_array_equal(estimates.change_of((0,), (0,)), np.zeros((3, 3)))


def test_costs_are_multiples_of_the_last_tiers(splits, estimates):
    fit, test = splits
    cost_NK = estimates.cost(prompt_of(test.inputs[0]))
    assert estimates.cost_unit == pytest.approx(fit.cost[:, 2].mean(), rel=1e-12)
    np.testing.assert_allclose(
        cost_NK.mean(axis=0) * estimates.cost_unit, test.cost.mean(axis=0), rtol=0.03
    )


def test_costs_are_never_negative(splits, estimates):
    """A prompt far outside what was seen."""
    prompt = prompt_of(splits[1].inputs[0])
    odd = dataclasses.replace(prompt, prompt_embedding=1e6 * prompt.prompt_embedding)
    assert (estimates.cost(odd) >= 0).all()


def test_unknown_prompts_give_the_mean(splits):
    """No embedding, no length: every query is worth the mean of its tier."""
    fit = splits[0]
    nothing = dataclasses.replace(fit.inputs[0], prompt_embedding=None)
    fit = dataclasses.replace(fit, inputs=(nothing, *fit.inputs[1:]))
    assert prompt_features(prompt_of(nothing)).tolist() == [[0.0]] * len(fit)
    quality_NK = asked(fit_estimates(fit, ()), fit, ())
    np.testing.assert_allclose(
        quality_NK, np.tile(fit.quality.mean(axis=0), (len(fit), 1)), atol=0.01
    )


def test_graded_qualities_count_as_shares(splits):
    fit = splits[0]
    graded = dataclasses.replace(fit, quality=0.25 + 0.5 * fit.quality)
    got = asked(fit_estimates(graded, UNSURE), graded, (0, 1))
    assert got.min() > 0.2
    assert got.max() < 0.8
    np.testing.assert_allclose(got.mean(axis=0), graded.quality.mean(axis=0), atol=0.02)


def test_few_queries_give_constants():
    fit = join(planted.records(12), planted.MODELS, "validation")
    quality_NK = asked(fit_estimates(fit, UNSURE), fit, (0,))
    assert np.ptp(quality_NK, axis=0).max() == 0


def test_own_flops_grow_with_what_is_read(splits, estimates):
    prompt = prompt_of(splits[1].inputs[0])
    given = splits[1].inputs
    spent = [
        estimates.own_flops(prompt, {k: given[k] for k in seen}) for seen in ((), (0,), (0, 1))
    ]
    assert (spent[0] > 0).all()
    assert (spent[0] < spent[1]).all()
    assert (spent[1] < spent[2]).all()


def test_what_cannot_be_estimated(splits):
    with pytest.raises(InputError, match="7 tiers; name at most 6"):
        fit_estimates(planted.random_tiers(30, 7), (Column("s"),) * 6)
    with pytest.raises(InputError, match="Oracle sees the outcomes"):
        fit_estimates(splits[0], (build("oracle"),) * 2)
