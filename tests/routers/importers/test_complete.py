"""The last step: names, splits, grades, scales, counts; nothing is filled in silently."""

import hashlib
import json
import re

import numpy as np
import pytest
from foreign import grades, write_jsonl

from routers.errors import InputError
from routers.importers.complete import VALIDATION_SHARE, complete, hashed_splits
from routers.importers.options import Options

FLAT = {"a": 1.0, "b": 2.0}


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text("{}\n")
    return path


def columns(**more):
    base = {
        "query_id": ["q1", "q2", "q1", "q2"],
        "model": ["a", "a", "b", "b"],
        "quality": [1.0, 0.0, 0.5, 1.0],
    }
    return {name: values for name, values in (base | more).items() if values is not None}


def done(log, given=None, **options):
    return complete(
        given or columns(), "made", [log], Options(**{"query_cost": FLAT} | options), hint="x"
    )


def refused(log, given=None, **options) -> str:
    with pytest.raises(InputError) as caught:
        done(log, given, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_metadata_tells_where_everything_came_from(log):
    found = done(log).metadata
    assert found["format"] == "made"
    assert found["sources"] == f"log.jsonl sha256:{hashlib.sha256(log.read_bytes()).hexdigest()}"
    assert found["split_rule"].startswith("by hash of the query id, 30% to validation")
    assert "as the log has no splits" in found["split_rule"]
    assert found["cost_rule"] == "dollars: a: 1 a query, b: 2 a query"
    assert found["hint"] == "x"


def by_hand(query: str) -> str:
    """The split rule again: the first 8 bytes of BLAKE2b as a little-endian integer."""
    value = int.from_bytes(
        hashlib.blake2b(b"0\x00" + query.encode(), digest_size=8).digest(), "little"
    )
    return "validation" if value * 10 < 3 * 2**64 else "test"


def test_the_hash_split_is_the_documented_one_and_near_its_share():
    ids = np.array([f"query {i} ä" for i in range(4000)])
    found = hashed_splits(ids)
    assert found.tolist() == [by_hand(query) for query in ids.tolist()]
    share = np.mean(found == "validation")
    assert abs(share - VALIDATION_SHARE) < 4 * np.sqrt(0.3 * 0.7 / 4000)


def test_a_query_has_one_split_whatever_the_model_and_the_order(log):
    once = done(log).table.to_pylist()
    turned = {name: values[::-1] for name, values in columns().items()}
    again = done(log, turned).table.to_pylist()
    keys = [{(row["query_id"], row["split"]) for row in rows} for rows in (once, again)]
    assert keys[0] == keys[1]
    assert len(keys[0]) == 2


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_one_split_for_all(log, split):
    found = done(log, columns(split=["train"] * 4), split=split)
    assert found.splits == [split]
    assert found.metadata["split_rule"] == f"every row {split}, as asked"


def test_the_splits_of_the_log_stay_unless_hash_is_asked(log):
    given = columns(split=["train", "test"] * 2)
    assert done(log, given).table["split"].to_pylist() == ["train", "test"] * 2
    assert done(log, given).metadata["split_rule"] == "as in the log"
    hashed = done(log, given, split="hash")
    assert hashed.table["split"].to_pylist() == [by_hand("q1"), by_hand("q2")] * 2
    assert hashed.metadata["split_rule"].endswith("as asked")


def test_names_for_logs_that_do_not_say(log):
    given = columns(model=None, query_id=["q1", "q2", "q3", "q4"])
    found = done(log, given, model="a", task="sums", query_cost={"a": 1.0})
    assert (found.models, found.tasks) == (["a"], ["sums"])
    assert done(log).tasks == ["all"]
    assert "give --model NAME" in refused(log, given)
    assert "names its own model ('a'); leave out --model" in refused(log, model="c")
    assert "names its own task ('t')" in refused(log, columns(task=["t"] * 4), task="u")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([100.0, 0.0, 50.0, 1.0], r"runs from 0 to 100 and must lie in \[0, 1\]; .* divide by 100"),
        ([10, 0, 7, 1], "if its scale is 0 to 10, divide by 10"),
        ([4.5, 0, 7e8, 1], "from 0 to 7e\\+08 .*; rescale it"),
        ([-1.0, 1.0, 0.0, 1.0], "from -1 to 1 .*; rescale it"),
        ([None, 1.0, 0.0, 1.0], "'quality' is null"),
        (["good", 1.0, 0.0, 1.0], "column 'quality' does not hold float"),
        ([float("nan"), 1.0, 0.0, 1.0], "'quality' is NaN"),
        ([float("nan")] * 4, "'quality' is NaN"),
        ([float("inf"), 0.0, 0.0, 1.0], "runs from 0 to inf"),
    ],
)
def test_quality_on_another_scale_is_refused_with_the_scale(log, values, message):
    assert re.search(message, refused(log, columns(quality=values)))


@pytest.mark.parametrize("name", ["query_id", "model"])
def test_every_row_needs_its_keys(log, name):
    values = [*columns()[name][:2], None, "x"]
    assert f"row 2 has no {name}" in refused(log, columns(**{name: values}))
    if name == "query_id":
        assert "row 0 has no query_id" in refused(log, columns(query_id=None))


def test_duplicates_and_empty_logs(log):
    assert "duplicate (query_id, model)" in refused(log, columns(query_id=["q1"] * 4))
    assert "no rows" in refused(log, {"query_id": [], "model": [], "quality": []})


def test_columns_filled_in_part_are_refused_and_texts_may_have_gaps(log):
    found = done(log, columns(response=["x", None, None, None], latency_s=[1.0, 2.0, None, None]))
    assert found.table["response"].null_count == 3
    message = refused(log, columns(latency_s=[1.0, None, 2.0, 2.0]))
    assert "'latency_s' is missing in 1 of 2 rows of model 'a' (e.g. query_id 'q2')" in message


def test_columns_of_nulls_are_left_out(log):
    given = columns(token_logprob=[None] * 4, reference=[None] * 4, task=[None] * 4)
    names = done(log, given).table.column_names
    assert not {"token_logprob", "reference"} & set(names)


def test_costs_use_billed_tokens_and_counts_follow_the_logged_ones(log):
    given = columns(
        prompt_tokens=[10] * 4,
        response_tokens=[3, 2, 5, 5],
        token_logprob=[[-1.0, -1.0], [-0.5, -0.5], None, None],
    )
    found = done(log, given, query_cost={}, prices={"a": (0.0, 1e6), "b": (0.0, 1e6)})
    assert found.table["dollars"].to_pylist() == [3, 2, 5, 5]
    assert found.table["response_tokens"].to_pylist() == [2, 2, 5, 5]
    assert "other in 1 rows" in found.metadata["response_tokens"]
    same = columns(response_tokens=[2] * 4, token_logprob=[[-1.0, -1.0]] * 4)
    assert "response_tokens" not in done(log, same).metadata


def test_values_the_schema_refuses_are_one_line(log):
    assert "does not hold" in refused(log, columns(token_logprob=[["x"], [1.0], None, None]))
    assert "above 0" in refused(log, columns(token_logprob=[[0.5]] * 4))


def test_grades_are_joined_by_query_and_model(log, tmp_path):
    rows = [("q2", 0, "b"), ("q1", 1, "a"), ("q1", 0.5, "b"), ("q2", "false", "a"), ("q9", 1, "a")]
    path = grades(tmp_path / "g.csv", rows, "query_id,quality,model")
    found = done(log, columns(quality=None), quality=path)
    assert found.table["quality"].to_pylist() == [1.0, 0.0, 0.5, 0.0]
    assert found.metadata["grades"].startswith("g.csv sha256:")


def test_grades_bring_tasks_and_splits(log, tmp_path):
    lines = [{"query_id": q, "quality": 1, "task": f"t{q}", "split": "train"} for q in ("q1", "q2")]
    path = write_jsonl(tmp_path / "g.jsonl", lines)
    given = {"query_id": ["q1", "q2"], "model": ["a", "a"]}
    found = done(log, given, quality=path, query_cost={"a": 1.0})
    assert (found.tasks, found.splits) == (["tq1", "tq2"], ["train"])
    assert found.metadata["split_rule"] == "as in the log"
    assert "both the log and the grades name the task" in refused(
        log, given | {"task": ["t", "t"]}, quality=path, query_cost={"a": 1.0}
    )


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        ([("q1", 1), ("q2", 1)], "query_id,quality", "no column 'model', but the log holds 2"),
        (
            [("q1", 1, "a")],
            "query_id,quality,model",
            "no grade for query_id 'q2' of model 'a' .3 of 4",
        ),
        ([("q1", 1, "a"), ("q1", 0, "a")], "query_id,quality,model", "'q1' is graded twice"),
        ([("q1", "", "a")], "query_id,quality,model", "'q1' has no quality"),
        ([("q1", "ok", "a")], "query_id,quality,model", "row 0, column 'quality' is 'ok'"),
        ([("q1", "a")], "query_id,model", "no column 'quality'; it has query_id, model"),
    ],
)
def test_grades_that_do_not_fit_are_refused(log, tmp_path, rows, header, message):
    path = grades(tmp_path / "g.csv", rows, header)
    assert re.search(message, refused(log, columns(quality=None), quality=path))


def test_no_grades_and_grades_twice(log, tmp_path):
    assert "no quality in this log; give --quality FILE" in refused(log, columns(quality=None))
    path = grades(tmp_path / "g.csv", [("q1", 1)])
    assert "has its own quality; leave out --quality" in refused(log, quality=path)
    gone = tmp_path / "gone.csv"
    assert "no such file" in refused(log, columns(quality=None), quality=gone)


def test_the_result_survives_the_disk(log, tmp_path):
    from routers.records import read, write

    found = done(log, columns(**{"score:s": [0.1, 0.2, None, None]}))
    write(tmp_path / "r.parquet", found)
    again = read([tmp_path / "r.parquet"])
    assert again.table.equals(found.table)
    assert again.metadata == found.metadata
    assert json.dumps(again.metadata)
