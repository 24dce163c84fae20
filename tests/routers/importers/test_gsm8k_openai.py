"""OpenAI's GSM8K solutions: a small file, damaged ones, and the real one."""

import json

import numpy as np
import pytest

from routers.errors import InputError
from routers.evaluate import evaluate
from routers.importers.gsm8k_openai import read
from routers.importers.options import Options

SIZES = {"6b_finetuning": 6.0, "175b_finetuning": 175.0}
COSTS = Options(split="test", query_cost=SIZES)


def problem(i=0, **change):
    item = {"question": f"q{i}", "ground_truth": f"A: {i}"}
    for model in SIZES:
        item[model] = {"is_correct": model.startswith("175"), "solution": f"{model} {i}"}
    return item | change


def write(path, items):
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return path


def test_one_row_per_problem_and_model(tmp_path):
    records = read([write(tmp_path / "a.jsonl", [problem(0), problem(1)])], COSTS)
    assert records.models == sorted(SIZES)
    rows = {(row["query_id"], row["model"]): row for row in records.table.to_pylist()}
    assert len(rows) == 4
    row = rows["gsm8k-00001", "175b_finetuning"]
    assert (row["prompt"], row["reference"], row["quality"]) == ("q1", "A: 1", 1.0)
    assert (row["response"], row["dollars"]) == ("175b_finetuning 1", 175.0)
    assert rows["gsm8k-00001", "6b_finetuning"]["quality"] == 0.0


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([problem(question=None)], "line 1: not a problem with solutions"),
        ([{"question": "q"}], "line 1: not a problem with solutions of any model"),
        ([problem(), {"question": "q", "6b_finetuning": {"is_correct": True}}], "line 2: not a"),
        ([problem(**{"6b_finetuning": {"is_correct": "yes"}})], "neither true nor false"),
        ([], "no rows"),
    ],
)
def test_files_of_something_else(tmp_path, items, message):
    with pytest.raises(InputError, match=message):
        read([write(tmp_path / "a.jsonl", items)], COSTS)


def test_no_cost_says_what_to_type(tmp_path):
    log = write(tmp_path / "a.jsonl", [problem()])
    with pytest.raises(InputError, match="--query-cost '175b_finetuning=DOLLARS'"):
        read([log], Options(split="test"))


@pytest.mark.shared
def test_real_solutions(shared_data):
    names = [f"{size}b_{kind}" for size in (6, 175) for kind in ("finetuning", "verification")]
    costs = Options(split="test", query_cost={name: float(name.split("b")[0]) for name in names})
    records = read([shared_data / "routing" / "gsm8k-openai"], costs)
    assert len(records) == 4 * 1319
    right = {name: 0.0 for name in names}
    for row in records.table.to_pylist():
        right[row["model"]] += row["quality"]
    assert list(right.values()) == [286, 515, 458, 742]
    from routers.zoo.oracle import Oracle

    found = evaluate(
        records, {"oracle": Oracle()}, small="6b_finetuning", large="175b_finetuning", bootstrap=0
    ).summary
    assert found["quality"]["small"] == pytest.approx(286 / 1319, abs=1e-12)
    assert found["quality"]["large"] == pytest.approx(458 / 1319, abs=1e-12)
    assert np.isclose(found["flops"]["large"] / found["flops"]["small"], 175 / 6)
