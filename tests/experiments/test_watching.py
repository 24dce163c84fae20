"""Validation, selection, sinks and traces through the command line."""

import dataclasses
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from cat.config import Config, from_dict
from experiments.cli import main
from experiments.pipeline import Pipeline
from experiments.rundir import RunDirectory, read_json

ARM = ["--arms", "xent", "--seeds", "0", "--redo"]
BEST = ["--arm-train.validate-every", "4", "--arm-train.select", "best"]


def arm_lines(folder) -> list[dict]:
    log = folder / "arms" / "xent" / "seed0" / "metrics.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()]


def keys(folder, **changes) -> tuple[str, str, str]:
    found = from_dict(Config, read_json(folder / "config.json"))
    found = dataclasses.replace(found, **changes)
    made = Pipeline(found, RunDirectory(folder))
    return made.large_key, made.base_key(0), made.arm_key("xent", 0)


def test_an_arm_is_validated_selected_tracked_and_traced(run_copy, monkeypatch):
    sent = []
    writer = SimpleNamespace(
        add_scalar=lambda name, value, step: sent.append((name, step)), close=lambda: None
    )
    fake = SimpleNamespace(SummaryWriter=lambda place, purge_step: writer)
    monkeypatch.setitem(sys.modules, "tensorboardX", fake)
    watched = [*BEST, "--track", "tensorboard", "--profile", "5:5"]
    assert main(["train", str(run_copy), *ARM, *watched]) == 0
    lines = arm_lines(run_copy)
    assert [line["step"] for line in lines if line["validation_loss"]] == [4, 8]
    assert {("loss", i) for i in range(1, 9)} | {("validation_loss", 8)} <= set(sent)
    arm = run_copy / "arms" / "xent" / "seed0"
    assert list((arm / "profile").rglob("*.xplane.pb"))
    assert (arm / "checkpoints" / "8" / "best").is_dir()
    saved = read_json(run_copy / "config.json")
    assert (saved["track"], saved["profile"]) == (["tensorboard"], "5:5")


def test_what_is_only_watched_trains_nothing_again(run_copy):
    before = {path: path.stat().st_mtime_ns for path in (run_copy / "stages").glob("*.json")}
    plain = keys(run_copy)
    assert keys(run_copy, track=("wandb",), profile="1:2") == plain
    assert main(["train", str(run_copy), "--profile", "1:2", "--redo"]) == 0
    assert before == {
        path: path.stat().st_mtime_ns for path in (run_copy / "stages").glob("*.json")
    }


def test_selection_is_part_of_what_an_arm_is(run_copy):
    """So are the rows it is judged by, and only where they judge."""
    plain = keys(run_copy)
    found = from_dict(Config, read_json(run_copy / "config.json"))
    judged = dataclasses.replace(found.arm_train, validate_every=4)
    fewer = dataclasses.replace(found.data, validation_size=20)
    assert keys(run_copy, data=fewer) == plain
    one, other = keys(run_copy, arm_train=judged), keys(run_copy, arm_train=judged, data=fewer)
    assert plain[:2] == one[:2] == other[:2]
    assert len({plain[2], one[2], other[2]}) == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--track", "tensorbord"], "track: unknown 'tensorbord'; did you mean 'tensorboard'"),
        (["--profile", "9"], "profile='9'; give the first and last step, e.g. 10:15"),
        (["--arm-train.select", "best"], "arm_train.select=best needs validation losses"),
        (["--arm-train.patience", "-1"], "arm_train.patience=-1; must be >= 0"),
    ],
)
def test_bad_input_is_one_line_and_changes_nothing(run_copy, arguments, said, capsys):
    before = read_json(run_copy / "config.json")
    assert main(["train", str(run_copy), *arguments, "--redo"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert read_json(run_copy / "config.json") == before


def test_the_log_of_every_run_has_the_times(finished):
    for line in arm_lines(finished.folder):
        assert 0 <= line["data_wait_s"] <= line["step_s"]
        assert line["mfu"] is None
        assert np.isfinite(line["tokens_per_s"])
        assert not {"validation_loss", "skipped"} & set(line)
