"""Joining K models' records: order, alignment, selection, and what is refused."""

import make
import numpy as np
import pyarrow as pa
import pytest
import tiers_planted as planted

from routers.errors import InputError
from routers.records import Records, pair
from routers.tiers import join


@pytest.fixture(scope="module")
def records() -> Records:
    return planted.records(30)


def test_columns_are_those_of_the_rows(records):
    tiers = join(records, planted.MODELS, "test")
    rows = {(r["model"], r["query_id"]): r for r in records.table.to_pylist()}
    assert len(tiers) == 30
    assert tiers.unit == "flops"
    for k, model in enumerate(planted.MODELS):
        assert tiers.inputs[k].query_id.tolist() == sorted(tiers.inputs[0].query_id.tolist())
        for i, query in enumerate(tiers.inputs[0].query_id.tolist()):
            row = rows[model, query]
            assert tiers.quality[i, k] == row["quality"]
            assert tiers.cost[i, k] == row["flops"]
            assert tiers.inputs[k].scores["unsure"][i] == row["score:unsure"]


@pytest.mark.parametrize(("small", "large"), [(0, 1), (0, 2), (1, 2)])
def test_two_of_them_are_a_pair(small, large):
    """Also the teacher-forced columns, which come from both sides."""
    tables = [
        make.table(make.columns(12, m, "test", quality=0.5, flops=f, seed=1, tokens=True))
        for m, f in (("a", 1.0), ("bb", 10.0), ("ccc", 100.0))
    ]
    forced = {name: tables[0][name] for name in ("forced_logprob", "forced_topk_logprob")}
    forced["forced_hit"] = tables[0]["forced_hit"]
    tables = [
        t.drop_columns(list(forced)).append_column("forced_hit", forced["forced_hit"])
        for t in tables
    ]
    records = Records(pa.concat_tables(tables))
    models = ("a", "bb", "ccc")
    tiers = join(records, models, "test")
    inputs, outcomes = pair(records, models[small], models[large], "test")
    got = tiers.outcomes(small, large)
    for name in ("quality_small", "quality_large", "flops_small", "flops_large"):
        np.testing.assert_array_equal(getattr(got, name), getattr(outcomes, name))
    for name in ("forced_hit_small", "forced_hit_large"):
        np.testing.assert_array_equal(getattr(got, name).values, getattr(outcomes, name).values)
    assert got.forced_logprob_small is None
    assert tiers.inputs[small].token_logprob is not None
    np.testing.assert_array_equal(
        tiers.inputs[small].token_logprob.values, inputs.token_logprob.values
    )


def test_take_and_select(records):
    tiers = join(records, planted.MODELS, "test")
    some = tiers.take(np.array([4, 2])).select((0, 2))
    assert some.models == ("small", "large")
    np.testing.assert_array_equal(some.quality, tiers.quality[[4, 2]][:, [0, 2]])
    np.testing.assert_array_equal(some.cost, tiers.cost[[4, 2]][:, [0, 2]])
    assert some.inputs[1].query_id.tolist() == tiers.inputs[2].query_id[[4, 2]].tolist()
    assert len(some.forced) == 2


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (("small",), "1 tier; name at least two"),
        (("small", "smal", "large"), "no model 'smal' in the records; did you mean 'small'"),
        (("small", "small"), "'small' is named twice"),
        (("small", "large", "medium"), "cheapest first: small,medium,large"),
    ],
)
def test_names_that_make_no_cascade(records, models, message):
    with pytest.raises(InputError, match=message):
        join(records, models, "test")


def test_models_that_answered_other_queries(records):
    table = records.table
    last = np.array(table["model"].to_pylist()) == "large"
    missing = int(np.flatnonzero(last & (np.array(table["split"].to_pylist()) == "test"))[0])
    cut = Records(table.take(pa.array([i for i in range(len(table)) if i != missing])))
    with pytest.raises(InputError, match="log every query for both models"):
        join(cut, planted.MODELS, "test")
