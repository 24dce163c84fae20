"""Costs against the same sums in plain Python, row by row."""

import numpy as np
import pyarrow as pa
import pytest

from routers.errors import InputError
from routers.importers.cost import add_cost
from routers.importers.options import Options

ROWS = [("a", 10, 5), ("b", 11, 7), ("a", 0, 1), ("b", 2000, 3)]


def table(**more) -> pa.Table:
    model, prompt, response = zip(*ROWS, strict=True)
    columns = {"model": model, "prompt_tokens": prompt, "response_tokens": response} | more
    return pa.table({name: pa.array(list(values)) for name, values in columns.items()})


def test_flops_are_two_n_per_token():
    sizes = {"a": 7e9, "b": 1.5e8}
    done, rule = add_cost(table(), Options(parameters=sizes))
    wanted = [2 * sizes[m] * (p + r) for m, p, r in ROWS]
    np.testing.assert_allclose(done["flops"].to_numpy(), wanted, rtol=1e-15)
    assert rule.startswith("flops: 2N rule")
    assert "a: N = 7e+09" in rule
    assert "dollars" not in done.column_names


def test_dollars_are_prices_per_million():
    prices = {"a": (0.5, 1.5), "b": (30.0, 60.0)}
    done, rule = add_cost(table(), Options(prices=prices))
    wanted = [(p * prices[m][0] + r * prices[m][1]) / 1e6 for m, p, r in ROWS]
    np.testing.assert_allclose(done["dollars"].to_numpy(), wanted, rtol=1e-14)
    assert "b: 30 and 60 per million" in rule


def test_a_flat_cost_needs_no_tokens_and_mixes_with_prices():
    done, rule = add_cost(table(), Options(query_cost={"a": 0.25}, prices={"b": (1.0, 2.0)}))
    wanted = [0.25 if m == "a" else (p + 2 * r) / 1e6 for m, p, r in ROWS]
    np.testing.assert_allclose(done["dollars"].to_numpy(), wanted, rtol=1e-14)
    assert "a: 0.25 a query" in rule
    bare = table().select(["model"])
    flat, _ = add_cost(bare, Options(query_cost={"a": 1.0, "b": 2.0}))
    assert flat["dollars"].to_pylist() == [1.0, 2.0, 1.0, 2.0]


def test_both_units_at_once():
    done, rule = add_cost(
        table(), Options(parameters={"a": 1, "b": 2}, query_cost={"a": 1, "b": 2})
    )
    assert {"flops", "dollars"} <= set(done.column_names)
    assert rule.count("; ") == 1


def test_the_log_is_believed_unless_told_otherwise():
    logged = table(dollars=[1.0, 2.0, 3.0, 4.0])
    done, rule = add_cost(logged, Options())
    assert done["dollars"].to_pylist() == [1.0, 2.0, 3.0, 4.0]
    assert rule == "dollars: as in the log"
    done, _ = add_cost(logged, Options(query_cost={"b": 9.0}))
    assert done["dollars"].to_pylist() == [1.0, 9.0, 3.0, 9.0]


def test_a_column_of_nulls_is_no_cost():
    nulls = table(dollars=pa.array([None] * 4, pa.float64()))
    done, _ = add_cost(nulls, Options(parameters={"a": 1, "b": 1}))
    assert "dollars" not in done.column_names


@pytest.mark.parametrize(
    ("options", "more", "message"),
    [
        (Options(), {}, "cannot know what model 'a' cost; give --price 'a=IN,OUT'"),
        (Options(parameters={"a": 1}), {}, "not of every row of 'b'; give --parameters 'b=N' too"),
        (Options(prices={"b": (1, 1)}), {}, "not of every row of 'a'; give --price 'a=IN,OUT'"),
        (Options(parameters={"aa": 1}), {}, "no model 'aa' in this log; .*Known: a, b"),
        (Options(), {"dollars": [1.0, None, 1.0, 1.0]}, "not of every row of 'b'"),
        (
            Options(parameters={"a": 1, "b": 1}),
            {"response_tokens": [1, 2, None, 4]},
            "model 'a': no response_tokens in this log",
        ),
    ],
)
def test_a_cost_that_cannot_be_known_is_refused(options, more, message):
    with pytest.raises(InputError, match=message) as caught:
        add_cost(table(**more), options)
    assert "\n" not in str(caught.value)


def test_a_log_without_counts_is_told_about_flat_costs():
    with pytest.raises(InputError, match=r"--query-cost 'a=DOLLARS' \(this log has no token"):
        add_cost(table().select(["model"]), Options())
