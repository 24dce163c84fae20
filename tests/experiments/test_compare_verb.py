"""`cascade compare`: its tables, its sentences, its JSON, and how it refuses."""

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments.cli import main
from routers.build import build
from routers.comparison import compare_records
from routers.records import read

QUERIES = 400  # in each split
FEW = ["--bootstrap", "100", "--permutations", "200"]


@pytest.fixture
def log(tmp_path):
    """Long answers of the small model are wrong more often; test queries lie in other tasks.

    Score columns: ``good`` ranks by the error itself under noise, ``coin`` knows nothing.
    """
    rng = np.random.default_rng(0)
    n = 2 * QUERIES
    length = rng.integers(1, 41, n)
    wrong = rng.random(n) < length / 50
    columns = {
        "query_id": [f"q{i}" for i in range(n)] * 2,
        "task": [*["easy"] * QUERIES, *["hard"] * QUERIES] * 2,
        "split": [*["validation"] * QUERIES, *["test"] * QUERIES] * 2,
        "model": ["S"] * n + ["L"] * n,
        "quality": [*np.where(wrong, 0.0, 1.0), *np.ones(n)],
        "response_tokens": [*length.tolist()] * 2,
        "flops": [1e6] * n + [1e8] * n,
        "score:good": [*(wrong + rng.normal(size=n)).tolist(), *[None] * n],
        "score:coin": [*rng.random(n).tolist(), *[None] * n],
    }
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def printed(capsys, *arguments):
    assert main(["compare", *map(str, arguments), *FEW]) == 0
    return capsys.readouterr().out


def rows(text, start):
    """The cells of the table's lines that begin with these words."""
    found = [line.split() for line in text.splitlines() if line.split()[: len(start)] == start]
    assert len(found) == 1, found
    return found[0]


def test_one_json_object(log, capsys):
    found = json.loads(printed(capsys, log, "--router", "length", "--seed", "2", "--json"))
    routers = {"length": build("length")}
    assert found == compare_records(read([log]), routers, resamples=100, permutations=200, seed=2)
    assert set(found["routers"]) == {"good", "coin", "length"}


def test_the_tables_show_what_the_json_says(log, capsys):
    text = printed(capsys, log, "--router", "length", "--worthwhile", "0.05")
    want = json.loads(printed(capsys, log, "--router", "length", "--worthwhile", "0.05", "--json"))
    assert "S → L: 400 test queries" in text
    for name, row in want["routers"].items():
        low, high = row["audc_ci"]
        cells = rows(text, [name, f"{row['audc']:.4f}"])
        assert cells[2:4] == [f"[{low:.4f},", f"{high:.4f}]"]
        earned, ranking = (row["oracle_gap"][step]["value"] for step in ("earned", "ranking"))
        assert (cells[4], cells[7]) == (f"{earned:.4f}", f"{ranking:.4f}")
        figures = ("auroc_wrong", "auroc_helped", "spearman_length")
        assert cells[10::3] == [f"{row[key]:.2f}" for key in figures]
    assert "queries for 0.05" in text
    for row in want["comparisons"]:
        cells = rows(text, [row["a"], row["b"]])
        assert cells[2] == f"{row['difference']:.4f}"
        assert cells[5:7] == [f"{row[key]:.4f}" for key in ("p_permutation", "p_holm")]
        assert cells[7:] == [f"{row['detectable']:.4f}", f"{row['queries_needed']:,}"]


def test_sentences_say_what_follows(log, capsys):
    text = printed(capsys, log, "--router", "length", "--router", "oracle")
    want = json.loads(printed(capsys, log, "--router", "length", "--router", "oracle", "--json"))
    first = next(name for name in want["routers"] if name != "oracle")
    assert re.search(rf"^{first} (is better than every|has the largest area)", text, re.M)
    assert "the task mix differs (1.000 of the queries" in text
    assert f"the gain itself follows length with ρ = {want['length']['spearman_gain']:.2f}" in text
    for name, row in want["routers"].items():
        if name != "oracle":  # it peeks: it has no threshold to deploy
            assert f"{name}: {row['drift']['sentence']}\n" in text
    assert "oracle: " not in text


def test_routers_that_are_alike_are_not_told_apart(log, capsys):
    """Three coins: none is the best; beside a router that knows, all three are told apart."""
    coins = ["--router", "random", "--router", "random:seed=1"]
    text = printed(capsys, log, *coins)
    assert "\ngood is better than every other router (p Holm <= 0.05)\n" in text
    table = pq.read_table(log).drop_columns(["score:good"])
    pq.write_table(table, log)
    text = printed(capsys, log, *coins)
    (best, rest) = re.search(
        r"^(\S+) has the largest area; not told apart from it: (.*)$", text, re.M
    ).groups()
    assert {best, *rest.split(", ")} == {"coin", "random", "random:seed=1"}


def test_learned_routers_are_marked(log, capsys):
    table = pq.read_table(log)
    clue = [[float(n), 1.0] for n in table["response_tokens"].to_pylist()]
    pq.write_table(table.append_column("prompt_embedding", pa.array(clue)), log)
    text = printed(capsys, log, "--router", "prompt")
    assert "prompt, fitted on those queries: " in text


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (["--bootstrap", "5"], "5 resamples cannot bound"),
        (["--permutations", "5"], "5 permutations cannot reach"),
        (["--worthwhile", "-1"], "give a positive one"),
        (["--seed", "-1"], "seed -1 is negative"),
        (["--router", "chow_avrage"], "did you mean 'chow_average'?"),
        (["--test-split", "validation"], "two different splits"),
        (["--sead", "3"], "--seed"),
    ],
)
def test_one_line_says_what_is_wrong(log, capsys, asked, says):
    assert main(["compare", str(log), *asked]) == 2
    written = capsys.readouterr()
    assert written.out == ""
    assert written.err.count("\n") == 1
    assert says in written.err


def test_one_router_is_too_few(log, capsys):
    table = pq.read_table(log).drop_columns(["score:good", "score:coin"])
    pq.write_table(table, log)
    assert main(["compare", str(log), "--router", "length"]) == 2
    assert "1 router to compare; name two or more" in capsys.readouterr().err


def test_reference_lines_are_not_chosen(log, capsys):
    table = pq.read_table(log).drop_columns(["score:good", "score:coin"])
    pq.write_table(table, log)
    text = printed(capsys, log, "--router", "length", "--router", "oracle")
    assert "nothing to choose between" in text
