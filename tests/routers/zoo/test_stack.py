"""Stacking: the rule learns out of fold, members are fitted on all, costs add up."""

import numpy as np
import pytest
from planted import planted

from routers import trees
from routers.build import build
from routers.crossfit import cross_fit
from routers.errors import InputError
from routers.nested import part
from routers.zoo import stack
from routers.zoo.stack import Stack


def test_the_rule_is_fitted_on_out_of_fold_scores_and_read_on_full_fits():
    inputs, outcomes = planted(200)
    fitted = Stack(members="margin+knn:k=9", folds=4, seed=2).fit(inputs, outcomes)
    columns = [build("margin").score(inputs), cross_fit(build("knn:k=9"), inputs, outcomes, 4, 2)]
    rule = trees.train(
        np.column_stack(columns), outcomes.gain.astype(np.float64), "squared", seed=2
    )
    whole = [build("margin").score(inputs), build("knn:k=9").fit(inputs, outcomes).score(inputs)]
    want = trees.predict(rule, np.column_stack(whole))
    np.testing.assert_array_equal(fitted.score(inputs), want)


def test_every_member_is_charged():
    inputs, outcomes = planted(60)
    router = Stack(members="length+cluster+prompt:embedding_flops=50").fit(inputs, outcomes)
    parts = [build(s).fit(inputs, outcomes) for s in ("cluster", "prompt:embedding_flops=50")]
    want = sum(p.flops_per_query(inputs) for p in parts)
    want = want + trees.flops(part(router.weights_, "rule"))
    np.testing.assert_array_equal(router.flops_per_query(inputs), want)


def test_the_prompt_embedding_is_charged_once_for_all_members():
    """By hand: the members' arithmetic, the trees', and one prefill."""
    inputs, outcomes = planted(60)
    stack = Stack(members="length+knn:k=9+prompt").charged(50)
    assert stack.members == "length+knn:k=9;embedding_flops=50+prompt"
    router = stack.fit(inputs, outcomes)
    knn, linear, length = 2 * 60 * 16, 2 * 16, 0
    want = length + knn + linear + 50.0 * inputs.prompt_tokens
    want = want + trees.flops(part(router.weights_, "rule"))
    np.testing.assert_array_equal(router.flops_per_query(inputs), want)
    np.testing.assert_array_equal(
        router.score(inputs),
        Stack(members="length+knn:k=9+prompt").fit(inputs, outcomes).score(inputs),
    )


@pytest.mark.parametrize(
    ("members", "want"),
    [
        ("length+margin", "length+margin"),
        ("prompt", "prompt:embedding_flops=7"),
        ("knn:embedding_flops=0;k=3", "knn:k=3;embedding_flops=7"),
        ("knn+prompt:embedding_flops=5", "knn+prompt:embedding_flops=5"),
    ],
)
def test_who_is_charged_for_the_embedding(members, want):
    assert Stack(members=members).charged(7).members == want


def test_a_member_that_knows_the_fit_rows_by_heart_is_not_believed(monkeypatch):
    """Outcomes are noise. In-fold scores of one neighbour would look perfect to the rule."""
    inputs, outcomes = planted(1000)
    rows, fresh = np.arange(500), np.arange(500, 1000)
    noise = np.random.default_rng(0)
    fit = outcomes.take(noise.permutation(1000)[:500])
    router = Stack(members="knn:k=1")
    honest = router.fit(inputs.take(rows), fit).score(inputs.take(fresh))

    def in_fold(member, inputs, outcomes, folds, seed):
        return member.fit(inputs, outcomes).score(inputs)

    monkeypatch.setattr(stack, "cross_fit", in_fold)
    fooled = router.fit(inputs.take(rows), fit).score(inputs.take(fresh))
    assert fooled.std() > 0.4
    assert honest.std() < 0.2


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("stack:members=oracle", "sees the outcomes"),
        ("stack:members=nothing", "no router 'nothing'"),
        ("stack:folds=1", "at least 2"),
    ],
)
def test_refusals(spec, says):
    with pytest.raises(InputError, match=says):
        build(spec)
