"""RouterArena's cached results: small files, damaged ones, and the real ones."""

import copy
import json

import numpy as np
import pytest

from experiments.cli import main
from routers import conventions
from routers.errors import InputError
from routers.importers.options import Options
from routers.importers.routerarena import read

TEST = Options(split="test")


def answer(i=0, model="haiku", **change):
    item = {
        "global_index": f"MMLUPro_computer science_{i}",
        "question": f"question {i}",
        "llm_selected": model,
        "generated_answer": f"answer {i}",
        "token_usage": {"input_tokens": 100 + i, "output_tokens": 10, "total_tokens": 999},
        "success": True,
        "error": None,
        "evaluation_result": {
            "ground_truth": "B",
            "score": 0.5,
            "metric": "mcq_accuracy",
            "inference_cost": 0.001,
        },
    }
    return item | change


def graded(**change):
    return answer(evaluation_result=answer()["evaluation_result"] | change)


def write(path, items):
    path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    return path


def test_two_models_with_the_costs_of_the_log(tmp_path):
    for model in ("haiku", "flash"):
        write(tmp_path / f"{model}.jsonl", [answer(i, model) for i in range(3)])
    records = read([tmp_path], TEST)
    assert records.models == ["flash", "haiku"]
    assert records.tasks == ["MMLUPro_computer science"]
    row = records.table.to_pylist()[1]
    want = {
        "query_id": "MMLUPro_computer science_1", "model": "flash", "prompt": "question 1",
        "response": "answer 1", "reference": "B", "quality": 0.5, "prompt_tokens": 101,
        "response_tokens": 10, "dollars": 0.001, "split": "test",
    }  # fmt: skip
    assert {name: row[name] for name in want} == want


def price_table(tmp_path, **prices):
    names = ("input_token_price_per_million", "output_token_price_per_million")
    table = {model: dict(zip(names, pair, strict=False)) for model, pair in prices.items()}
    path = tmp_path / "cost.json"
    path.write_text(json.dumps(table))
    return path


def test_a_price_table_replaces_the_costs_of_the_log_and_options_replace_both(tmp_path):
    log = write(tmp_path / "haiku.jsonl", [answer(0), answer(1)])
    table = price_table(tmp_path, haiku=(2.0, 30.0), unused=(1.0, 1.0))
    dollars = read([log, table], TEST).table["dollars"].to_pylist()
    assert dollars == pytest.approx([(200 + 300) / 1e6, (202 + 300) / 1e6], rel=1e-12)
    asked = Options(split="test", prices={"haiku": (0.0, 1.0)})
    assert read([log, table], asked).table["dollars"].to_pylist() == pytest.approx([1e-5] * 2)


def test_meteor_below_zero_is_zero_and_said(tmp_path):
    low = graded(score=-0.03, metric="meteor_score")
    log = write(tmp_path / "haiku.jsonl", [low, answer(1)])
    records = read([log], TEST)
    assert records.table["quality"].to_pylist() == [0.0, 0.5]
    assert "1 METEOR" in records.metadata["quality_rule"]


BAD = [
    (graded(score=-0.03), "line 1: score -0.03 is no quality"),
    (graded(score=1.5), "line 1: score 1.5 is no quality"),
    (graded(score=None), "line 1: score None is no quality"),
    (graded(score="good"), "line 1: 'score' is 'good'"),
    (graded(inference_cost=None), "cannot know what model 'haiku' cost"),
    (graded(inference_cost=-1.0), "'dollars' is negative"),
    (answer(success=False), "line 1: the generation failed"),
    (answer(evaluation_result=None), "grade the answers first"),
    (answer(token_usage=None), "grade the answers first"),
    (answer(token_usage={"input_tokens": 1.5, "output_tokens": 1}), "'input_tokens' is 1.5"),
    (answer(token_usage={"input_tokens": 1}), "'output_tokens' is None"),
    (answer(llm_selected=""), "no text 'llm_selected'"),
    (answer(global_index=7), "no text 'global_index'"),
]


@pytest.mark.parametrize(("item", "message"), BAD)
def test_rows_that_cannot_be_read(tmp_path, item, message):
    with pytest.raises(InputError, match=message):
        read([write(tmp_path / "haiku.jsonl", [item])], TEST)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "not a price table"),
        ('{"haiku": 3}', "model 'haiku' lacks input_token_price_per_million"),
        ('{"haiku": {"input_token_price_per_million": 1}}', "lacks"),
        ('{"haiku": {"input_token_price_per_million": "x"}}', "price of 'haiku' is 'x'"),
    ],
)
def test_price_tables_that_are_none(tmp_path, text, message):
    log = write(tmp_path / "haiku.jsonl", [answer()])
    (tmp_path / "cost.json").write_text(text)
    with pytest.raises(InputError, match=message):
        read([log, tmp_path / "cost.json"], TEST)


def test_the_same_answer_twice_and_no_answers(tmp_path):
    log = write(tmp_path / "haiku.jsonl", [answer(), answer()])
    with pytest.raises(InputError, match="duplicate"):
        read([log], TEST)
    with pytest.raises(InputError, match="no rows"):
        read([price_table(tmp_path, haiku=(1, 1))], TEST)


def leaves(value, path=()):
    """Paths of everything inside a JSON value."""
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))


ODD = [None, True, -1, 2.5, 1e300, "", "x" * 5000, [], {}, [[]], "\ud83d"[:0] + "ü"]


@pytest.mark.parametrize("path", [p for p in leaves(answer()) if p])
def test_any_value_anywhere_is_read_soundly_or_refused_in_a_line(tmp_path, path):
    for odd in ODD:
        item = copy.deepcopy(answer())
        inside = item
        for key in path[:-1]:
            inside = inside[key]
        inside[path[-1]] = odd
        complaint = ""
        try:
            records = read([write(tmp_path / "haiku.jsonl", [item, answer(1)])], TEST)
        except InputError as error:
            complaint = str(error)
        else:
            quality = np.array(records.table["quality"])
            assert ((quality >= 0) & (quality <= 1)).all()
            assert (np.array(records.table["dollars"]) >= 0).all()
        assert "\n" not in complaint
        assert len(complaint) < 500


# The real files: 809 answers of two models.


@pytest.mark.shared
def test_real_accuracies_costs_and_scores(shared_data):
    folder = shared_data / "routing" / "routerarena"
    logged = read([folder / "cached_results"], TEST)
    priced = read([folder / "cached_results", folder / "model_cost" / "cost.json"], TEST)
    assert len(logged) == 2 * 809
    for model in ("claude-3-haiku-20240307", "gemini-2.0-flash-001"):
        lines = (folder / "cached_results" / f"{model}.jsonl").read_text().splitlines()
        grades = [json.loads(line)["evaluation_result"] for line in lines]
        rows = [row for row in logged.table.to_pylist() if row["model"] == model]
        quality = [max(grade["score"], 0.0) for grade in grades]  # one METEOR of -0.033
        assert np.mean([row["quality"] for row in rows]) == pytest.approx(
            np.mean(quality), abs=1e-8
        )
        cost = sum(grade["inference_cost"] for grade in grades) / 809
        assert np.mean([row["dollars"] for row in rows]) == pytest.approx(cost, rel=1e-12)
        again = [row["dollars"] for row in priced.table.to_pylist() if row["model"] == model]
        assert again == pytest.approx([row["dollars"] for row in rows], rel=1e-9)
        # The score of the reference's formula, written out for these numbers.
        spread = (np.log2(200) - np.log2(1000 * cost)) / (np.log2(200) - np.log2(0.0044))
        mean = float(np.mean(quality))
        want = 1.1 * mean * spread / (0.1 * mean + spread)
        assert conventions.routerarena(mean, cost) == pytest.approx(want, abs=1e-12)
    assert "1 METEOR" in logged.metadata["quality_rule"]


@pytest.mark.shared
def test_import_and_evaluate_real_answers(shared_data, tmp_path, capsys):
    folder, out = shared_data / "routing" / "routerarena" / "cached_results", tmp_path / "a.parquet"
    assert main(["import", "routerarena", str(folder), "-o", str(out), "--split", "test"]) == 0
    capsys.readouterr()
    asked = ["--router", "oracle", "--bootstrap", "0", "--json", "--convention", "all"]
    assert main(["evaluate", str(out), *asked]) == 0
    found = json.loads(capsys.readouterr().out)
    # The cheaper model is the better one: there is no gap to recover, and nothing is claimed.
    assert found["small"] == "gemini-2.0-flash-001"
    assert found["quality"]["small"] > found["quality"]["large"]
    entry = found["routers"]["oracle"]
    assert entry["apgr"] is None
    assert entry["conventions"]["gatekeeper"]["s_d"] is None
    assert entry["conventions"]["routerarena"]["score"] > 0.6
