"""RouterBench's table, in the columns its program writes, as CSV and as Parquet."""

import csv
import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from routers.errors import InputError
from routers.importers.options import Options
from routers.importers.routerbench import read

TEST = Options(split="test")
MODELS = ("WizardLM/WizardLM-13B-V1.2", "gpt-4-1106-preview")


def table(queries=3):
    """Column order as in the published data: grades, then answers, then costs."""
    columns = {
        "sample_id": [f"mmlu-law.val.{i}" for i in range(queries)],
        "prompt": [f"['Question {i},\\nA or B?']" for i in range(queries)],
        "eval_name": ["mmlu-law"] * (queries - 1) + ["mtbench"],
    }
    columns |= {m: [0.25 * ((i + j) % 5) for i in range(queries)] for j, m in enumerate(MODELS)}
    columns |= {f"{m}|model_response": [f"['{m[0]}{i}']" for i in range(queries)] for m in MODELS}
    columns |= {
        f"{m}|total_cost": [1e-5 * 10**j * (i + 1) for i in range(queries)]
        for j, m in enumerate(MODELS)
    }
    return columns | {"oracle_model_to_route_to": ["no_model_correct"] * queries}


def as_csv(path, columns):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *zip(*columns.values(), strict=True)])
    return path


def as_parquet(path, columns):
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize("written", [as_csv, as_parquet])
def test_one_row_per_query_and_model(tmp_path, written):
    columns = table()
    path = written(tmp_path / f"bench.{written.__name__[3:]}", columns)
    records = read([path], TEST)
    assert records.models == sorted(MODELS)
    assert records.tasks == ["mmlu-law", "mtbench"]
    assert records.cost_unit == "dollars"
    for model in MODELS:
        rows = [row for row in records.table.to_pylist() if row["model"] == model]
        assert [row["query_id"] for row in rows] == columns["sample_id"]
        assert [row["prompt"] for row in rows] == columns["prompt"]
        assert [row["quality"] for row in rows] == columns[model]
        assert [row["dollars"] for row in rows] == columns[f"{model}|total_cost"]
        assert [row["response"] for row in rows] == columns[f"{model}|model_response"]


def test_a_folder_and_several_tables(tmp_path):
    as_parquet(tmp_path / "a.parquet", table())
    other = table()
    other["sample_id"] = ["x", "y", "z"]
    as_parquet(tmp_path / "b.parquet", other)
    assert len(read([tmp_path], TEST)) == 2 * 2 * 3


def test_answers_may_be_left_out(tmp_path):
    columns = {k: v for k, v in table().items() if "response" not in k}
    records = read([as_csv(tmp_path / "a.csv", columns)], TEST)
    assert "response" not in records.table.column_names


def test_the_published_pickle_is_refused_unread(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    for name in ("routerbench_0shot.pkl", "renamed.csv"):
        (tmp_path / name).write_bytes(pickle.dumps(Trap()))
        with pytest.raises(InputError, match="a pickle, and loading one runs whatever code"):
            read([tmp_path / name], TEST)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({MODELS[0]: None}, f"no column '{MODELS[0]}'"),
        ({"eval_name": None}, "no column 'eval_name'"),
        ({f"{m}|total_cost": None for m in MODELS}, r"no column '<model>\|total_cost'"),
        ({MODELS[0]: ["C", 1, 1]}, "row 0, column 'WizardLM.*is 'C'; give a finite number"),
        ({MODELS[0]: [50.0, 100.0, 0.0]}, "'quality' runs from 0 to 100"),
        ({MODELS[0]: ["", 1, 1]}, "'quality' is (null|missing)"),
        ({f"{MODELS[1]}|total_cost": ["", 1, 1]}, "dollars"),
        ({f"{MODELS[1]}|total_cost": [-1, 1, 1]}, "'dollars' is negative"),
        ({"sample_id": ["a", "a", "b"]}, "duplicate"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path, change, message):
    columns = {k: v for k, v in (table() | change).items() if v is not None}
    with pytest.raises(InputError, match=message) as caught:
        read([as_csv(tmp_path / "a.csv", columns)], TEST)
    assert "\n" not in str(caught.value)


def test_a_table_cut_off_is_refused(tmp_path):
    path = as_parquet(tmp_path / "a.parquet", table())
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="not a readable Parquet file"):
        read([path], TEST)
    text = as_csv(tmp_path / "a.csv", table())
    text.write_text(text.read_text().rpartition(",")[0])
    with pytest.raises(InputError, match="broken CSV"):
        read([text], TEST)
