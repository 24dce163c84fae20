"""Stages: skipped, redone, resumed, cleared; folders refused; files whole or not at all."""

import dataclasses
import json
import subprocess

import pytest

from cat.config import Config, from_dict, to_dict
from experiments import rundir
from experiments.rundir import RunDirectory, commit, differences, provenance, write_json, write_text
from routers.errors import InputError


def tree(folder) -> dict[str, bytes]:
    """Every file below and its bytes."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    return RunDirectory(tmp_path / "run")


@dataclasses.dataclass
class Work:
    """Counts its calls, writes a file into its folder, and can be interrupted."""

    run: RunDirectory
    text: str = "x"
    stop: BaseException | None = None
    calls: int = 0
    found: list[str] = dataclasses.field(default_factory=list)

    def __call__(self) -> None:
        folder = self.run.folder / "made"
        folder.mkdir(parents=True, exist_ok=True)
        self.found = sorted(path.name for path in folder.iterdir())
        self.calls += 1
        (folder / self.text).write_text(self.text)
        if self.stop:
            raise self.stop


def interrupt(run: RunDirectory, key: str, text: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        run.stage("s", key, Work(run, text, stop=KeyboardInterrupt()), clear="made")


def test_a_finished_stage_is_skipped(run):
    work = Work(run)
    assert run.stage("s", "k1", work, clear="made") is True
    before = tree(run.folder)
    assert run.stage("s", "k1", work, clear="made") is False
    assert work.calls == 1
    assert tree(run.folder) == before


def test_another_fingerprint_redoes_and_clears(run):
    run.stage("s", "k1", Work(run, "old"), clear="made")
    work = Work(run, "new")
    assert run.stage("s", "k2", work, clear="made") is True
    assert work.found == []
    assert [path.name for path in (run.folder / "made").iterdir()] == ["new"]
    again = Work(run, "old")
    assert run.stage("s", "k1", again, clear="made") is True
    assert again.found == []


def test_without_clear_nothing_is_removed(run):
    run.stage("s", "k1", Work(run, "old"))
    work = Work(run, "new")
    assert run.stage("s", "k2", work) is True
    assert work.found == ["old"]


def test_an_interrupted_stage_resumes_on_what_it_left(run):
    interrupt(run, "k1", "half")
    work = Work(run, "rest")
    assert run.stage("s", "k1", work, clear="made") is True
    assert work.found == ["half"]
    assert run.stage("s", "k1", work, clear="made") is False


def test_an_interrupted_stage_of_another_fingerprint_is_cleared(run):
    interrupt(run, "k1", "half")
    work = Work(run, "new")
    run.stage("s", "k2", work, clear="made")
    assert work.found == []


def test_interrupted_while_redoing_resumes_the_new_and_not_the_old(run):
    run.stage("s", "k1", Work(run, "old"), clear="made")
    interrupt(run, "k2", "half")
    resumed = Work(run, "rest")
    run.stage("s", "k2", resumed, clear="made")
    assert resumed.found == ["half"]
    back = Work(run, "old")
    assert run.stage("s", "k1", back, clear="made") is True
    assert back.found == []


@pytest.mark.parametrize("next_key", ["k1", "k2"])
def test_interrupted_while_clearing_never_mixes_two_fingerprints(run, monkeypatch, next_key):
    run.stage("s", "k1", Work(run, "old"), clear="made")

    def killed(path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(rundir.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            run.stage("s", "k2", Work(run), clear="made")
    work = Work(run, "new")
    assert run.stage("s", next_key, work, clear="made") is True
    assert work.found == []


def test_a_folder_that_is_gone_is_made_again(run):
    work = Work(run)
    run.stage("s", "k1", work, clear="made")
    rundir.shutil.rmtree(run.folder / "made")
    assert run.stage("s", "k1", work, clear="made") is True
    assert work.calls == 2


def test_a_failed_stage_is_not_finished(run):
    with pytest.raises(InputError):
        run.stage("s", "k", Work(run, stop=InputError("no")))
    assert run.seconds() == {}
    assert run.stage("s", "k", Work(run)) is True


def test_stages_do_not_touch_one_another(run):
    run.stage("a", "k1", Work(run))
    run.stage("b", "k1", Work(run))
    run.stage("a", "k2", Work(run))
    assert run.stage("b", "k1", Work(run)) is False
    assert list(run.seconds()) == ["a", "b"]
    assert all(0 <= seconds < 10 for seconds in run.seconds().values())


def test_opening_a_new_folder_writes_nothing(run):
    run.open(Config(), redo=False)
    assert not run.folder.exists()


def test_the_claimed_configuration_is_read_back(run):
    config = Config(name="x", seeds=(4, 2))
    run.claim(config)
    assert from_dict(Config, json.loads((run.folder / "config.json").read_text())) == config
    run.open(config, redo=False)


def test_another_configuration_is_refused_by_its_fields(run):
    run.claim(Config())
    before = tree(run.folder)
    other = dataclasses.replace(Config(), seeds=(1,), teacher_topk=5)
    with pytest.raises(InputError, match=r"seeds \[0\] → \[1\]; teacher_topk 0 → 5\); .*--redo"):
        run.open(other, redo=False)
    run.open(other, redo=True)
    assert tree(run.folder) == before


def test_many_changed_fields_are_cut_to_three(run):
    run.claim(Config())
    small = dataclasses.replace(Config().small, width=1, layers=7, heads=8, ffn=9)
    with pytest.raises(InputError) as caught:
        run.open(Config(small=small), redo=False)
    said = str(caught.value)
    assert "small.width 16 → 1; small.layers 2 → 7; small.heads 2 → 8; …" in said
    assert "ffn" not in said
    assert "\n" not in said


def test_a_folder_of_something_else_is_refused(run):
    run.folder.mkdir()
    run.open(Config(), redo=False)
    (run.folder / "thesis.tex").write_text("x")
    for redo in (False, True):
        with pytest.raises(InputError, match="not a run directory and not empty"):
            run.open(Config(), redo)
    assert tree(run.folder) == {"thesis.tex": b"x"}


def test_a_file_in_the_place_of_the_folder_is_refused(run):
    run.folder.write_text("x")
    with pytest.raises(InputError, match="a file, not a run directory"):
        run.open(Config(), redo=False)


def test_a_broken_configuration_file_is_named(run):
    run.claim(Config())
    path = run.folder / "config.json"
    path.write_text(path.read_text()[:50])
    with pytest.raises(InputError, match=r"config\.json: not JSON"):
        run.open(Config(), redo=False)


def test_text_is_replaced_whole(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    write_text(path, "first ü")
    write_text(path, "second")
    assert tree(tmp_path) == {"deep/file.txt": b"second"}


def test_the_old_file_stays_when_the_new_one_cannot_be_written(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, {"a": 1})
    for bad in (float("nan"), object()):
        with pytest.raises((ValueError, TypeError)):
            write_json(path, {"a": bad})
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    assert json.loads(path.read_text()) == {"a": 1}


def test_readers_never_see_half_a_file(tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    write_text(path, "old")
    seen = []
    replace = rundir.Path.replace

    def watch(source, target):
        seen.append((path.read_text(), source.read_text(), source.parent == path.parent))
        return replace(source, target)

    monkeypatch.setattr(rundir.Path, "replace", watch)
    write_text(path, "new")
    assert seen == [("old", "new", True)]
    assert path.read_text() == "new"


def test_differences_name_dotted_fields():
    old, new = to_dict(Config()), to_dict(Config())
    assert differences(old, new) == []
    new["data"]["seed"] = 4
    new["arms"] = ["xent"]
    del new["teacher_topk"]
    assert differences(old, new) == [
        "data.seed 0 → 4",
        'arms ["xent", "cat_xent"] → ["xent"]',
        "teacher_topk 0 → null",
    ]


def test_provenance_is_json_and_names_versions():
    about = json.loads(json.dumps(provenance()))
    assert set(about) == {"commit", "versions", "created"}
    assert about["versions"]["jax"].count(".") == 2


def test_commit_of_this_folder_only(tmp_path):
    assert commit(tmp_path) == "unknown"
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    assert commit(tmp_path) == "unknown"  # no commit yet
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    assert len(commit(tmp_path)) == 12
    (tmp_path / "site-packages").mkdir()
    assert commit(tmp_path / "site-packages") == "unknown"


def test_commit_without_git(tmp_path, monkeypatch):
    (tmp_path / ".git").mkdir()
    monkeypatch.setenv("PATH", "")
    assert commit(tmp_path) == "unknown"
