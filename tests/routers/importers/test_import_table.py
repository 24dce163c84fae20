"""Any table, long or wide, to the records that a careful person would have written."""

import csv
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from foreign import write_jsonl

from routers.errors import InputError
from routers.importers.options import Options
from routers.importers.table import read, target
from routers.records import pair

FLAT = {"s": 1.0, "l": 3.0}
WANTED = {("q1", "s"): 1.0, ("q2", "s"): 0.0, ("q1", "l"): 0.5, ("q2", "l"): 1.0}


def write_csv(path, header: str, *rows: str):
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


@pytest.fixture
def wide(tmp_path):
    return write_csv(
        tmp_path / "wide.csv",
        "id,topic,s_ok,l_ok,s_said,doubt,l_usd,s_usd",
        "q1,sums,true,0.5,4,0.1,2,0.5",
        "q2,names,False,1,Bob,0.9,4,0.25",
    )


@pytest.fixture
def long(tmp_path):
    return write_csv(
        tmp_path / "long.csv",
        "query_id,engine,correct,in,out",
        "q1,s,1,10,5", "q2,s,0,11,6", "q1,l,0.5,10,7", "q2,l,1,11,8",
    )  # fmt: skip


def qualities(records) -> dict:
    rows = records.table.to_pylist()
    return {(row["query_id"], row["model"]): row["quality"] for row in rows}


WIDE = {"query_id": "id", "task": "topic", "quality[s]": "s_ok", "quality[l]": "l_ok"}
LONG = {"model": "engine", "quality": "correct"}


def test_wide(wide):
    mapping = WIDE | {"response[s]": "s_said", "score:mf[s]": "doubt"}
    found = read([wide], Options(columns=mapping, query_cost=FLAT, split="test"))
    assert qualities(found) == WANTED
    inputs, outcomes = pair(found, "s", "l", "test")
    assert inputs.scores["mf"].tolist() == [0.1, 0.9]
    assert inputs.task.tolist() == ["sums", "names"]
    assert outcomes.flops_large.tolist() == [3.0, 3.0]
    responses = found.table.filter(pa.compute.equal(found.table["model"], "s"))["response"]
    assert responses.to_pylist() == ["4", "Bob"]


def test_wide_with_costs_of_its_own(wide):
    mapping = WIDE | {"dollars[s]": "s_usd", "dollars[l]": "l_usd"}
    found = read([wide], Options(columns=mapping))
    rows = {(r["query_id"], r["model"]): r["dollars"] for r in found.table.to_pylist()}
    assert rows == {("q1", "s"): 0.5, ("q2", "s"): 0.25, ("q1", "l"): 2.0, ("q2", "l"): 4.0}
    assert found.metadata["cost_rule"] == "dollars: as in the log"


def test_long(long):
    mapping = LONG | {"prompt_tokens": "in", "response_tokens": "out"}
    sizes = {"s": 10, "l": 100}
    found = read([long], Options(columns=mapping, parameters=sizes))
    assert qualities(found) == WANTED
    assert found.table["flops"].to_pylist() == [20 * 15, 20 * 17, 200 * 17, 200 * 19]


def test_long_and_wide_tell_the_same_story(wide, long):
    one = read([wide], Options(columns=WIDE, query_cost=FLAT))
    other = read([long], Options(columns=LONG, query_cost=FLAT))
    assert qualities(one) == qualities(other)


def test_one_file_per_model(tmp_path):
    lines = {"s": [{"query_id": "q1", "quality": 1}], "l": [{"query_id": "q1", "quality": 0}]}
    paths = [
        write_jsonl(tmp_path / f"{name}.jsonl", [row | {"model": name} for row in rows])
        for name, rows in lines.items()
    ]
    assert qualities(read(paths, Options(query_cost=FLAT))) == {("q1", "s"): 1.0, ("q1", "l"): 0.0}
    assert len(read([tmp_path], Options(query_cost=FLAT))) == 2  # the folder, too


def test_nested_json_and_our_own_names_need_no_mapping(tmp_path):
    lines = [
        {
            "uid": i,
            "model": "s",
            "grades": [{"exact": i % 2 == 0}],
            "token_logprob": [-0.5, -0.25],
            "topk_logprob": [[-0.5, -1.0], [-0.25, -2.0]],
            "score:mine": 0.5,
        }
        for i in range(3)
    ]
    path = write_jsonl(tmp_path / "log.jsonl", lines)
    mapping = {"query_id": "uid", "quality": "grades.0.exact"}
    found = read([path], Options(columns=mapping, query_cost={"s": 1.0})).table
    assert found["query_id"].to_pylist() == ["0", "1", "2"]
    assert found["quality"].to_pylist() == [1.0, 0.0, 1.0]
    assert found["score:mine"].to_pylist() == [0.5] * 3
    assert found["topk_logprob"][0].as_py() == [[-0.5, -1.0], [-0.25, -2.0]]


def test_parquet_with_records_columns_round_trips(tmp_path):
    table = pa.table(
        {"query_id": ["a"], "model": ["s"], "quality": [0.5], "flops": [2.0], "split": ["train"]}
    )
    pq.write_table(table, tmp_path / "t.parquet")
    found = read([tmp_path / "t.parquet"], Options()).table.to_pylist()[0]
    assert found == {
        "query_id": "a", "model": "s", "quality": 0.5, "flops": 2.0,
        "split": "train", "task": "all",
    }  # fmt: skip


def test_ids_keep_their_zeros(tmp_path):
    path = write_csv(tmp_path / "t.csv", "query_id,quality", "007,1", "7,0", "1e1,0")
    found = read([path], Options(model="s", query_cost={"s": 1.0}))
    assert found.table["query_id"].to_pylist() == ["007", "7", "1e1"]


def test_targets():
    assert target("quality[gpt-4 (2024)]") == ("quality", "gpt-4 (2024)")
    assert target("score:x[a]") == ("score:x", "a")
    assert target("flops") == ("flops", "")


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        (
            {"qualty[s]": "s_ok"},
            r"--map qualty\[s\]=...: no column 'qualty'; did you mean 'quality'",
        ),
        ({"task[s]": "topic"}, "'task' is the same for every model; no brackets"),
        ({"quality[s]": "s_okk", "query_id": "id"}, "no column 's_okk' .*did you mean 's_ok'"),
        ({"quality[s]": "s_ok"}, "which column identifies the query.*id, topic"),
        (WIDE | {"model": "topic"}, "models in brackets and a column 'model' too"),
        (WIDE | {"dollars[x]": "s_usd"}, r"--map quality\[x\]=...: missing"),
        ({"query_id": "id", "quality": "s_ok"}, "does not name its model; give --model"),
        ({"query_id": "id", "quality": "topic"}, "row 0, column 'topic' for 'quality' is 'sums'"),
    ],
)
def test_mappings_that_do_not_fit(wide, mapping, message):
    with pytest.raises(InputError) as caught:
        read([wide], Options(columns=mapping, query_cost=FLAT))
    assert "\n" not in str(caught.value)
    assert re.search(message, str(caught.value)), str(caught.value)


def test_ten_thousand_rows_come_back_in_order(tmp_path):
    path = tmp_path / "big.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["query_id", "model", "quality"])
        writer.writerows((f"q{i}", "s", (i % 7) / 7) for i in range(10_000))
    found = read([path], Options(query_cost={"s": 1.0})).table
    assert found["query_id"].to_pylist() == [f"q{i}" for i in range(10_000)]
    assert sum(found["quality"].to_pylist()) == pytest.approx(sum(i % 7 / 7 for i in range(10_000)))


@pytest.mark.shared
def test_the_answers_of_routellm_to_gsm8k_as_a_plain_table(shared_data):
    """Answers of many lines, quotes and accents; accuracies by Python's csv."""
    path = shared_data / "routing/routellm/routellm/evals/gsm8k/gsm8k_responses.csv"
    models = {"s": "mistralai/Mixtral-8x7B-Instruct-v0.1", "l": "gpt-4-1106-preview"}
    mapping = {f"quality[{ours}]": theirs for ours, theirs in models.items()}
    mapping |= {f"response[{ours}]": f"{theirs}_response" for ours, theirs in models.items()}
    found = read([path], Options(columns={"query_id": "prompt"} | mapping, query_cost=FLAT))
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    answers = {(r["query_id"], r["model"]): r["response"] for r in found.table.to_pylist()}
    for ours, theirs in models.items():
        right = {row["prompt"]: row[theirs] == "True" for row in rows}
        assert {q: v == 1 for (q, m), v in qualities(found).items() if m == ours} == right
        for row in rows:
            assert answers[row["prompt"], ours] == row[f"{theirs}_response"]


def test_a_file_cut_inside_its_last_cell_is_refused(tmp_path):
    whole = 'id,model,q,usd,text\nq1,s,1,1,"a ""quoted"" word"\n'
    options = Options(columns={"query_id": "id", "quality": "q", "dollars": "usd"})
    file = tmp_path / "log.csv"
    file.write_text(whole)
    assert len(read([file], options)) == 1
    file.write_text(whole[:-6])
    with pytest.raises(InputError, match=r"log.csv: ends inside a quoted cell"):
        read([file], options)


def test_an_empty_query_id_is_refused(tmp_path):
    file = write_csv(tmp_path / "log.csv", "id,model,q,usd", "q1,s,1,1", ",s,1,1")
    options = Options(columns={"query_id": "id", "quality": "q", "dollars": "usd"})
    with pytest.raises(InputError, match="row 1 has no query_id"):
        read([file], options)
