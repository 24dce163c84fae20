"""`cascade calibrate`: what it prints, what it promises, and how it refuses."""

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments.cli import main
from routers import Policy
from routers.records import pair, read

QUERIES = 400


@pytest.fixture
def log(tmp_path):
    """Two models; long answers of the small one are wrong more often; two tasks of 200."""
    rng = np.random.default_rng(0)
    length = rng.integers(1, 41, QUERIES)
    wrong = rng.random(QUERIES) < length / 50
    columns = {
        "query_id": [f"q{i}" for i in range(QUERIES)] * 2,
        "task": ["easy" if i % 2 else "hard" for i in range(QUERIES)] * 2,
        "split": ["validation"] * (2 * QUERIES),
        "model": ["S"] * QUERIES + ["L"] * QUERIES,
        "quality": [*np.where(wrong, 0.0, 1.0), *np.ones(QUERIES)],
        "response_tokens": [*length.tolist()] * 2,
        "flops": [1e6] * QUERIES + [1e8] * QUERIES,
        "latency_s": [0.1] * QUERIES + [1.0] * QUERIES,
        "prompt_embedding": [[float(n), 1.0] for n in length] * 2,
    }
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def call(log, *asked, router="length"):
    """(exit code, the policy's path)."""
    out = log.parent / "p.json"
    return main(["calibrate", str(log), "--router", router, *asked, "-o", str(out)]), out


def cells(text, first):
    """The numbers in the table's row of that name."""
    line = next(line for line in text.splitlines() if line.strip().startswith(first))
    return line.split()


SURE = ["--max-quality-loss", "0.2", "--delta", "0.1"]


def test_the_table_says_what_was_asked_promised_and_reached(log, capsys):
    code, out = call(log, *SURE)
    text = capsys.readouterr().out
    assert code == 0
    policy = Policy.load(out)
    inputs, outcomes = pair(read([log]), "S", "L", "validation")
    sent = policy.decide(inputs)
    quality = np.where(sent, outcomes.quality_large, outcomes.quality_small).mean()
    row = cells(text, "all")
    assert row[1:4] == [f"{policy.threshold:.6g}", "400", f"{sent.mean():.1%}"]
    assert row[4:7] == [f"{quality:.4f}", "1.0000", f"{1 - quality:.4f}"]
    assert float(row[7]) == pytest.approx(1e6 + 1e8 * sent.mean(), rel=1e-3)
    assert "length, S → L: max_quality_loss 0.2, delta 0.1" in text
    assert "promise: mean quality at most 0.2 below 'L', with probability 0.9\n" in text
    assert text.endswith(f"policy: {out}\n")
    assert 0.8 < quality < 0.9


def test_a_learned_router_says_on_how_many_it_was_calibrated(log, capsys):
    code, out = call(log, *SURE, router="prompt")
    text = capsys.readouterr().out
    assert code == 0
    about = Policy.load(out).about
    assert about["n_fit"] + about["n_calibration"] == QUERIES
    assert cells(text, "all")[2] == str(about["n_calibration"])
    assert f"reached on {about['n_calibration']} queries of 'validation'" in text


def test_a_row_for_every_task(log, capsys):
    code, out = call(log, *SURE, "--per-task")
    text = capsys.readouterr().out
    assert code == 0
    policy = Policy.load(out)
    assert cells(text, "all")[1:3] == ["by", "task"]
    for task in ("easy", "hard"):
        assert cells(text, task)[1:3] == [f"{policy.task_thresholds[task]:.6g}", "200"]
    assert cells(text, "any other")[2] == f"{policy.threshold:.6g}"
    assert "in each of 2 tasks at once, with probability 0.9" in text


def test_one_json_object(log, capsys):
    code, out = call(log, *SURE, "--per-task", "--json")
    found = json.loads(capsys.readouterr().out)
    policy = Policy.load(out)
    assert code == 0
    assert found["policy"] == str(out)
    assert (found["threshold"], found["task_thresholds"]) == (
        policy.threshold,
        policy.task_thresholds,
    )
    assert {key: found[key] for key in policy.about} == policy.about
    code, _ = call(log, "--deferral-rate", "1", "--json")
    assert json.loads(capsys.readouterr().out)["threshold"] == "-inf"


def test_seconds_are_a_budget(log, capsys):
    code, out = call(log, "--budget-latency", "0.6")
    assert code == 0
    assert "latency_s a query" in capsys.readouterr().out
    about = Policy.load(out).about
    assert 0.55 < about["cost"] <= 0.6
    assert about["cost"] == pytest.approx(0.1 + about["deferral_rate"], abs=1e-12)


def test_a_task_that_cannot_be_kept_is_told(log, capsys):
    """The small model is never right on one task, and always on the other."""
    table = pq.read_table(log)
    fails = zip(table["task"].to_pylist(), table["model"].to_pylist(), strict=True)
    quality = [0.0 if pair == ("hard", "S") else 1.0 for pair in fails]
    at = table.column_names.index("quality")
    pq.write_table(table.set_column(at, "quality", pa.array(quality)), log)
    code, _ = call(log, "--max-quality-loss", "0.02", "--delta", "0.1", "--per-task")
    text = capsys.readouterr().out
    assert code == 0
    whole = ["task 'hard': 200", "all tasks pooled: 400"]
    assert re.findall(r"sent on whole: (.*) calibration", text) == whole
    assert cells(text, "hard")[1] == "-inf"
    assert cells(text, "easy")[1] == "inf"


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (["--max-quality-loss", "0.2"], "needs one of --delta D"),
        (["--delta", "0.2"], "0 targets"),
        (["--deferral-rate", "0.2", "--delta", "0.2"], "only with --max-quality-loss"),
        (["--deferral-rate", "0.2", "--quality", "0.2"], "2 targets"),
        (["--max-quality-loss", "2", "--delta", "0.1"], "max quality loss 2.0 is not between"),
        (["--budget-dollars", "1"], "column 'dollars' is empty for model 'S'"),
        (
            ["--max-quality-loss", "0.001", "--delta", "0.1"],
            "400 calibration queries cannot promise .* takes 2,302; log 1,902 more",
        ),
        (["--max-quality-loss", "0.001", "--in-expectation"], "takes 999; log 599 more"),
    ],
)
def test_refusals_are_one_line_and_write_nothing(log, capsys, asked, says):
    code, _ = call(log, *asked)
    said = capsys.readouterr()
    assert code == 2
    assert said.out == ""
    assert re.search(says, said.err)
    assert len(said.err.splitlines()) == 1
    assert sorted(path.name for path in log.parent.iterdir()) == ["log.parquet"]
