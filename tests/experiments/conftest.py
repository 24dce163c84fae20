"""One tiny run of the whole pipeline, made once and copied by the tests that change it."""

import contextlib
import io
import shutil
from pathlib import Path

import pytest
from tiny_run import ARMS, ROUTERS, SEEDS, TINY, Finished

from experiments import evaluation
from experiments.cli import main


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Finished:
    """`cascade run demo`, tiny: two arms, two seeds. Do not change its folder."""
    runs = tmp_path_factory.mktemp("runs")
    arguments = ["run", "demo", "--runs", str(runs), "--name", "tiny", *TINY]
    arguments += ["--arms", *ARMS, "--seeds", *map(str, SEEDS), "--evaluation.routers", *ROUTERS]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = main(arguments)
    return Finished(code, runs / "tiny", out.getvalue())


@pytest.fixture
def no_figures(monkeypatch) -> None:
    """Reports without drawing, where a test is about something else: most of their time."""
    monkeypatch.setattr(evaluation, "_draw", lambda run: None)


@pytest.fixture
def run_copy(finished, tmp_path) -> Path:
    """A copy of that run's folder, to change."""
    return Path(shutil.copytree(finished.folder, tmp_path / "tiny"))
