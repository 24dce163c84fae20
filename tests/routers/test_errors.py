"""Bad input: one exception, and hints that name the nearest word."""

import pytest

from routers.errors import InputError, did_you_mean


def test_bad_input_is_a_value_error_with_its_own_text():
    error = InputError("x.parquet: no column 'quality'; add it")
    assert isinstance(error, ValueError)
    assert str(error) == "x.parquet: no column 'quality'; add it"


@pytest.mark.parametrize("at", range(8))
def test_one_dropped_letter_is_recognised(at):
    known = ["chow_sum", "entropy", "length"]
    typo = known[0][:at] + known[0][at + 1 :]
    assert did_you_mean(typo, known).startswith("did you mean 'chow_sum'? Known: ")


def test_without_a_near_word_everything_known_is_listed_in_order():
    assert did_you_mean("zzzz", ["b", "a"]) == "Known: b, a"
    assert did_you_mean("a", []) == "Known: "
