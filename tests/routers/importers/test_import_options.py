"""What a person adds to a log is checked before any log is read."""

import math

import pytest

from routers.errors import InputError
from routers.importers.options import Options


def test_what_is_given_is_kept():
    options = Options(split="hash", prices={"a": (1.0, 2.0)}, parameters={"a": 7e9})
    assert (options.split, options.prices["a"], options.parameters["a"]) == (
        "hash",
        (1.0, 2.0),
        7e9,
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"split": "tset"}, "split 'tset' is unknown; did you mean 'test'"),
        ({"prices": {"a": (-1.0, 2.0)}}, r"price of 'a' \(prompt\) is -1.0"),
        ({"prices": {"a": (1.0, math.nan)}}, r"price of 'a' \(response\) is nan"),
        ({"query_cost": {"a": math.inf}}, "query cost of 'a' is inf"),
        ({"parameters": {"a": -7e9}}, "parameters of 'a' is -7"),
    ],
)
def test_what_cannot_be_is_refused(fields, message):
    with pytest.raises(InputError, match=message):
        Options(**fields)


def test_a_format_refuses_what_it_has_no_use_for():
    Options().refuse("table", "metric", "columns")
    with pytest.raises(InputError, match="--metric: table has no use for it"):
        Options(metric="acc").refuse("table", "columns", "metric")
    with pytest.raises(InputError, match="--map: lm_eval"):
        Options(columns={"quality": "x"}).refuse("lm_eval", "columns")
