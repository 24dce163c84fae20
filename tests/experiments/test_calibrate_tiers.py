"""`cascade calibrate` beyond one router of the zoo: several models, and ready-made scores."""

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments.cli import main
from routers import Policy, TierPolicy
from routers.cascade import decide, judge
from routers.records import pair, read
from routers.tiers import join

MODELS = ("s", "m", "l")
QUERIES = 120


@pytest.fixture
def log(tmp_path):
    """Three models; long answers are wrong more often, and a score knows a little more."""
    rng = np.random.default_rng(0)
    hard = rng.random(QUERIES)
    columns = {name: [] for name in ("model", "quality", "flops", "response_tokens", "score:doubt")}
    for k, model in enumerate(MODELS):
        right = hard < (0.5, 0.8, 1.0)[k]
        columns["model"] += [model] * QUERIES
        columns["quality"] += right.astype(float).tolist()
        columns["flops"] += [(1e6, 1e7, 1e8)[k]] * QUERIES
        columns["response_tokens"] += (1 + 30 * hard + 9 * rng.random(QUERIES)).astype(int).tolist()
        columns["score:doubt"] += (hard - (0.5, 0.8, 1.0)[k]).tolist()
    columns["query_id"] = [f"q{i}" for i in range(QUERIES)] * 3
    columns["split"] = ["validation"] * (3 * QUERIES)
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def call(log, *asked):
    """(exit code, the policy's path)."""
    out = log.parent / "p.json"
    return main(["calibrate", str(log), *asked, "-o", str(out)]), out


TIERS = ["--tiers", "s,m,l"]


def test_the_tables_say_what_was_expected_and_found(log, capsys):
    code, out = call(log, *TIERS, "--router", "length", "--budget-flops", "3e7")
    text = capsys.readouterr().out
    assert code == 0
    policy = TierPolicy.load(out)
    tiers = join(read([log]), MODELS, "validation")
    done = decide(policy, tiers.inputs)
    judged = judge(done, tiers)
    lines = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.strip()}
    quality, cost = judged.quality.mean(), judged.cost.mean()
    lost = f"{1 - quality:.4f}"
    assert lines["found"] == [f"{quality:.4f}", "1.0000", lost, f"{cost:.4g}"]
    assert lines["expected"] == [f"{quality:.4f}", "–", "–", f"{cost:.4g}"]
    for k, model in enumerate(MODELS):
        shares = [f"{(done.visited[:, k]).mean():.1%}", f"{(done.answer == k).mean():.1%}"]
        ends = [f"{t:.6g}" for t in policy.thresholds] + ["–"]
        assert lines[model] == [*shares, ends[k]]
    assert "cascade by length, s → m → l: budget_flops 3e+07" in text
    assert f"chosen on {QUERIES} queries of 'validation'" in text
    assert "promise: met on the calibration queries; not promised for others\n" in text
    assert text.endswith(f"policy: {out}\n")


@pytest.mark.parametrize("kind", ["routing", "static"])
def test_kinds_that_look_at_no_answer_take_no_router(log, capsys, kind):
    code, out = call(log, *TIERS, "--kind", kind, "--budget-flops", "3e7", "--json")
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    policy = TierPolicy.load(out)
    assert code == 0
    assert found == policy.about | {"models": list(MODELS), "policy": str(out)}
    assert (found["kind"], found["router"]) == (kind, None)


def test_a_promise_over_three_models(log, capsys):
    asked = ["--max-quality-loss", "0.2", "--delta", "0.1"]
    code, out = call(log, *TIERS, "--router", "score:doubt", *asked)
    text = capsys.readouterr().out
    assert code == 0
    assert f"tested on {QUERIES // 2} queries of 'validation'" in text
    assert "promise: mean quality at most 0.2 below 'l', with probability 0.9\n" in text
    about = TierPolicy.load(out).about
    assert about["router"] == "score:doubt"
    assert about["found"]["quality_lost"] < 0.2
    assert about["found"]["cost"] < 1e8


def test_a_ready_made_score_becomes_a_policy_for_two_models(log, capsys):
    asked = ["--small", "s", "--large", "l", "--router", "score:doubt", "--deferral-rate", "0.25"]
    code, out = call(log, *asked)
    assert code == 0
    assert "decides on: column 'score:doubt'\n" in capsys.readouterr().out
    inputs, _ = pair(read([log]), "s", "l", "validation")
    sent = Policy.load(out).decide(inputs)
    assert sent.sum() == QUERIES // 4
    assert inputs.scores["doubt"][sent].min() > inputs.scores["doubt"][~sent].max()


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ([*TIERS, "--budget-flops", "3e7"], r"name the router that does it \(--router\)"),
        ([*TIERS, "--router", "length", "--deferral-rate", "0.2"], "more than two models"),
        ([*TIERS, "--router", "length", "--budget-flops", "3"], "the least is 1e\\+06"),
        ([*TIERS, "--router", "score:gone", "--budget-flops", "3e7"], "column 'score:gone'"),
        ([*TIERS, "--router", "length", "--quality", "0.5", "--per-task"], "--per-task does not"),
        ([*TIERS, "--router", "length", "--quality", "0.5", "--small", "s"], "--small does not"),
        ([*TIERS, "--router", "length", "--quality", "0.5", "--large", "s"], "--large does not"),
        (["--tiers", "s,,l", "--router", "length", "--quality", "0.5"], "a tier without a name"),
        (["--tiers", "l,s", "--router", "length", "--quality", "0.5"], "cheapest first: s,l"),
        (["--small", "s", "--large", "l", "--quality", "0.5"], "--router is missing"),
        (["--router", "score:", "--quality", "0.5"], "name the records column, score:<name>"),
        (
            ["--kind", "routing", "--router", "length", "--quality", "0.5"],
            "--kind routing goes with --tiers",
        ),
        (
            [*TIERS, "--router", "score:doubt", "--max-quality-loss", "0.001", "--delta", "0.1"],
            "60 queries .half of the split. cannot promise .* takes 2,302; log 4,484 more",
        ),
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


def test_conventions_are_printed_for_each_task(log, capsys):
    """Two tasks: the figures of all queries, then of each, and in the JSON."""
    table = pq.read_table(log)
    halves = ["test" if i % 3 else "validation" for i in range(QUERIES)] * 3
    tasks = ["easy" if i % 2 else "hard" for i in range(QUERIES)] * 3
    place = table.column_names.index("split")
    table = table.set_column(place, "split", pa.array(halves)).append_column(
        "task", pa.array(tasks)
    )
    pq.write_table(table, log)
    asked = ["evaluate", str(log), "--small", "s", "--large", "l", "--router", "score:doubt"]
    asked += ["--by-task", "--convention", "routellm", "--bootstrap", "0"]
    assert main([*asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert main(asked) == 0
    text = capsys.readouterr().out
    parts = {"(all)": found, **found["tasks"]}
    assert list(parts) == ["(all)", "easy", "hard"]
    for task, part in parts.items():
        auc = part["routers"]["score:doubt"]["conventions"]["routellm"]["auc"]
        exact = part["routers"]["score:doubt"]["audc"]
        assert re.search(
            rf"{re.escape(task)} +score:doubt +routellm +auc +{auc:.6f} +{exact:.6f}", text
        )
