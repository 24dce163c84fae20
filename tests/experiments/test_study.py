"""The study behind the results page: one configuration as a process of its own, resumable."""

import json

import pytest

from experiments import configs, results, study
from experiments.cli import main
from experiments.results import BEGIN, END


@pytest.fixture
def own_config(run_copy, no_figures, monkeypatch):
    """The tiny run as a study: few routers, so that it is quick."""
    monkeypatch.setattr(study, "ROBUST_ROUTERS", ("chow_average", "post_hoc:learner=booster"))
    return run_copy


def test_a_configuration_is_run_and_then_asked_the_robustness_questions(own_config):
    stages = own_config / "stages"
    before = {path.name: path.stat().st_mtime_ns for path in stages.iterdir()}
    assert study.main([str(own_config)]) == 0
    answers = json.loads((own_config / "robustness.json").read_text())
    assert {row["arm"] for row in answers["rows"]} == {"xent", "cat_xent"}
    after = {path.name: path.stat().st_mtime_ns for path in stages.iterdir()}
    assert set(after) - set(before) == {"robustness.json"}
    assert all(after[name] == at for name, at in before.items())


def test_the_questions_are_answered_once_and_again_when_the_answer_is_gone(own_config, monkeypatch):
    from experiments.rundir import RunDirectory

    run = RunDirectory(own_config)
    path, stamp = own_config / "robustness.json", own_config / "stages" / "robustness.json"
    study._robustness(run)
    text, first = path.read_text(), stamp.stat().st_mtime_ns
    study._robustness(run)
    assert stamp.stat().st_mtime_ns == first
    path.unlink()
    study._robustness(run)
    assert path.read_text() == text
    monkeypatch.setattr(study, "ROBUST_ROUTERS", ("chow_average",))
    study._robustness(run)
    assert path.read_text() != text


def test_a_configuration_that_fails_is_named_and_its_log_says_why(tmp_path, capsys):
    runs = tmp_path / "runs"
    assert study.run_all(["demmo"], None, runs, 1) == ["demmo"]
    assert "did you mean 'demo'" in (runs / "demmo.log").read_text()
    assert "demmo: failed with exit code 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--only", "demmo"], "unknown study 'demmo'"),
        (["--only", "scan"], "--data is needed"),
        (["--data", "nowhere"], "nowhere"),
        (["--page", "gone.md"], "gone.md"),
    ],
)
def test_bad_input_starts_nothing(tmp_path, monkeypatch, capsys, arguments, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "page.md").write_text(f"{BEGIN}\n{END}\n")
    runs = ["--runs", str(tmp_path / "runs")]
    page = [] if "--page" in arguments else ["--page", "page.md"]
    assert main(["study", *arguments, *page, *runs]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", [*study.GENERATED, *study.REAL])
def test_every_configuration_has_what_the_page_shows(name):
    config = configs.load(name)
    assert config.name == name
    assert set(results.ROUTERS) <= set(config.evaluation.routers)
    assert {"xent", "cat_xent", "random_mask"} <= set(config.arms)
