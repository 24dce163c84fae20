"""`cascade import`: from a foreign log to a file that `cascade evaluate` takes, or one line."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.cli import dispatch, main, usage, verbs
from experiments.commands.import_ import summarise
from routers import importers
from routers.errors import InputError
from routers.records import read

ROOT = Path(__file__).resolve().parents[2]
MAPPING = [
    "--map", "query_id=id", "--map", "quality[s]=s_ok", "--map", "quality[l]=l_ok",
    "--map", "score:mine[s]=doubt",
]  # fmt: skip
COST = ["--query-cost", "s=1", "--query-cost", "l=10"]


@pytest.fixture
def log(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [f"q{i},{i % 2},{int(i % 3 > 0)},{i / 40}" for i in range(40)]
    Path("log.csv").write_text("\n".join(["id,s_ok,l_ok,doubt", *rows]) + "\n")
    return ["import", "table", "log.csv", "-o", "out.parquet", *MAPPING]


def refused(*arguments: str) -> str:
    before = sorted(Path.cwd().rglob("*"))
    with pytest.raises(InputError) as caught:
        dispatch(arguments)
    assert "\n" not in str(caught.value)
    assert sorted(Path.cwd().rglob("*")) == before, "something was written"
    return str(caught.value)


def test_import_is_a_verb_like_the_others():
    assert "import" in verbs()
    assert "import_" not in verbs()
    assert "  import " in usage()
    assert main(["import_"]) == 2


def test_the_table_says_what_was_imported_and_what_to_type_next(log, capsys):
    assert main([*log, *COST]) == 0
    text = capsys.readouterr().out
    assert "out.parquet: 80 rows, 1 task(s): all" in text
    assert "score:mine" in text
    assert "split_rule: by hash of the query id, 30% to validation" in text
    assert "as the log has no splits" in text
    assert "cost_rule: dollars: s: 1 a query, l: 10 a query" in text
    assert "next: cascade evaluate out.parquet --small s --large l" in text


def test_the_next_command_works(log, capsys):
    assert main([*log, *COST, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    command = shlex.split(found["next"])
    assert command[0] == "cascade"
    assert main([*command[1:], "--bootstrap", "0", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert list(summary["routers"]) == ["mine"]
    assert summary["n_fit"] == found["models"]["s"]["splits"]["validation"]


def test_json_agrees_with_the_file(log, capsys):
    assert main([*log, *COST, "--json"]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    records = read([Path("out.parquet")])
    assert found["rows"] == len(records) == 80
    assert (found["tasks"], found["splits"]) == (records.tasks, records.splits)
    assert found["metadata"] == records.metadata
    assert found["models"]["s"]["mean"] == {"quality": 0.5, "dollars": 1.0}
    large = sum(i % 3 > 0 for i in range(40)) / 40
    assert found["models"]["l"]["mean"]["quality"] == pytest.approx(large, abs=1e-9)
    assert found["models"]["s"]["evidence"] == ["score:mine"]
    assert found["models"]["l"]["evidence"] == []
    assert sum(found["models"]["l"]["splits"].values()) == 40


def test_without_evidence_the_reference_lines_are_suggested(log, capsys):
    assert main([*log[:-2], *COST, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["next"].endswith("--router random --router oracle")


def test_one_model_alone_asks_for_the_other(log, capsys):
    asked = ["--map", "query_id=id", "--map", "quality=s_ok", "--model", "s", "--parameters", "s=1"]
    Path("log.csv").write_text("id,s_ok,prompt_tokens,response_tokens\nq,1,2,3\n")
    assert main([*log[:5], *asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["next"] == "cascade evaluate out.parquet OTHER_MODEL.parquet"
    assert found["models"]["s"]["mean"]["flops"] == 10.0


def test_the_log_probabilities_of_an_api_reach_a_router(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sys.path.insert(0, str(ROOT / "tests" / "routers" / "importers"))
    try:
        from foreign import chat, grades, write_jsonl
    finally:
        sys.path.pop(0)
    queries = [f"q{i}" for i in range(30)]
    lines = [chat(q, [-0.1 * (i + 1)] * 2, model=m) for m in "sl" for i, q in enumerate(queries)]
    write_jsonl(tmp_path / "log.jsonl", lines)
    rows = [(q, int(m == "l" or i < 15), m) for m in "sl" for i, q in enumerate(queries)]
    grades(tmp_path / "g.csv", rows, "query_id,quality,model")
    asked = ["--quality", "g.csv", "--price", "s=1,2", "--price", "l=10,20", "--json"]
    assert main(["import", "openai", "log.jsonl", "-o", "r.parquet", *asked]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "--router chow_average" in found["next"]
    assert main([*shlex.split(found["next"])[1:], "--bootstrap", "0", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    chow = summary["routers"]["chow_average"]
    assert chow["audc"] == pytest.approx(chow["audc_oracle"], abs=1e-12)  # planted so


def test_models_with_strange_names(log, capsys):
    name = "org/model=v1 [q4], 7B"
    Path("log.csv").write_text("id,ok,prompt_tokens,response_tokens\nq,1,10,5\n")
    asked = ["--map", "query_id=id", "--map", f"quality[{name}]=ok", "--price", f"{name}=1,2"]
    assert main([*log[:5], *asked, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["models"][name]["mean"]["dollars"] == 20 / 1e6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["import"], "Missing from cascade import: FORMAT"),
        (
            ["import", "tabel", "log.csv", "-o", "o.parquet"],
            "no format 'tabel'; did you mean 'table'",
        ),
        (["import", "table", "-o", "o.parquet"], "no source given"),
        (["import", "table", "gone.csv", "-o", "o.parquet"], "gone.csv: no such file or folder"),
        (["import", "table", "log.csv", "-o", "o.csv"], "records are Parquet"),
        (["import", "table", "log.csv", "-o", "."], "records are Parquet"),
        (["import", "table", "log.csv"], "Missing from cascade import: -o PATH"),
        (["import", "table", "log.csv", "-o", "o.parquet", "--split", "dev"], "--split"),
    ],
)
def test_command_lines_that_cannot_be(log, change, message):
    assert message in refused(*change)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--price", "s=1"], "--price s=1: give two prices, MODEL=IN,OUT"),
        (["--price", "s"], "--price s: write MODEL=IN,OUT"),
        (["--price", "s=1,x"], "--price s: 'x' is no number"),
        (["--price", "s=1,nan"], "price of 's' (response) is nan"),
        (["--parameters", "s=7B"], "--parameters s: '7B' is no number; write 7e9"),
        (["--query-cost", "s=-1", "--query-cost", "l=1"], "query cost of 's' is -1.0"),
        (["--query-cost", "s=1", "--query-cost", "s=2"], "--query-cost s=...: given twice"),
        (["--query-cost", "ss=1"], "no model 'ss' in this log; did you mean 's'"),
        (["--query-cost", "s=1"], "is known but not of every row of 'l'"),
        ([], "cannot know what model 'l' cost"),
        (["--map", "quality"], "--map quality: write COLUMN=THEIRS or COLUMN[MODEL]=THEIRS"),
        (["--map", "query_id=id"], "--map query_id=...: given twice"),
        (["--quality", "gone.csv"], "the log has its own quality"),
    ],
)
def test_what_is_given_is_checked_and_nothing_is_written(log, more, message):
    assert message in refused(*log, *more)


def test_the_source_is_never_overwritten(log, capsys):
    assert main([*log, *COST]) == 0
    before = Path("out.parquet").read_bytes()
    again = ["import", "table", "out.parquet", "-o", "out.parquet"]
    assert "is one of the sources" in refused(*again)
    assert Path("out.parquet").read_bytes() == before


def test_a_fault_leaves_the_old_file(log, capsys):
    assert main([*log, *COST]) == 0
    before = Path("out.parquet").read_bytes()
    Path("log.csv").write_text("id,s_ok,l_ok,doubt\nq1,1,87,0.5\n")
    assert "divide by 100" in refused(*log, *COST)
    assert Path("out.parquet").read_bytes() == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(log, tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    assert "cannot be written" in refused(*[*log[:4], str(closed / "o.parquet"), *log[5:], *COST])


def test_a_file_in_the_place_of_the_folder(log):
    asked = [*log[:4], "log.csv/o.parquet", *log[5:], *COST]
    assert "cannot be written" in refused(*asked)


def test_help_lists_every_format(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["import", "--help"])
    assert not stop.value.code
    text = capsys.readouterr().out
    for name, line in importers.formats().items():
        assert f"{name} " in text
        assert line[:40] in text
    assert "cascade import table log.csv" in text


def test_the_command_loads_no_jax(log):
    code = (
        "import sys; from experiments.cli import main; code = main(sys.argv[1:]); "
        "heavy = {'jax', 'flax', 'sklearn', 'scipy', 'matplotlib'} & set(sys.modules); "
        "sys.exit(code or bool(heavy))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *log, *COST], capture_output=True, text=True, cwd=Path.cwd()
    )
    assert done.returncode == 0, done.stderr + done.stdout


def test_the_summary_of_records_in_memory(log):
    assert main([*log, *COST]) == 0
    assert set(summarise(read([Path("out.parquet")]))) == {
        "rows", "models", "tasks", "splits", "metadata",
    }  # fmt: skip
