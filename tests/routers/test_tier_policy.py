"""The call a server makes: step by step it does what a replay of the log does."""

import dataclasses

import numpy as np
import pytest
import tiers_planted as planted

from routers.base import Inputs
from routers.cascade import Cascade, Mixed, StaticMixture, decide
from routers.cascade_routing import CascadeRouting, Routing
from routers.column import Column
from routers.errors import InputError
from routers.estimates import fit_estimates
from routers.tier_policy import STOP, TierPolicy, prompt_of
from routers.tiers import join

UNSURE = (Column("unsure"),) * 2
MODELS = planted.MODELS


@pytest.fixture(scope="module")
def tiers():
    return join(planted.records(40, clue=0.3), MODELS, "test")


@pytest.fixture(scope="module")
def policies() -> dict[str, TierPolicy]:
    """One of each kind, mixtures inside mixtures included."""
    fit = join(planted.records(80, clue=0.3), MODELS, "validation")
    blind, judged = fit_estimates(fit, ()), fit_estimates(fit, UNSURE)
    cascade = Cascade(MODELS, UNSURE, (-0.1, 0.1))
    sides = (CascadeRouting(MODELS, judged, 0.3), CascadeRouting(MODELS, judged, 0.9))
    return {
        "cascade": cascade,
        "static": StaticMixture(MODELS, (0.25, 0.25, 0.5)),
        "routing": Routing(MODELS, blind, 0.4),
        "cascade_routing": sides[0],
        "mixed": Mixed(MODELS, *sides, 0.5),
        "nested": Mixed(MODELS, cascade, Mixed(MODELS, *sides, 0.5), 0.5),
    }


KINDS = ["cascade", "static", "routing", "cascade_routing", "mixed", "nested"]


def served(policy, tiers, i):
    """(tiers in the order they ran, the answer) of one query, asked as a server asks."""
    row = np.array([i])
    prompt, seen = prompt_of(tiers.inputs[0]).take(row), {}
    while True:
        tier = int(policy.decide(prompt, seen)[0])
        if tier == STOP:
            return list(seen), int(policy.answer(prompt, seen)[0])
        assert tier not in seen
        seen[tier] = tiers.inputs[tier].take(row)


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_does_what_the_replay_does(policies, tiers, kind):
    policy = policies[kind]
    done = decide(policy, tiers.inputs)
    assert len(np.unique(done.visited, axis=0)) > 1
    for i in range(len(tiers)):
        ran, answer = served(policy, tiers, i)
        assert sorted(ran) == np.flatnonzero(done.visited[i]).tolist()
        assert answer == done.answer[i]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left_to_run_once_all_have_answered(policies, tiers, kind):
    seen = dict(enumerate(tiers.inputs))
    assert policies[kind].decide(tiers.inputs[0], seen).tolist() == [STOP] * len(tiers)


@pytest.mark.parametrize("kind", KINDS)
def test_no_queries_no_decisions(policies, tiers, kind):
    none = np.arange(0)
    found = policies[kind].decide(tiers.inputs[0].take(none), {})
    assert found.shape == (0,)
    assert found.dtype == np.int64


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_prompt_says_of_a_response_is_not_looked_at(policies, tiers, kind):
    """A server may pass all it has: the records of the first answer change nothing."""
    bare = prompt_of(tiers.inputs[0])
    told = dataclasses.replace(
        bare,
        response_tokens=np.arange(len(bare)),
        response_embedding=np.ones((len(bare), 2)),
        scores={"unsure": np.full(len(bare), np.nan)},
    )
    before, after = (policies[kind].decide(prompt, {}) for prompt in (bare, told))
    np.testing.assert_array_equal(before, after)


def test_tiers_that_do_not_exist_and_other_queries_are_refused(policies, tiers):
    policy, first = policies["cascade"], tiers.inputs[0]
    for k in (-1, 3):
        with pytest.raises(InputError, match=f"no tier {k}; the policy has 3"):
            policy.decide(first, {k: first})
    backwards = first.take(np.arange(len(first))[::-1])
    for other in (backwards, first.take(np.arange(3))):
        with pytest.raises(InputError, match="'small' says is of other queries than asked"):
            policy.decide(first, {0: other})


def test_a_column_that_is_absent_or_not_finite_is_named(policies, tiers):
    first = tiers.inputs[0]
    with pytest.raises(InputError, match="lack column 'score:unsure'"):
        policies["cascade"].decide(first, {0: prompt_of(first)})
    bad = dataclasses.replace(first, scores={"unsure": np.full(len(first), np.nan)})
    with pytest.raises(InputError, match="Column on 'small': score is nan"):
        policies["cascade"].decide(first, {0: bad})


def test_a_policy_of_ones_own_is_asked_only_while_a_tier_is_left(tiers):
    asked = []

    class Backwards(TierPolicy):
        def next_tier(self, prompt: Inputs, seen):
            asked.append(sorted(seen))
            return np.full(len(prompt), 2 - len(seen))

    done = decide(Backwards(MODELS), tiers.inputs)
    assert asked == [[], [2], [1, 2]]
    assert done.visited.all()
    assert done.answer.tolist() == [2] * len(tiers)
