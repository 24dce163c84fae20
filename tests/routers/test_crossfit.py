"""Cross-fitting: against a plain loop; folds by id; no query is scored by a fit that saw it."""

import dataclasses
from typing import ClassVar

import numpy as np
import pytest
from planted import planted

from routers.base import Router
from routers.build import build
from routers.crossfit import cross_fit, fold_of
from routers.errors import InputError


@dataclasses.dataclass(frozen=True, eq=False)
class Memory(Router):
    """Gain of a query it was fitted on; 9 for any other."""

    learned: ClassVar[bool] = True
    seen_: dict | None = None

    def fit(self, inputs, outcomes):
        gains = dict(zip(inputs.query_id.tolist(), outcomes.gain.tolist(), strict=True))
        return dataclasses.replace(self, seen_=gains)

    def score(self, inputs):
        return np.array([float(self.seen_.get(q, 9.0)) for q in inputs.query_id.tolist()])


def test_no_query_is_scored_by_a_router_that_saw_it():
    inputs, outcomes = planted(53)
    assert (cross_fit(Memory(), inputs, outcomes) == 9.0).all()
    assert (Memory().fit(inputs, outcomes).score(inputs) != 9.0).all()


def test_scores_equal_a_plain_loop():
    inputs, outcomes = planted(120)
    got = cross_fit(build("knn:k=5"), inputs, outcomes, folds=3, seed=7)
    fold = fold_of(inputs.query_id, 3, 7)
    for i in range(0, 120, 11):
        rest = np.array([j for j in range(120) if fold[j] != fold[i]])
        router = build("knn:k=5").fit(inputs.take(rest), outcomes.take(rest))
        np.testing.assert_allclose(got[i], router.score(inputs.take(np.array([i])))[0], rtol=1e-12)


def test_folds_are_even_and_tied_to_the_id_alone():
    ids = np.array([f"q{i}" for i in range(103)])
    fold = fold_of(ids, 5, seed=3)
    counts = np.bincount(fold)
    assert counts.max() - counts.min() <= 1
    shuffled = np.random.default_rng(0).permutation(103)
    np.testing.assert_array_equal(fold_of(ids[shuffled], 5, seed=3), fold[shuffled])
    twice = fold_of(np.concatenate([ids, ids]), 5, seed=3)
    np.testing.assert_array_equal(twice[:103], twice[103:])
    assert (fold_of(ids, 5, seed=4) != fold).any()


def test_a_training_free_router_is_asked_directly():
    inputs, outcomes = planted(30)
    np.testing.assert_array_equal(
        cross_fit(build("chow_sum"), inputs, outcomes), build("chow_sum").score(inputs)
    )


def test_a_prompt_router_is_shown_only_the_prompt():
    @dataclasses.dataclass(frozen=True, eq=False)
    class Nosy(Memory):
        stage: ClassVar = "prompt"

        def score(self, inputs):
            assert inputs.token_logprob is None
            return np.zeros(len(inputs))

    inputs, outcomes = planted(20)
    assert (cross_fit(Nosy(), inputs, outcomes) == 0).all()


@pytest.mark.parametrize(
    ("spec", "n", "folds", "says"),
    [
        ("oracle", 30, 5, "sees the outcomes"),
        ("knn", 30, 1, "at least 2"),
        ("knn", 4, 5, "4 distinct queries for 5 folds"),
    ],
)
def test_refusals(spec, n, folds, says):
    inputs, outcomes = planted(n)
    with pytest.raises(InputError, match=says):
        cross_fit(build(spec), inputs, outcomes, folds)


def test_out_of_fold_scores_are_honest_where_in_sample_scores_are_not():
    """Pure noise: one neighbour knows its own fit rows by heart, and nothing out of fold."""
    inputs, outcomes = planted(800)
    noise = np.random.default_rng(1).permutation(800)
    shuffled = outcomes.take(noise)
    router = build("knn:k=1")
    in_sample = router.fit(inputs, shuffled).score(inputs)
    assert np.corrcoef(in_sample, shuffled.gain)[0, 1] > 0.99
    out = cross_fit(router, inputs, shuffled)
    # Standard error of a correlation of 800 independent pairs: 0.035.
    assert abs(np.corrcoef(out, shuffled.gain)[0, 1]) < 0.14
