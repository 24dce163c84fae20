"""CONFIG|RUN and its overrides: what the command line means, and that reading it writes nothing."""

import dataclasses
import json
import re

import pytest

from cat.config import Config, to_dict
from experiments import configs
from experiments.options import _expand, resolve
from routers.errors import InputError


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Every test in an empty folder that is still empty, but for what the test put there."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def listing(folder) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_name_is_a_shipped_configuration(here):
    config, run = resolve(["demo"], "run")
    assert config == configs.load("demo")
    assert run.folder.as_posix() == "runs/demo"
    assert listing(here) == []


def test_every_kind_of_field_can_be_set():
    arguments = "--name wide --small.width 32 --arms xent random_mask --seeds 0 1 2 --runs out"
    more = "--data.seed 7 --arm-train.learning-rate 1e-3 --small.no-tied-embeddings"
    config, run = resolve(["demo", *arguments.split(), *more.split()], "run")
    base = configs.load("demo")
    expected = dataclasses.replace(
        base,
        name="wide",
        small=dataclasses.replace(base.small, width=32, tied_embeddings=False),
        data=dataclasses.replace(base.data, seed=7),
        arm_train=dataclasses.replace(base.arm_train, learning_rate=1e-3),
        arms=("xent", "random_mask"),
        seeds=(0, 1, 2),
    )
    assert config == expected
    assert run.folder.as_posix() == "out/wide"


def test_a_path_is_your_own_configuration(here):
    (here / "mine.py").write_text(
        "from cat.config import Config\ndef config():\n    return Config(name='mine', seeds=(5,))\n"
    )
    config, run = resolve(["mine.py"], "run")
    assert config == Config(name="mine", seeds=(5,))
    assert run.folder.as_posix() == "runs/mine"


def test_a_run_folder_brings_its_own_configuration(here):
    config, run = resolve(["demo", "--name", "kept", "--seeds", "3"], "run")
    run.claim(config)
    again, same = resolve(["runs/kept"], "report")
    assert (again, same.folder) == (config, run.folder)
    with pytest.raises(InputError, match=r"runs/kept: made with another .*seeds \[3\] → \[4\]"):
        resolve(["runs/kept", "--seeds", "4"], "run")
    redone, _ = resolve(["runs/kept", "--seeds", "4", "--redo"], "run")
    assert redone == dataclasses.replace(config, seeds=(4,))
    assert json.loads((here / "runs/kept/config.json").read_text()) == to_dict(config)


def test_a_moved_run_folder_is_found_by_its_path(here):
    config, run = resolve(["demo"], "run")
    run.claim(config)
    (here / "runs" / "demo").rename(here / "moved")
    again, run = resolve(["moved"], "report")
    assert (again, run.folder.as_posix()) == (config, "moved")


@pytest.mark.parametrize("written", [["--data", "my.jsonl"], ["--data=my.jsonl"]])
def test_data_is_short_for_a_jsonl_file(written):
    config, _ = resolve(["text2text", *written, "--name", "mine"], "run")
    long = ["--data.task", "jsonl", "--data.path", "my.jsonl", "--name", "mine"]
    assert config == resolve(["text2text", *long], "run")[0]
    assert (config.data.task, config.data.path) == ("jsonl", "my.jsonl")


def test_only_data_itself_is_expanded():
    assert _expand(["--data.seed", "1", "--database", "x"]) == [
        "--data.seed",
        "1",
        "--database",
        "x",
    ]
    assert _expand(["a", "--data", "--data", "b"]) == [
        *("a", "--data.task", "jsonl", "--data.path", "--data", "b")
    ]


@pytest.mark.parametrize("help_flag", ["-h", "--help"])
def test_help_names_the_verb_and_shows_examples(capsys, help_flag):
    with pytest.raises(SystemExit) as stop:
        resolve([help_flag], "train")
    assert stop.value.code == 0
    out, err = capsys.readouterr()
    assert "usage: cascade train CONFIG|RUN" in out
    assert "cascade train demo" in out
    assert err == ""


def test_help_of_a_configuration_lists_its_values(capsys):
    with pytest.raises(SystemExit) as stop:
        resolve(["demo", "--help"], "run")
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert "--arm-train.steps INT" in out
    assert str(configs.load("demo").arm_train.steps) in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "cascade run needs CONFIG or RUN"),
        (["dmo"], "unknown configuration 'dmo'; did you mean 'demo'? Known: "),
        (["nowhere/mine.py"], "nowhere/mine.py: no such file"),
        (["."], ".: not a run directory (no config.json)"),
        (["demo", "--small.wdth", "3"], "--small.wdth, 3; did you mean --small.width?"),
        (["demo", "--small.width", "wide"], "Error parsing --small.width"),
        (["demo", "--data"], "--data needs a .jsonl file"),
        (["demo", "--data="], "--data needs a .jsonl file"),
        (["demo", "--seeds", "1", "1"], "seeds=[1, 1]"),
        (["demo", "--large.heads", "4", "--large.kv-heads", "3"], "large.kv_heads=3 does not"),
        (["demo", "--evaluation.routers", "chow_som"], "did you mean 'chow_sum'?"),
        (["demo", "--evaluation.routers", "chow_quantile:alhpa=0"], "did you mean 'alpha'?"),
        (["demo", "--name", "a/b"], "name='a/b'"),
    ],
)
def test_refusals_name_the_culprit_and_write_nothing(here, arguments, says):
    with pytest.raises(InputError, match=re.escape(says)) as caught:
        resolve(arguments, "run")
    assert "\n" not in str(caught.value)
    assert listing(here) == []


def test_a_configuration_file_of_another_version(here):
    config, run = resolve(["demo"], "run")
    run.claim(config)
    tree = to_dict(config) | {"colour": "red"}
    (here / "runs/demo/config.json").write_text(json.dumps(tree))
    with pytest.raises(InputError, match="Config has no field colour"):
        resolve(["runs/demo"], "report")
