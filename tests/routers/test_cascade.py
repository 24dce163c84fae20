"""Policies over K tiers against loops over queries, and what they may not see."""

import dataclasses

import numpy as np
import pytest
import tiers_planted as planted

from routers.base import Inputs
from routers.build import build
from routers.cascade import Cascade, Mixed, StaticMixture, decide, judge, walk
from routers.column import Column
from routers.curves import deferral_curve
from routers.errors import InputError
from routers.tier_policy import STOP, TierPolicy

SCORE = Column("s")


def by_hand(tiers, thresholds):
    """(visited, answer, quality, cost) one query at a time."""
    rows = []
    for i in range(len(tiers)):
        k, cost = 0, tiers.cost[i, 0]
        while k < len(thresholds) and tiers.inputs[k].scores["s"][i] >= thresholds[k]:
            k += 1
            cost += tiers.cost[i, k]
        rows.append(([j <= k for j in range(len(thresholds) + 1)], k, tiers.quality[i, k], cost))
    return [np.array(column) for column in zip(*rows, strict=True)]


@pytest.mark.parametrize("tiers_K", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(3))
def test_a_cascade_is_the_loop(tiers_K, seed):
    tiers = planted.random_tiers(80, tiers_K, seed)
    thresholds = tuple(np.random.default_rng(seed).random(tiers_K - 1).tolist())
    done = decide(Cascade(tiers.models, (SCORE,) * (tiers_K - 1), thresholds), tiers.inputs)
    judged = judge(done, tiers)
    visited, answer, quality, cost = by_hand(tiers, thresholds)
    np.testing.assert_array_equal(done.visited, visited)
    np.testing.assert_array_equal(done.answer, answer)
    np.testing.assert_array_equal(judged.quality, quality)
    np.testing.assert_allclose(judged.cost, cost, rtol=1e-14)


def test_two_tiers_are_a_point_of_the_deferral_curve():
    tiers = planted.random_tiers(60, 2, levels=7)
    curve = deferral_curve(tiers.inputs[0].scores["s"], tiers.outcomes(0, 1))
    for p, threshold in enumerate(curve.threshold.tolist()):
        judged = judge(decide(Cascade(tiers.models, (SCORE,), (threshold,)), tiers.inputs), tiers)
        assert judged.quality.mean() == pytest.approx(curve.quality[p], abs=1e-12)
        assert judged.cost.mean() == pytest.approx(curve.cost[p], abs=1e-12)


def test_infinite_thresholds_are_the_ends():
    tiers = planted.random_tiers(20, 3)
    first = decide(Cascade(tiers.models, (SCORE,) * 2, (np.inf, 0.0)), tiers.inputs)
    assert first.visited.tolist() == [[True, False, False]] * 20
    last = decide(Cascade(tiers.models, (SCORE,) * 2, (-np.inf, -np.inf)), tiers.inputs)
    assert last.visited.all()
    assert (last.answer == 2).all()


def test_routers_are_charged_where_they_are_read():
    """The router of tier 1 costs nothing for a query that stopped at tier 0."""

    @dataclasses.dataclass(frozen=True)
    class Dear(Column):
        flops: float = 0.0

        def flops_per_query(self, inputs: Inputs) -> np.ndarray:
            return np.full(len(inputs), self.flops)

    tiers = dataclasses.replace(planted.random_tiers(50, 3), unit="flops")
    policy = Cascade(tiers.models, (Dear("s", flops=100.0), Dear("s", flops=7.0)), (0.5, 0.5))
    done = decide(policy, tiers.inputs)
    np.testing.assert_array_equal(done.own_flops, 100.0 + 7.0 * done.visited[:, 1])
    want = (tiers.cost * done.visited).sum(axis=1) + done.own_flops
    np.testing.assert_allclose(judge(done, tiers).cost, want, rtol=1e-14)
    dollars = judge(done, dataclasses.replace(tiers, unit="dollars"))
    np.testing.assert_allclose(dollars.cost, want - done.own_flops, rtol=1e-12)


def test_no_answer_is_seen_before_it_is_paid():
    """Whatever tiers not visited say, even NaN, the decision stays."""
    tiers = planted.random_tiers(60, 4)
    policy = Cascade(tiers.models, (SCORE,) * 3, (0.4, 0.5, 0.6))
    before = decide(policy, tiers.inputs)
    spoiled = [
        dataclasses.replace(
            seen, scores={"s": np.where(before.visited[:, k], seen.scores["s"], np.nan)}
        )
        if seen.scores
        else seen
        for k, seen in enumerate(tiers.inputs)
    ]
    after = decide(policy, spoiled)
    np.testing.assert_array_equal(before.visited, after.visited)
    np.testing.assert_array_equal(before.answer, after.answer)


def test_the_prompt_holds_nothing_of_an_answer():
    seen = []

    class Watch(TierPolicy):
        def next_tier(self, prompt, seen_tiers):
            seen.append(prompt)
            return np.full(len(prompt), STOP if seen_tiers else 1)

    n = 5
    inputs = Inputs(
        np.array([f"q{i}" for i in range(n)]),
        np.array(["t"] * n),
        np.ones(n, np.int64),
        response_tokens=np.ones(n, np.int64),
        response_embedding=np.ones((n, 2)),
        scores={"s": np.ones(n)},
    )
    done = decide(Watch(("a", "b", "c")), [inputs, inputs, inputs])
    assert done.visited.tolist() == [[False, True, False]] * n
    assert done.answer.tolist() == [1] * n
    for prompt in seen:
        assert prompt.scores == {}
        assert prompt.response_tokens is None
        assert prompt.response_embedding is None
        assert prompt.prompt_tokens is not None


def test_a_static_mixture_keeps_its_shares_and_its_queries():
    tiers = planted.random_tiers(20_000, 3)
    policy = StaticMixture(tiers.models, (0.2, 0.0, 0.8))
    done = decide(policy, tiers.inputs)
    assert (done.visited.sum(axis=1) == 1).all()
    share = done.visited.mean(axis=0)
    # 5 standard errors of a share of 20,000
    np.testing.assert_allclose(share, [0.2, 0.0, 0.8], atol=5 * np.sqrt(0.16 / 20_000))
    some = np.array([5, 77, 4000])
    part = decide(policy, [inputs.take(some) for inputs in tiers.inputs])
    np.testing.assert_array_equal(part.answer, done.answer[some])


def test_mixed_follows_one_policy_or_the_other():
    """A query keeps its policy at every step; the share is that of the dearer one."""
    tiers = planted.random_tiers(5_000, 3)
    cheap = Cascade(tiers.models, (SCORE,) * 2, (0.7, 0.7))
    dear = Cascade(tiers.models, (SCORE,) * 2, (0.2, 0.2))
    done = decide(Mixed(tiers.models, cheap, dear, 0.3), tiers.inputs)
    sides = [decide(policy, tiers.inputs).visited for policy in (cheap, dear)]
    follows = np.stack([(done.visited == side).all(axis=1) for side in sides])
    assert follows.any(axis=0).all()
    told_apart = (sides[0] != sides[1]).any(axis=1)
    share = follows[1, told_apart].mean()
    assert share == pytest.approx(0.3, abs=5 * np.sqrt(0.21 / told_apart.sum()))
    for share, side in zip((0.0, 1.0), sides, strict=True):
        whole = decide(Mixed(tiers.models, cheap, dear, share), tiers.inputs)
        np.testing.assert_array_equal(whole.visited, side)


def test_a_walk_visits_in_any_order():
    order = {(): 2, (2,): 0, (0, 2): STOP}
    visited = walk(3, 3, lambda rows, seen: np.full(len(rows), order[seen]))
    assert visited.tolist() == [[True, False, True]] * 3


@pytest.mark.parametrize("answer", [{(): STOP}, {(): 0, (0,): 0}])
def test_a_walk_refuses_nonsense(answer):
    with pytest.raises(ValueError, match="must name one not visited"):
        walk(2, 2, lambda rows, seen: np.full(len(rows), answer[seen]))


@pytest.mark.parametrize(
    ("routers", "thresholds", "message"),
    [
        ((SCORE,), (0.5, 0.5), "3 tiers has 1 routers and 2 thresholds"),
        ((SCORE, build("prompt")), (0.5, 0.5), "Prompt decides before anything is generated"),
        ((SCORE, build("oracle")), (0.5, 0.5), "Oracle sees the outcomes"),
    ],
)
def test_what_is_no_cascade(routers, thresholds, message):
    with pytest.raises(InputError, match=message):
        Cascade(("a", "b", "c"), routers, thresholds)


def test_a_score_that_is_not_finite_names_the_model():
    tiers = planted.random_tiers(4, 3)
    bad = np.array([1.0, np.nan, 1.0, 1.0])
    inputs = [
        tiers.inputs[0],
        dataclasses.replace(tiers.inputs[1], scores={"s": bad}),
        tiers.inputs[2],
    ]
    with pytest.raises(InputError, match="Column on 'm1': score is nan"):
        decide(Cascade(tiers.models, (SCORE,) * 2, (-np.inf, 0.5)), inputs)
