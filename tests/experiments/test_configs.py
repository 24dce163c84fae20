"""Configurations: one file each, found by name or by path, and what a broken file says."""

import dataclasses
import re
from pathlib import Path

import pytest

from cat.config import Config, from_dict, to_dict
from experiments import configs, study
from experiments.configs._study import ROUTERS
from routers.errors import InputError

FOLDER = Path(configs.__file__).parent


def test_names_are_the_files():
    files = {path.stem for path in FOLDER.glob("[!_]*.py")}
    assert set(configs.names()) == files
    assert {"demo", "text2text"} <= files


@pytest.mark.parametrize("name", configs.names())
def test_every_configuration_is_sound(name):
    config = configs.load(name)
    config.check()
    assert config.name == name
    assert from_dict(Config, to_dict(config)) == config
    assert configs.load(name) == config  # a function of nothing: the same every time
    assert configs.load(str(FOLDER / f"{name}.py")) == config


@pytest.mark.parametrize("name", configs.names())
def test_every_header_has_a_line_and_the_hardware(name):
    line = configs.names()[name]
    assert 0 < len(line) <= 100
    assert "Hardware:" in (FOLDER / f"{name}.py").read_text()


def test_names_import_nothing(tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text('"""a line\n\nmore"""\nraise RuntimeError\n')
    (tmp_path / "bare.py").write_text("x = 1\n")
    monkeypatch.setattr(configs, "__path__", [str(tmp_path)])
    assert configs.names() == {"bare": "", "broken": "a line"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def config(:\n", "SyntaxError"),
        ("x = 1\n", "has no attribute 'config'"),
        ("import nonsense_that_is_not_there\n", "ModuleNotFoundError"),
        ("from cat.config import Config\ndef config():\n    return Config(stps=3)\n", "'stps'"),
        (
            "def config():\n    return {'name': 'x'}\n",
            "config() returned dict; return a cat.config",
        ),
        ("def config():\n    return name\n", "NameError"),
    ],
)
def test_a_broken_file_is_one_line(tmp_path, text, says):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(InputError, match=re.escape(says)) as caught:
        configs.load(str(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_what_configurations_share_is_none_itself():
    assert (FOLDER / "_study.py").is_file()
    with pytest.raises(InputError, match="unknown configuration '_study'"):
        configs.load("_study")
    with pytest.raises(InputError, match=r"_study\.py: AttributeError"):
        configs.load(str(FOLDER / "_study.py"))


def test_the_configurations_of_the_study_are_on_the_results_page():
    shown = {*study.GENERATED, *study.REAL, *study.APART}
    assert shown == set(configs.names()) - {"demo", "text2text", "pretraining"}
    for name in (*study.GENERATED, *study.REAL):
        config = configs.load(name)
        assert (config.data.task == "jsonl") == (name in study.REAL)
        assert config.evaluation.routers == ROUTERS
        assert "random" not in ROUTERS  # its exact line is always drawn


def test_unknown_names_and_places(tmp_path):
    with pytest.raises(InputError, match=r"'txt2text'; did you mean 'text2text'\? Known: "):
        configs.load("txt2text")
    with pytest.raises(InputError, match=r"absent\.py: no such file"):
        configs.load(str(tmp_path / "absent.py"))
    with pytest.raises(InputError, match="not a run directory"):
        configs.load(str(tmp_path))


def test_your_own_file_may_build_on_a_shipped_one(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "import dataclasses\nfrom experiments import configs\n"
        "def config():\n    return dataclasses.replace(configs.load('demo'), name='mine')\n"
    )
    assert configs.load(str(path)) == dataclasses.replace(configs.load("demo"), name="mine")
