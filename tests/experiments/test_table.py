"""The tables: every arm and router, whole, at any width; numbers as in the summary."""

import copy
import json

import fake_run
import pytest
from rich.console import Console

from experiments.table import print_evaluation, print_summary, summary_table

ENTRY = {
    "audc": 0.71234,
    "audc_ci": [0.70, 0.72],
    "audc_normalised": 0.456,
    "apgr": 0.654,
    "auroc_deferral": 0.81,
    "flops_saving_at_quality": {"0.5": 0.6, "0.9": 0.25, "1.0": None},
}
EVALUATION = {
    "small": "qwen-0.6b",
    "large": "qwen-8b",
    "n_test": 12_345,
    "quality": {"small": 0.5, "large": 0.75, "oracle": 0.8},
    "routers": {"chow_average": ENTRY, "score:[red]mine": ENTRY},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return fake_run.make(tmp_path_factory.mktemp("runs") / "demo", queries=120)


def printed(capsys, folder) -> str:
    print_summary(folder, folder / "report.html")
    return capsys.readouterr().out


@pytest.mark.parametrize("columns", ["40", "80", "200"])
def test_every_arm_and_router_whole_in_a_pipe(capsys, monkeypatch, folder, columns):
    monkeypatch.setenv("COLUMNS", columns)
    text = printed(capsys, folder)
    assert "…" not in text
    lines = text.splitlines()
    for arm in fake_run.ARMS:
        assert sum(line.split()[:1] == [arm] for line in lines) == 1
    for router in fake_run.ROUTERS:
        assert sum(router in line.split() for line in lines) == len(fake_run.ARMS)
    assert lines[-1] == f"report: {folder / 'report.html'}"


def test_a_narrow_terminal_folds_and_drops_nothing(folder):
    summary = json.loads((folder / "summary.json").read_text())
    console = Console(width=80, force_terminal=True, color_system=None, record=True)
    with console.capture() as captured:
        console.print(summary_table(summary))
    text = captured.get()
    assert "…" not in text
    assert all(len(line) <= 80 for line in text.splitlines())
    assert text.count("never") == sum(
        row["flops_saving_at_quality"][level] is None
        for arm in summary["arms"].values()
        for row in arm["routers"].values()
        for level in ("0.9", "1.0")
    )


def test_numbers_are_those_of_the_summary(capsys, folder):
    rows = iter(printed(capsys, folder).splitlines())
    summary = json.loads((folder / "summary.json").read_text())
    for arm, entry in summary["arms"].items():
        for router, values in entry["routers"].items():
            row = next(line.split() for line in rows if router in line.split())
            if arm in row:
                assert row[:2] == [arm, f"{entry['small_quality']['mean']:.3f}"]
            audc, saved = values["audc"], values["flops_saving_at_quality"]
            ends = "–".join(f"{end:.3f}" for end in audc["ci"])
            cells = [f"{audc['mean']:.3f}", ends, f"{values['audc_normalised']:.0%}"]
            for level in ("0.9", "1.0"):
                value = saved[level]
                cells.append("never" if value is None else f"{value['mean']:.0%}")
            assert row[row.index(router) + 1 :] == cells


def test_what_has_no_value_is_a_dash(folder):
    summary = copy.deepcopy(json.loads((folder / "summary.json").read_text()))
    for arm in summary["arms"].values():
        for row in arm["routers"].values():
            row["audc_normalised"] = None
    cells = list(summary_table(summary).columns[5].cells)
    assert cells == ["–"] * len(cells) != []


def test_names_are_not_markup(capsys, folder, tmp_path):
    summary = json.loads((folder / "summary.json").read_text())
    entry = summary["arms"].pop("xent")
    summary["arms"] = {"dist:warning:label_weight=0.25": entry}
    entry["routers"] = {"score:[bold]x": entry["routers"]["chow_sum"]}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    text = printed(capsys, tmp_path)
    assert "dist:warning:label_weight=0.25" in text
    assert "score:[bold]x" in text


def test_the_evaluation_table(capsys, tmp_path):
    print_evaluation(EVALUATION, tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert "qwen-0.6b → qwen-8b: 12,345 test queries" in lines[0]
    row = next(line.split() for line in lines if "chow_average" in line)
    expected = "chow_average 0.7123 0.7000–0.7200 46% 0.654 0.810 25% never"
    assert row == expected.split()
    assert any("score:[red]mine" in line for line in lines)
    assert lines[-1].endswith(str(tmp_path))


def test_the_evaluation_table_without_a_folder_or_intervals(capsys):
    bare = ENTRY | {"audc_ci": None, "apgr": None, "auroc_deferral": None, "audc_normalised": None}
    print_evaluation(EVALUATION | {"routers": {"length": bare}}, None)
    text = capsys.readouterr().out
    row = next(line.split() for line in text.splitlines() if "length" in line)
    assert row == ["length", "0.7123", "–", "–", "–", "–", "25%", "never"]
    assert "evaluation.json" not in text
