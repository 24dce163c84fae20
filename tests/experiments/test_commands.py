"""Every verb on what the tiny run left behind: output, files, exit codes."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from tiny_run import ARMS, ROUTERS, TEST, VALIDATION

from experiments import configs
from experiments.cli import main, usage, verbs
from routers import build
from routers.policy import Policy
from routers.records import pair, read

TOP = {"small", "large", "n_fit", "n_test", "quality", "flops", "routers"}
ENTRY = {
    "audc", "audc_ci", "audc_random", "audc_oracle", "audc_normalised", "apgr", "cpt", "aucfc",
    "qnc", "aiq", "auroc_deferral", "flops_saving_at_quality", "transfer", "curve_csv",
}  # fmt: skip


@pytest.fixture
def logs(finished) -> list[str]:
    folder = finished.folder / "records"
    return [str(folder / "large.parquet"), str(folder / "xent-seed0.parquet")]


def printed(capsys, *arguments: str) -> str:
    assert main(list(arguments)) == 0
    return capsys.readouterr().out


def test_evaluate_prints_one_object_with_the_documented_keys(logs, capsys):
    asked = ["--router", "chow_average", "--router", "prompt", "--bootstrap", "20", "--json"]
    found = json.loads(printed(capsys, "evaluate", *logs, *asked), parse_constant=pytest.fail)
    assert set(found) - {"cost_unit"} == TOP
    assert (found["small"], found["large"]) == ("xent", "large")
    assert (found["n_fit"], found["n_test"]) == (VALIDATION, TEST)
    assert set(found["quality"]) == {"small", "large", "oracle"}
    assert set(found["flops"]) == {"small", "large"}
    assert found["flops"]["small"] < found["flops"]["large"]
    assert list(found["routers"]) == ["chow_average", "prompt"]
    for entry in found["routers"].values():
        assert set(entry) >= ENTRY
        assert set(entry["cpt"]) == {"0.2", "0.5", "0.8"}
        assert set(entry["flops_saving_at_quality"]) == {"0.5", "0.9", "1.0"}
        assert set(entry["transfer"]) >= {"threshold", "deferral_rate", "quality", "flops"}
        assert entry["audc_ci"][0] <= entry["audc"] <= entry["audc_ci"][1]
        assert entry["curve_csv"] is None


def test_evaluate_agrees_with_the_run_it_came_from(logs, finished, capsys):
    asked = ["--router", "chow_average", "--bootstrap", "0", "--by-task", "--json"]
    found = json.loads(printed(capsys, "evaluate", *logs, *asked))
    made = json.loads((finished.folder / "evaluations" / "xent-seed0.json").read_text())
    assert found["routers"]["chow_average"] == made["routers"]["chow_average"]
    for task, entry in found["tasks"].items():
        wanted = made["tasks"][task]["routers"]["chow_average"]
        assert entry["routers"]["chow_average"] == wanted


def test_evaluate_writes_curves_and_a_table(logs, tmp_path, capsys):
    asked = ["--router", "chow_average", "--bootstrap", "0", "-o", str(tmp_path / "out")]
    text = printed(capsys, "evaluate", *logs, *asked)
    assert "chow_average" in text
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    entry = found["routers"]["chow_average"]
    with open(entry["curve_csv"]) as file:
        rows = list(csv.DictReader(file))
    rate, quality = (np.array([float(r[c]) for r in rows]) for c in ("deferral_rate", "quality"))
    assert (rate[0], rate[-1]) == (0, 1)
    assert np.trapezoid(quality, rate) == pytest.approx(entry["audc"], abs=1e-12)


def test_a_calibrated_policy_decides_as_promised(logs, tmp_path, capsys):
    out = tmp_path / "policy.json"
    asked = ["--router", "chow_average", "--deferral-rate", "0.25", "-o", str(out)]
    text = printed(capsys, "calibrate", *logs, *asked)
    policy = Policy.load(out)
    inputs, _ = pair(read([Path(log) for log in logs]), "xent", "large", "validation")
    rate = policy.decide(inputs).mean()
    assert rate <= 0.25
    assert rate == pytest.approx(policy.about["deferral_rate"], abs=1e-12)
    assert f"reached on {VALIDATION} queries of 'validation'" in text
    assert f"{rate:.1%}" in text


def test_calibrate_as_json(logs, tmp_path, capsys):
    out = tmp_path / "p.json"
    asked = ["--router", "length", "--deferral-rate", "1", "-o", str(out), "--json"]
    found = json.loads(printed(capsys, "calibrate", *logs, *asked))
    assert found["policy"] == str(out)
    assert found["deferral_rate"] == 1
    assert found["n_calibration"] == VALIDATION


def test_a_router_that_sees_outcomes_is_not_calibrated(logs, tmp_path, capsys):
    asked = ["--router", "oracle", "--deferral-rate", "0.5", "-o", str(tmp_path / "p.json")]
    assert main(["calibrate", *logs, *asked]) == 2
    assert "cannot be deployed" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_plot_draws_where_it_is_told(finished, tmp_path, capsys):
    out = tmp_path / "figure.svg"
    asked = ["--arms", "xent", "--routers", "chow_average", "prompt", "-o", str(out)]
    assert printed(capsys, "plot", str(finished.folder), *asked).strip() == str(out)
    text = out.read_text()
    assert "xent/prompt" in text
    assert "cat_xent" not in text


def test_plot_of_a_folder_that_is_no_run(tmp_path, capsys):
    assert main(["plot", str(tmp_path)]) == 2
    assert "summary" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_train_and_score_find_everything_done(run_copy, capsys):
    stages = run_copy / "stages"
    before = {path.name: path.stat().st_mtime_ns for path in stages.iterdir()}
    (run_copy / "summary.json").unlink()
    assert printed(capsys, "train", str(run_copy)).strip() == f"trained: {run_copy}"
    said = printed(capsys, "score", str(run_copy)).strip()
    assert said == f"records: {run_copy / 'records'}"
    assert {path.name: path.stat().st_mtime_ns for path in stages.iterdir()} == before
    assert not (run_copy / "summary.json").exists()  # neither verb reports


def test_report_needs_records_only(run_copy, capsys):
    import shutil

    for part in ("large", "base", "teacher"):
        shutil.rmtree(run_copy / part)
    (run_copy / "report.html").unlink()
    lines = printed(capsys, "report", str(run_copy)).splitlines()
    assert lines[-1] == f"report: {run_copy / 'report.html'}"
    assert (run_copy / "report.html").stat().st_size > 100_000
    for name in (*ARMS, *ROUTERS):
        assert any(name in line.split() for line in lines), name


@pytest.mark.parametrize("verb", ["configs", "tasks", "routers"])
def test_listings_have_a_line_for_each(verb, capsys):
    names = {"configs": list(configs.names()), "routers": build.names()}
    found = json.loads(printed(capsys, verb, "--json"))
    assert all(line.strip() for line in found.values())
    assert list(found) == names.get(verb, list(found))
    lines = printed(capsys, verb).splitlines()
    assert [line.split()[0] for line in lines] == list(found)


def test_routers_say_their_stage(capsys):
    found = json.loads(printed(capsys, "routers", "--json"))
    assert found["prompt"].startswith("[prompt, learned]")
    assert found["chow_average"].startswith("[response]")


def test_help_names_every_verb(capsys):
    text = printed(capsys, "--help")
    assert text.strip() == usage().strip()
    for name, line in verbs().items():
        assert f"  {name}" in text
        assert line


@pytest.mark.parametrize("verb", sorted(verbs()))
def test_every_verb_explains_itself(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code in (0, None)
    assert f"cascade {verb}" in capsys.readouterr().out
