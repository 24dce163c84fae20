"""Records: what is written comes back, and every fault is one clear line."""

import make
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from routers import records as R
from routers.errors import InputError
from routers.records import Records, concat, pair, read, small_and_large, write
from routers.schema import COLUMNS, normalise


def minimal(**changes):
    """Two models, two queries, the least a log needs; with columns changed or (None) dropped."""
    columns = {
        "query_id": ["q1", "q2", "q1", "q2"],
        "model": ["a", "a", "b", "b"],
        "quality": [0.0, 1.0, 1.0, 1.0],
        "flops": [1.0, 1.0, 9.0, 9.0],
    } | changes
    return {name: values for name, values in columns.items() if values is not None}


def save(folder, columns, name="log.parquet"):
    path = folder / name
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), path)
    return path


def fault(folder, columns):
    """The message that reading these columns raises; always a single line."""
    with pytest.raises(InputError) as error:
        read([save(folder, columns)])
    message = str(error.value)
    assert "\n" not in message
    return message


# -- round trips ------------------------------------------------------------------------


def test_written_records_come_back(tmp_path):
    records = make.records(20)
    write(tmp_path / "deep" / "r.parquet", records)
    back = read([tmp_path / "deep" / "r.parquet"])
    assert back.table.equals(records.table)
    assert back.metadata == {"commit": "abc"}
    assert (back.models, back.splits) == (["large", "small"], ["validation", "test"])
    assert back.tasks == ["copy", "facts", "sum"]
    assert len(back) == 80


def test_a_file_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "r.parquet"
    write(path, make.records(5))
    before = path.read_bytes()

    def fail(table, where):
        where.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(R.pq, "write_table", fail)
    with pytest.raises(OSError, match="disk full"):
        write(path, make.records(6))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["r.parquet"]


def test_faulty_records_are_not_written(tmp_path):
    with pytest.raises(InputError, match="quality"):
        write(tmp_path / "r.parquet", Records(pa.table(minimal(quality=None))))
    assert not list(tmp_path.iterdir())


def test_several_files_are_one(tmp_path):
    records = make.records(10)
    paths = []
    for model in records.models:
        rows = records.table.filter(pa.compute.equal(records.table["model"], model))
        paths.append(tmp_path / f"{model}.parquet")
        about = {"commit": "abc", "checkpoint": model}
        write(paths[-1], Records(rows, about))
    back = read(paths)
    assert back.metadata == {"commit": "abc", "checkpoint": "large; small"}
    (inputs, outcomes), (same, results) = (
        pair(r, "small", "large", "test") for r in (back, records)
    )
    same_inputs(inputs, same)
    np.testing.assert_array_equal(outcomes.quality_large, results.quality_large)


def same_inputs(a, b):
    np.testing.assert_array_equal(a.query_id, b.query_id)
    np.testing.assert_array_equal(a.token_logprob.values, b.token_logprob.values)
    np.testing.assert_array_equal(a.token_logprob.offsets, b.token_logprob.offsets)
    np.testing.assert_array_equal(a.topk_logprob.values, b.topk_logprob.values)


def test_a_file_without_token_columns_joins_one_with(tmp_path):
    """The large model's log often has no token columns; null there, whole for the small one."""
    small = make.table(make.columns(8, "small", "test", quality=0.5, flops=1, seed=0, tokens=True))
    large = make.table(make.columns(8, "large", "test", quality=0.9, flops=9, seed=0, tokens=False))
    joined = read([save(tmp_path, large, "l.parquet"), save(tmp_path, small, "s.parquet")])
    inputs, outcomes = pair(joined, "small", "large", "test")
    assert inputs.token_logprob is not None
    assert outcomes.forced_hit_small is not None
    assert outcomes.forced_hit_large is None


def test_concat_of_tables_in_memory():
    tables = [pa.table(minimal(query_id=[f"{k}{i}" for i in range(4)])) for k in "xy"]
    joined = concat(tables, {"k": "v"})
    assert (len(joined), joined.metadata) == (8, {"k": "v"})
    with pytest.raises(InputError, match="duplicate"):
        concat([tables[0], tables[0]], {})


def test_minimal_log_and_its_defaults(tmp_path):
    records = read([save(tmp_path, minimal())])
    assert (records.tasks, records.splits, records.cost_unit) == (["all"], ["test"], "flops")
    inputs, outcomes = pair(records, "a", "b", "test")
    assert inputs.prompt_tokens is None
    assert inputs.response_tokens is None
    assert inputs.scores == {}
    assert outcomes.gain.tolist() == [1.0, 0.0]


def test_costs_may_be_dollars(tmp_path):
    records = read([save(tmp_path, minimal(flops=None, dollars=[0.1, 0.2, 3.0, 4.0]))])
    assert records.cost_unit == "dollars"
    assert pair(records, "a", "b", "test")[1].flops_large.tolist() == [3.0, 4.0]


@pytest.mark.parametrize(
    "kind",
    [
        {"query_id": pa.array(["q1", "q2", "q1", "q2"]).dictionary_encode()},
        {"model": pa.array(["a", "a", "b", "b"], pa.large_string())},
        {"quality": [False, True, True, True]},
        {"quality": pa.array([0, 1, 1, 1], pa.int64())},
        {"token_logprob": pa.array([[-1.0], [-2.0], None, None], pa.large_list(pa.float64()))},
        {"extra": ["kept", "as", "it", "is"]},
    ],
)
def test_other_encodings_are_cast(tmp_path, kind):
    records = read([save(tmp_path, minimal(**kind))])
    for name in records.table.column_names:
        if name in COLUMNS:
            assert records.table[name].type == COLUMNS[name]
    assert pair(records, "a", "b", "test")[1].gain.tolist() == [1.0, 0.0]


# -- faults -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["query_id", "model", "quality"])
def test_missing_column(tmp_path, name):
    message = fault(tmp_path, minimal(**{name: None}))
    assert message.startswith(f"log.parquet: no column '{name}'; a log needs")


def test_misspelt_column_gets_a_hint(tmp_path):
    message = fault(tmp_path, minimal(quality=None, qualty=[0.0, 1.0, 1.0, 1.0]))
    assert "did you mean 'qualty'?" in message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quality": [0.0, np.nan, 1, 1]}, "row 1 (query_id 'q2'): 'quality' is NaN"),
        ({"quality": [0.0, None, 1, 1]}, "row 1 (query_id 'q2'): 'quality' is null"),
        ({"quality": [0.0, 1.0, 1.5, 1]}, "row 2 (query_id 'q1'): 'quality' is outside [0, 1] (1"),
        ({"quality": [-0.5, 1, 1, 1]}, "row 0 (query_id 'q1'): 'quality' is outside [0, 1] (-0"),
        ({"quality": ["good"] * 4}, "column 'quality' is string; cast it to float"),
        ({"query_id": [1, 2, 1, 2]}, "column 'query_id' is int64; cast it to string"),
        ({"query_id": ["q1", None, "q1", "q2"]}, "row 1 (query_id 'None'): 'query_id' is null"),
        ({"split": ["test", "test", "tset", "test"]}, "'split' is unknown ('tset'); use train,"),
        ({"flops": [1.0, None, 9, 9]}, "row 1 (query_id 'q2'): 'flops' is null in some rows"),
        ({"flops": [1.0, -1.0, 9, 9]}, "'flops' is negative or not finite (-1.0)"),
        ({"flops": [1.0, np.inf, 9, 9]}, "'flops' is negative or not finite (inf)"),
        ({"flops": [1.0, np.nan, 9, 9]}, "'flops' is negative or not finite (nan)"),
        ({"prompt_tokens": [1, -2, 3, 4]}, "'prompt_tokens' is negative or not finite (-2)"),
        (
            {"query_id": ["q1", "q1", "q1", "q2"]},
            "1 duplicate (query_id, model) pairs, first query_id 'q1' of model 'a' (2 rows)",
        ),
        (
            {"response_tokens": [1, 2, 1, 1], "token_logprob": [[-1.0], [-1.0], None, None]},
            "row 1 (query_id 'q2'): 'token_logprob' has 1 values where response_tokens is 2",
        ),
        (
            {"response_tokens": [1, 1, 1, 1], "topk_logprob": [[[-1.0]], [[-1.0]] * 2, None, None]},
            "row 1 (query_id 'q2'): 'topk_logprob' has 2 values where response_tokens is 1",
        ),
        (
            {"forced_logprob": [[-1.0]] * 4, "forced_hit": [[True], [True, False], [True], [True]]},
            "row 1 (query_id 'q2'): 'forced_hit' has 2 values where the length of forced_logprob",
        ),
        (
            {"token_logprob": [[-1.0], [-0.5, 0.7], None, None]},
            "row 1 (query_id 'q2'): 'token_logprob' holds 0.7 (above 0 or NaN); store nats",
        ),
        (
            {"token_logprob": [[], [], [np.nan], None]},
            "row 2 (query_id 'q1'): 'token_logprob' holds nan",
        ),
        ({"token_entropy": [[-1.0], [1.0], None, None]}, "row 0 (query_id 'q1'): 'token_entropy'"),
    ],
)  # fmt: skip
def test_faults_name_the_place(tmp_path, changes, message):
    found = fault(tmp_path, minimal(**changes))
    assert found.startswith("log.parquet: ")
    assert message in found
    assert "; " in found  # what to do follows


def test_empty_log(tmp_path):
    empty = {n: pa.array([], pa.string()) for n in ("query_id", "model")}
    assert "no rows" in fault(tmp_path, empty | {"quality": pa.array([], pa.float32())})


def test_no_cost_at_all(tmp_path):
    records = read([save(tmp_path, minimal(flops=None))])
    with pytest.raises(InputError, match="no column 'flops' or 'dollars'"):
        pair(records, "a", "b", "test")


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"none\.parquet: no such file"):
        read([tmp_path / "none.parquet"])
    with pytest.raises(InputError, match="no such file"):
        read([tmp_path])
    with pytest.raises(InputError, match="no records files"):
        read([])


@pytest.mark.parametrize("keep", [0, 4, 100, -8])
def test_truncated_file(tmp_path, keep):
    path = save(tmp_path, minimal())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"^log\.parquet: not a readable Parquet file") as error:
        read([path])
    assert "\n" not in str(error.value)


def test_file_of_another_kind(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("query_id,model\nq1,a\n")
    with pytest.raises(InputError, match="not a readable Parquet file"):
        read([path])


def test_newer_schema_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(R.schema, "VERSION", 2)
    write(tmp_path / "r.parquet", make.records(3))
    monkeypatch.undo()
    with pytest.raises(InputError, match="schema 2 is newer than 1"):
        read([tmp_path / "r.parquet"])


def test_duplicates_across_files(tmp_path):
    a, b = (save(tmp_path, minimal(), name) for name in ("a.parquet", "b.parquet"))
    with pytest.raises(InputError, match=r"^a\.parquet \+ b\.parquet: 4 duplicate"):
        read([a, b])


# -- pairing ----------------------------------------------------------------------------


def test_pair_joins_on_query_id_whatever_the_row_order():
    records = make.records(30)
    rows = np.random.default_rng(0).permutation(len(records))
    shuffled = Records(records.table.take(pa.array(rows)))
    (inputs, outcomes), (same, results) = (
        pair(r, "small", "large", "test") for r in (records, shuffled)
    )
    assert inputs.query_id.tolist() == sorted(inputs.query_id.tolist())
    same_inputs(inputs, same)
    np.testing.assert_array_equal(outcomes.quality_large, results.quality_large)
    np.testing.assert_array_equal(outcomes.forced_hit_large.values, results.forced_hit_large.values)


def test_pair_is_a_loop_over_rows():
    """Every value against the table's own Python rows, from a table of many chunks."""
    records = make.records(25, splits=("train", "validation", "test"))
    inputs, outcomes = pair(records, "small", "large", "validation")
    rows = {(r["query_id"], r["model"]): r for r in records.table.to_pylist()}
    assert records.table["token_logprob"].num_chunks > 1
    for i, query in enumerate(inputs.query_id.tolist()):
        ours, theirs = rows[query, "small"], rows[query, "large"]
        assert inputs.task[i] == ours["task"]
        assert inputs.prompt_tokens[i] == ours["prompt_tokens"]
        assert inputs.response_tokens[i] == ours["response_tokens"]
        assert inputs.token_logprob[i].tolist() == ours["token_logprob"]
        assert inputs.token_entropy[i].tolist() == ours["token_entropy"]
        assert inputs.topk_logprob[i].tolist() == ours["topk_logprob"]
        assert inputs.prompt_embedding[i].tolist() == ours["prompt_embedding"]
        assert outcomes.quality_small[i] == ours["quality"]
        assert outcomes.quality_large[i] == theirs["quality"]
        assert outcomes.flops_small[i] == ours["flops"]
        assert outcomes.flops_large[i] == theirs["flops"]
        assert outcomes.forced_logprob_small[i].tolist() == ours["forced_logprob"]
        assert outcomes.forced_topk_logprob_small[i].tolist() == ours["forced_topk_logprob"]
        assert outcomes.forced_hit_small[i].tolist() == ours["forced_hit"]
        assert outcomes.forced_hit_large[i].tolist() == theirs["forced_hit"]
    assert inputs.topk_logprob.values.shape[1] == make.TOPK
    assert outcomes.forced_hit_small.values.dtype == bool


def test_sliced_tables_keep_their_rows():
    """Offsets of a slice do not start at zero."""
    whole = make.records(12, splits=("test",)).table.combine_chunks()
    kept = pa.concat_tables([whole.slice(3, 9), whole.slice(15, 9)])  # small 3-11, large 3-11
    inputs, _ = pair(Records(kept), "small", "large", "test")
    full, _ = pair(Records(whole), "small", "large", "test")
    same_inputs(inputs, full.take(np.arange(3, 12)))


def test_ready_made_scores_are_the_small_models():
    inputs, _ = pair(Records(make.table(make.minimal(6))), "a", "b", "test")
    want = make.minimal(6)["score:mine"][:6]
    order = np.argsort([f"q{i}" for i in range(6)])
    np.testing.assert_array_equal(inputs.scores["mine"], np.array(want)[order])


def test_models_that_answered_different_queries():
    columns = minimal(query_id=["q1", "q2", "q1", "q3"])
    with pytest.raises(InputError) as error:
        pair(Records(normalise(pa.table(columns), "x")), "a", "b", "test")
    assert str(error.value) == (
        "split 'test': 'a' answered 2 queries and 'b' 2, 1 lack 'b' (e.g. 'q2') and "
        "1 lack 'a' (e.g. 'q3'); log every query for both models"
    )


def test_column_that_only_some_rows_have():
    columns = minimal(token_logprob=[[-1.0], None, None, None])
    with pytest.raises(InputError, match=r"'token_logprob' is null for 1 of 2 rows of model 'a'"):
        pair(Records(normalise(pa.table(columns), "x")), "a", "b", "test")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"topk_logprob": [[[-1.0]], [[-1.0, -2.0]], None, None]}, "different numbers of values"),
        ({"prompt_embedding": [[1.0], [1.0, 2.0], None, None]}, "rows of 1 and 2 values"),
        ({"prompt_embedding": [[1.0], [None], None, None]}, "null values inside"),
    ],
)
def test_lists_that_do_not_fit(changes, message):
    with pytest.raises(InputError, match=message):
        pair(Records(normalise(pa.table(minimal(**changes)), "x")), "a", "b", "test")


def test_empty_responses_are_rows_too():
    columns = minimal(token_logprob=[[], [-1.0, -2.0], None, None])
    inputs, _ = pair(Records(normalise(pa.table(columns), "x")), "a", "b", "test")
    assert inputs.token_logprob.lengths.tolist() == [0, 2]
    nothing = minimal(token_logprob=[[], [], None, None])
    inputs, _ = pair(Records(normalise(pa.table(nothing), "x")), "a", "b", "test")
    assert inputs.token_logprob.lengths.tolist() == [0, 0]


def test_split_that_is_not_there():
    with pytest.raises(InputError, match="no rows in split 'train'; splits in the records: val"):
        pair(make.records(4), "small", "large", "train")


@pytest.mark.parametrize(
    ("small", "large", "want"),
    [
        (None, None, ("small", "large")),
        ("large", None, ("large", "small")),  # asked for: against the costs
        (None, "large", ("small", "large")),
        ("small", "large", ("small", "large")),
    ],
)
def test_small_and_large(small, large, want):
    assert small_and_large(make.records(4), small, large) == want


@pytest.mark.parametrize(
    ("small", "large", "message"),
    [
        ("smal", None, "no model 'smal' in the records; did you mean 'small'?"),
        (None, "xx", "no model 'xx' in the records; Known: large, small"),
        ("small", "small", "small and large are both 'small'"),
    ],
)
def test_models_that_make_no_cascade(small, large, message):
    with pytest.raises(InputError) as error:
        small_and_large(make.records(4), small, large)
    assert str(error.value).startswith(message)


def test_more_than_two_models_need_names():
    columns = minimal(model=["a", "a", "b", "c"])
    records = Records(normalise(pa.table(columns), "x"))
    with pytest.raises(InputError, match=r"hold 3 models \(a, b, c\); name the small"):
        small_and_large(records)
    assert small_and_large(records, "c", "a") == ("c", "a")
