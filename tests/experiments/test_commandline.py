"""What tyro refuses becomes one line, at every terminal width and in either drawing set."""

import dataclasses
import io
import json
import os
import sys
from typing import Literal

import pytest

from experiments.commandline import existing, one_line, parse, print_json
from routers.errors import InputError


@dataclasses.dataclass(frozen=True)
class Inner:
    """A nested part."""

    learning_rate: float = 0.1
    kind: Literal["small", "large"] = "small"


@dataclasses.dataclass(frozen=True)
class Verb:
    """What a verb takes."""

    inner: Inner = Inner()
    steps: int = 3
    names: tuple[str, ...] = ("a",)
    flag: bool = False


def refused(*arguments: str) -> str:
    with pytest.raises(InputError) as caught:
        parse(Verb, arguments, "cascade verb")
    assert caught.value.__cause__ is None
    return str(caught.value)


def test_values_reach_the_dataclass():
    parsed = parse(
        Verb, ["--steps", "5", "--inner.learning-rate", "1e-3", "--names", "x", "y"], "p"
    )
    assert parsed == Verb(Inner(learning_rate=1e-3), 5, ("x", "y"))


def test_a_default_instance_is_the_base():
    base = Verb(steps=9, flag=True)
    assert parse(Verb, ["--names", "z"], "p", default=base) == Verb(Inner(), 9, ("z",), True)


@pytest.mark.parametrize("columns", ["20", "80", "400"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stepz", "3"], "Unrecognized options: --stepz, 3; did you mean --steps?"),
        (["--stepz=3"], "Unrecognized options: --stepz=3"),
        (["word"], "Unrecognized options: word"),
        (["--steps"], "Missing value for argument '--steps'. Expected 1 values"),
        (
            ["--inner.learning-rte", "3"],
            "Unrecognized options: --inner.learning-rte, 3; did you mean --inner.learning-rate?",
        ),
    ],
)
def test_the_whole_message_on_one_line(monkeypatch, columns, arguments, message):
    monkeypatch.setenv("COLUMNS", columns)
    assert refused(*arguments) == f"{message}; see 'cascade verb --help'"
    assert os.environ["COLUMNS"] == columns


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_the_encoding_of_stdout_does_not_matter(monkeypatch, encoding):
    stdout = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stdout)
    said = [refused("--stepz", "3"), refused("--steps", "many"), refused("word")]
    monkeypatch.undo()
    assert said[0].startswith("Unrecognized options: --stepz, 3; did you mean --steps?; see")
    assert said[1].startswith("Error parsing --steps: invalid literal for int()")
    assert said[2] == "Unrecognized options: word; see 'cascade verb --help'"


def test_missing_options_are_named():
    @dataclasses.dataclass(frozen=True)
    class Needs:
        """Two options without a default."""

        rate: float  # of something
        out: str

    with pytest.raises(InputError, match="Missing from p: --rate FLOAT; --out STR; see"):
        parse(Needs, [], "p")


def test_a_bad_value_names_option_and_value():
    said = refused("--steps", "many")
    assert said.startswith("Error parsing --steps: invalid literal for int()")
    assert "'many'" in said
    said = refused("--inner.kind", "medium")
    assert "--inner.kind" in said
    assert "medium" in said
    assert "\n" not in said


def test_a_long_option_is_quoted_whole(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    option = "--" + "very-long-" * 30 + "name"
    assert option in refused(option)


def test_nothing_is_printed_when_refused(capsys):
    refused("--nope")
    assert capsys.readouterr() == ("", "")


def test_help_goes_to_stdout_and_leaves_with_zero(capsys):
    with pytest.raises(SystemExit) as stop:
        parse(Verb, ["--help"], "cascade verb")
    assert stop.value.code == 0
    out, err = capsys.readouterr()
    assert "--inner.learning-rate" in out
    assert err == ""


@pytest.mark.parametrize(
    ("box", "line"),
    [
        ("╭─ V ─╮\n│ Error parsing --x: bad │\n│ ── │\n│ more │\n╰──╯\n", "Error parsing --x: bad"),
        (
            " V   \n --- \n  Error parsing --x: bad  \n  ---\n  more\n   \n",
            "Error parsing --x: bad",
        ),
        (
            " U \n --- \n  Unrecognized options: --stes \n  ---\n  Perhaps you meant: \n"
            "      --seed INT\n          of it\n      --steps INT\n  ---\n  see\n  \n",
            "Unrecognized options: --stes; did you mean --steps?",
        ),
        (
            "╭─ U ─╮\n│ Unrecognized options: --stes │\n│ ─── │\n│ Perhaps you meant: │\n"
            "│     --seed INT │\n│         --help │\n│     --steps INT │\n│ ── │\n│ see │\n╰──╯",
            "Unrecognized options: --stes; did you mean --steps?",
        ),
        (
            "╭─ R ─╮\n│ Missing from x: │\n│     --rate FLOAT │\n│         of it │\n"
            "│     -o, --out PATH │\n│ ── │\n│ For full helptext, run: │\n│     x --help │\n╰──╯",
            "Missing from x: --rate FLOAT; -o, --out PATH",
        ),
        ("", "bad command line"),
        ("Traceback", "bad command line"),
    ],
)
def test_boxes_in_both_drawing_sets(box, line):
    assert one_line(box) == line


def test_json_is_readable_and_has_no_nan(capsys):
    value = {"b": [1, 2.5, None], "a": "ü"}
    print_json(value)
    assert json.loads(capsys.readouterr().out) == value
    with pytest.raises(ValueError, match="not JSON compliant"):
        print_json({"x": float("nan")})


def test_existing_returns_the_path_or_names_it(tmp_path):
    assert existing(tmp_path, "folder") == tmp_path
    with pytest.raises(InputError, match=r"gone\.parquet: no such file; check the path"):
        existing(tmp_path / "gone.parquet", "file")
