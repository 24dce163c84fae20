"""No leaks, for every router that is found: shuffled outcomes, and the large model's columns."""

import functools

import make
import numpy as np
import pyarrow as pa
import pytest
from planted import planted

from routers.base import Outcomes
from routers.build import build, names
from routers.curves import deferral_curve
from routers.records import Records, pair

LEARNED = [name for name in names() if build(name).learned and not build(name).peeks]
FIT, FRESH = np.arange(400), np.arange(400, 2400)


@functools.cache
def shuffled(seed: int = 0):
    """Inputs that say nothing about the outcomes, in the fit rows and in the fresh ones.

    Shuffling the fit rows alone would not do: a router may then rank by a signal that matters,
    the right way round or the wrong way round, as chance has it, and land far from the chord.
    """
    inputs, outcomes = planted(2400, seed=seed)
    return inputs, outcomes.take(np.random.default_rng(seed + 1).permutation(2400))


def above_the_chord(score, outcomes: Outcomes) -> float:
    """Area under the deferral curve minus the random chord's, in standard errors.

    The score being independent of the gains g, the area exceeds the chord by the mean of
    g (1/2 - u), u the ranks in [0, 1], a random permutation: mean 0, variance Var(g) / (12 n).
    Where the large model is never worse, Var(g) = p (1 - p) is that of a binomial share.
    """
    curve = deferral_curve(score, outcomes)
    area = np.trapezoid(curve.quality, curve.deferral_rate)
    chord = (outcomes.quality_small.mean() + outcomes.quality_large.mean()) / 2
    return float((area - chord) / np.sqrt(outcomes.gain.var() / (12 * len(outcomes))))


@pytest.mark.parametrize("name", LEARNED)
def test_shuffled_outcomes_give_the_random_chord_on_fresh_queries(name):
    inputs, outcomes = shuffled()
    router = build(name).fit(inputs.take(FIT), outcomes.take(FIT))
    score = router.score(inputs.take(FRESH))
    # Beyond 4 standard errors lies a share of 6e-5.
    assert abs(above_the_chord(score, outcomes.take(FRESH))) < 4


def test_the_tolerance_would_catch_a_router_that_knows_the_answers():
    inputs, outcomes = shuffled()
    peeks = build("oracle").fit(inputs, outcomes).score(inputs.take(FRESH))
    assert above_the_chord(peeks, outcomes.take(FRESH)) > 20
    by_heart = build("knn:k=1").fit(inputs.take(FIT), outcomes.take(FIT))
    assert above_the_chord(by_heart.score(inputs.take(FIT)), outcomes.take(FIT)) > 10


def test_the_standard_error_is_that_of_random_scores():
    _, outcomes = shuffled()
    rng = np.random.default_rng(0)
    fresh = outcomes.take(FRESH)
    spread = np.std([above_the_chord(rng.random(len(FRESH)), fresh) for _ in range(400)])
    assert abs(spread - 1) < 0.15  # standard error of a spread from 400: 0.035


def logged() -> Records:
    """Two models with every column of the schema filled, for 40 queries of either split."""
    tables, forced = [], {}
    for split in ("validation", "test"):
        for model, quality, flops in (("small", 0.5, 1e6), ("large", 0.8, 1e7)):
            columns = make.columns(
                40, model, split, quality=quality, flops=flops, seed=3, tokens=True
            )
            if model == "small":
                forced = {name: columns[name] for name in columns if name.startswith("forced_")}
            columns |= forced  # teacher-forced on the same references, so of the same lengths
            columns["response"] = [f"answer {i % 4}" for i in range(40)]
            columns["sampled_responses"] = [[f"answer {i % 3}", "other"] for i in range(40)]
            columns["response_embedding"] = columns["prompt_embedding"]
            tables.append(make.table(columns))
    return Records(pa.concat_tables(tables))


def large_permuted(records: Records) -> Records:
    """The same log with everything the large model said and did dealt out anew."""
    table = records.table
    mine = np.array(table["model"].to_pylist()) == "large"
    rows = np.arange(len(table))
    for split in ("validation", "test"):
        block = np.flatnonzero(mine & (np.array(table["split"].to_pylist()) == split))
        rows[block] = np.random.default_rng(0).permutation(block)
    keys = ("query_id", "task", "split", "model")
    columns = {
        name: table[name] if name in keys else table[name].take(pa.array(rows))
        for name in table.column_names
    }
    return Records(pa.table(columns))


@pytest.mark.parametrize("name", [name for name in names() if not build(name).peeks])
def test_permuting_the_large_models_columns_changes_no_score(name):
    records = logged()
    fit = pair(records, "small", "large", "validation")
    router = build(name).fit(*fit)
    before, truth = pair(records, "small", "large", "test")
    after, permuted = pair(large_permuted(records), "small", "large", "test")
    assert (truth.quality_large != permuted.quality_large).any()
    assert (truth.flops_large != permuted.flops_large).any()
    seen = [inputs.at_stage(router.stage) for inputs in (before, after)]
    np.testing.assert_array_equal(*(router.score(inputs) for inputs in seen))
    np.testing.assert_array_equal(*(router.flops_per_query(inputs) for inputs in seen))
