"""Cells as people wrote them, against Python's own csv and json."""

import csv
import gzip
import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from foreign import write_jsonl

from routers.errors import InputError
from routers.importers.tabular import cells, convert, load, pick, require


def refused(work, *arguments) -> str:
    with pytest.raises(InputError) as caught:
        work(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


HARD = [
    ["007", 'say "hi", now', "null"],
    ["NA", "two\nlines", ""],
    ["1e5", "ümlaut, 漢字", "nan"],
    ["-0", "  spaces  ", "None"],
]


@pytest.mark.parametrize(("suffix", "delimiter"), [("csv", ","), ("tsv", "\t")])
@pytest.mark.parametrize("packed", [False, True])
def test_text_cells_stay_as_they_are(tmp_path, suffix, delimiter, packed):
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=delimiter).writerows([["query_id", "prompt", "response"], *HARD])
    data = buffer.getvalue().encode("utf-8-sig")
    path = tmp_path / (f"t.{suffix}.gz" if packed else f"t.{suffix}")
    path.write_bytes(gzip.compress(data) if packed else data)
    rows = load(path)
    assert (len(rows), rows.names) == (4, ["query_id", "prompt", "response"])
    found = [cells(rows, name, name) for name in rows.names]
    assert [list(row) for row in zip(*found, strict=True)] == HARD


def test_a_cell_larger_than_a_block_is_read(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("query_id,prompt\nq," + "x" * (3 * 2**20) + "\n")
    assert len(cells(load(path), "prompt", "prompt")[0]) == 3 * 2**20


def test_the_same_table_in_four_formats(tmp_path):
    data = {"query_id": ["a", "b"], "quality": [1.0, 0.25], "response_tokens": [3, 4]}
    pq.write_table(pa.table(data), tmp_path / "t.parquet")
    lines = [dict(zip(data, row, strict=True)) for row in zip(*data.values(), strict=True)]
    write_jsonl(tmp_path / "t.jsonl", lines)
    for suffix, delimiter in (("csv", ","), ("tsv", "\t")):
        with (tmp_path / f"t.{suffix}").open("w", newline="") as file:
            csv.writer(file, delimiter=delimiter).writerows([data, *(r.values() for r in lines)])
    for suffix in ("parquet", "jsonl", "csv", "tsv"):
        rows = load(tmp_path / f"t.{suffix}")
        assert {name: cells(rows, name, name) for name in data} == data, suffix


def test_dotted_paths():
    item = {"a": {"b": [10, {"c": 11}]}, "a.b": 12, "n": None}
    assert pick(item, "a.b") == 12  # a name with a dot goes before a path
    assert pick(item, "a.b.1.c") == 11
    assert pick(item, "a.b.0") == 10
    for path in ("a.b.2", "a.b.-1", "a.b.x", "n.x", "z", "a.b.0.c", "a.b.١", ""):
        assert pick(item, path) is None


@pytest.mark.parametrize(
    ("value", "ours", "wanted"),
    [
        (17, "query_id", "17"), ("x", "query_id", "x"), (None, "query_id", None),
        (["a"], "prompt", '["a"]'), ({"k": "ä"}, "response", '{"k": "ä"}'),
        ("3", "response_tokens", 3), (3.0, "response_tokens", 3), (True, "quality", 1.0),
        ([-1.0], "token_logprob", [-1.0]), ("2.5", "score:x", 2.5), ("", "score:x", None),
    ],
)  # fmt: skip
def test_conversions(value, ours, wanted):
    assert convert(value, ours, "here") == wanted


@pytest.mark.parametrize(
    ("value", "ours", "message"),
    [
        (1.5, "query_id", "here is float 1.5; give text or an integer"),
        (True, "query_id", "here is bool True"),
        (["a"], "model", "here is list"),
        (2.5, "response_tokens", "here is 2.5; give a count"),
        (-1, "prompt_tokens", "here is -1; give a count"),
        (2**40, "prompt_tokens", "give a count"),
        ("a", "latency_s", "here is 'a'; give a finite number"),
        ({}, "quality", "here is 'dict'; give a finite number"),
    ],
)
def test_what_a_column_cannot_hold(value, ours, message):
    assert message in refused(convert, value, ours, "here")


def test_a_mapping_to_nothing_gets_a_suggestion(tmp_path):
    rows = load(write_jsonl(tmp_path / "t.jsonl", [{"correct": 1, "deep": {"x": 0}}]))
    require(rows, "deep.x", "quality")
    assert "no column 'corect' (mapped to quality); did you mean 'correct'" in refused(
        require, rows, "corect", "quality"
    )


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("t.csv", b"a,b\n1,2\n3\n", "broken CSV"),
        ("t.csv", b"a,a\n1,2\n", "two columns named 'a'"),
        ("t.csv", b"", "empty; is this the right file"),
        ("t.csv", b"a,b\n\xff,1\n", "not UTF-8 (byte 0xff at 4)"),
        ("t.csv", b"\xff\xfea,b\n", "not UTF-8 (byte 0xff at 0)"),
        ("t.csv", b"PK\x03\x04....", "a zip archive"),
        ("t.parquet", b"PAR1....", "not a readable Parquet file"),
        ("t.jsonl", b"\n\n", "no rows"),
        ("t.xlsx", b"hello", "cannot tell its format; name it .csv"),
        ("t", b"a,b\n", "cannot tell its format"),
        ("t.pkl", b"anything", "a pickle"),
    ],
)
def test_broken_files(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    assert message in refused(load, tmp_path / name)
