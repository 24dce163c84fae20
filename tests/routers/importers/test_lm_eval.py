"""Sample logs of lm-evaluation-harness, in the forms its versions write."""

import gzip
import json
import re

import numpy as np
import pytest
from foreign import harness_choice, harness_folder, harness_generation, read_jsonl, write_jsonl

from routers.errors import InputError
from routers.importers.lm_eval import read
from routers.importers.options import Options
from routers.records import pair

COST = {"org/small": 0.07, "large": 0.41}
LOGLIKS = [[-3.0, -1.0, -2.5, -9.0], [-4.0, -4.0], [-1.0, -1.5, -7.0]]
RIGHT = {"org/small": [True, False, False], "large": [True, True, False]}


@pytest.fixture
def runs(tmp_path):
    """Two models, one multiple-choice task; the second writes numbers, as old versions did."""
    for model, right in RIGHT.items():
        lines = [
            harness_choice(i, values, right[i], as_text=model != "large")
            for i, values in enumerate(LOGLIKS)
        ]
        harness_folder(tmp_path, model, "arc_easy", lines)
    return tmp_path


def refused(*sources, **options) -> str:
    with pytest.raises(InputError) as caught:
        read(list(sources), Options(**{"query_cost": COST} | options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_two_models_joined_on_task_and_document(runs):
    found = read([runs], Options(query_cost=COST, split="test"))
    inputs, outcomes = pair(found, "org/small", "large", "test")
    assert inputs.query_id.tolist() == [f"arc_easy/{i}" for i in range(3)]
    assert outcomes.quality_small.tolist() == [1.0, 0.0, 0.0]
    assert outcomes.quality_large.tolist() == [1.0, 1.0, 0.0]
    assert found.metadata["metric"] == "arc_easy: acc"
    assert found.tasks == ["arc_easy"]


def test_the_margin_is_best_minus_second_turned_round(runs):
    found = read([runs], Options(query_cost=COST, split="test"))
    inputs, _ = pair(found, "org/small", "large", "test")
    wanted = []
    for values in LOGLIKS:
        best = int(np.argmax(values))
        wanted.append(-(values[best] - max(values[:best] + values[best + 1 :])))
    assert inputs.scores["option_margin"].tolist() == wanted == [-1.5, 0.0, -0.5]


def test_no_token_columns_are_made_up(runs):
    names = read([runs], Options(query_cost=COST)).table.column_names
    made = {"token_logprob", "topk_logprob", "token_entropy", "response_tokens", "flops"}
    assert not made & set(names)


def test_texts_are_kept(runs):
    row = read([runs], Options(query_cost=COST)).table.to_pylist()[0]
    assert (row["prompt"], row["reference"], row.get("response")) == ("Question 0", "0", None)


def test_the_metric_can_be_chosen(runs):
    found = read([runs], Options(query_cost=COST, metric="acc_norm", split="test"))
    _, outcomes = pair(found, "org/small", "large", "test")
    assert outcomes.quality_small.tolist() == [0.0, 1.0, 1.0]
    assert found.metadata["metric"] == "arc_easy: acc_norm"
    message = refused(runs, metric="accuracy")
    assert "no metric 'accuracy'; give --metric, one of: acc, acc_norm" in message


def test_generation_tasks_have_a_line_per_filter(tmp_path):
    for model, strict, flexible in (("org/small", 0, 1), ("large", 1, 1)):
        lines = [
            harness_generation(0, "strict-match", bool(strict)),
            harness_generation(0, "flexible-extract", bool(flexible)),
        ]
        harness_folder(tmp_path, model, "gsm8k", lines)
    first = read([tmp_path], Options(query_cost=COST))
    assert first.metadata["metric"] == "gsm8k: exact_match,strict-match"
    rows = {row["model"]: row for row in first.table.to_pylist()}
    assert (rows["org/small"]["quality"], rows["large"]["quality"]) == (0.0, 1.0)
    assert rows["large"]["response"] == "5"
    assert "score:option_margin" not in first.table.column_names
    other = read([tmp_path], Options(query_cost=COST, metric="exact_match,flexible-extract"))
    assert other.table["quality"].to_pylist() == [1.0, 1.0]
    message = refused(tmp_path, metric="exact_match,flexible")
    assert "no filter 'flexible'; did you mean 'flexible-extract'" in message


def test_a_mix_of_tasks_has_no_margin_and_says_so(runs):
    for model in RIGHT:
        harness_folder(runs, model, "gsm8k", [harness_generation(0, "none", True)])
    found = read([runs], Options(query_cost=COST))
    assert found.tasks == ["arc_easy", "gsm8k"]
    assert "score:option_margin" not in found.table.column_names
    assert "left out" in found.metadata["score:option_margin"]
    assert found.metadata["metric"] == "arc_easy: acc; gsm8k: exact_match"


@pytest.mark.parametrize("change", ["lone", "mutual"])
def test_likelihoods_that_would_mislead_give_no_margin(tmp_path, change):
    """A lone log-likelihood is the reference's: its greedy flag is the label itself."""
    for model in RIGHT:
        line = harness_choice(0, [-3.0] if change == "lone" else [-3.0, -4.0, -5.0, -6.0], True)
        if change == "mutual":
            line["acc_mutual_info"] = 1.0
        harness_folder(tmp_path, model, "lambada", [line])
    assert (
        "score:option_margin" not in read([tmp_path], Options(query_cost=COST)).table.column_names
    )


def test_models_are_named_by_the_results_else_by_the_folder(runs):
    for path in (runs / "large").glob("results*"):
        path.unlink()
    assert read([runs], Options(query_cost=COST)).models == ["large", "org/small"]
    for path in (runs / "org__small").glob("results*"):
        path.write_text(json.dumps({"model_name": ""}))
    flat = {"org__small": 1.0, "large": 2.0}
    assert read([runs], Options(query_cost=flat)).models == ["large", "org__small"]


def test_files_can_be_named_one_by_one(runs):
    files = sorted(runs.rglob("samples_*.jsonl"))
    found = read(files, Options(query_cost=COST))
    assert len(found) == 6
    assert found.metadata["sources"].count("sha256:") == 2


def test_two_runs_of_a_task_are_not_mixed(runs):
    lines = [harness_choice(0, [-1.0, -2.0], True)]
    harness_folder(runs, "large", "arc_easy", lines, time="2026-05-05T05-05")
    message = refused(runs)
    assert "two runs of task 'arc_easy'" in message
    assert "2026-05-05T05-05" in message


def test_two_versions_of_a_document_are_not_joined(runs):
    path = next((runs / "large").glob("samples*"))
    lines = read_jsonl(path)
    lines[1]["doc_hash"] = "another"
    write_jsonl(path, lines)
    message = refused(runs)
    assert "doc_id 1 of task 'arc_easy' is one document for 'large' and another" in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"doc_id": None}, "no doc_id; expected a line that --log_samples wrote"),
        ({"acc": "high"}, "'acc' is 'high'; give a finite number"),
        ({"acc": [1, 2]}, "'acc' is 'list'"),
        ({"acc": 87.5}, r"runs from 0 to 87.5 .* divide by 100"),
        (
            {"filtered_resps": [["x", "True"], ["-1", "False"]]},
            "a log-likelihood in filtered_resps",
        ),
    ],
)
def test_broken_lines_are_named(runs, change, message):
    path = next((runs / "large").glob("samples*"))
    lines = read_jsonl(path)
    lines[1] |= change
    write_jsonl(path, lines)
    assert re.search(message, refused(runs))


def test_a_task_without_a_usual_metric_lists_what_it_has(tmp_path):
    line = harness_choice(0, [-1.0, -2.0], True)
    del line["acc"], line["acc_norm"]
    line |= {"metrics": ["bleu", "brier"], "bleu": 30.0, "brier": 0.1}
    path = harness_folder(tmp_path, "m", "x", [line])
    message = refused(path)
    assert "none of the usual metrics; give --metric, one of: bleu, brier" in message


def test_costs_are_asked_for_and_files_keep_their_names(runs, tmp_path):
    message = refused(runs, query_cost={})
    assert "give --query-cost 'large=DOLLARS' (this log has no token counts)" in message
    assert "--parameters: lm_eval has no use" in refused(runs, parameters={"large": 1.0})
    other = write_jsonl(tmp_path / "mine.jsonl", [{}])
    assert "not named samples_<task>_<time>.jsonl" in refused(other)


def test_task_names_may_hold_underscores_and_files_may_be_packed(tmp_path):
    lines = [harness_choice(0, [-1.0, -2.0], True)]
    for model in RIGHT:
        path = harness_folder(tmp_path, model, "mmlu_high_school_us_history", lines)
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert read([tmp_path], Options(query_cost=COST)).tasks == ["mmlu_high_school_us_history"]
