"""`cascade configs`, `tasks`, `routers`: two columns, or one JSON object."""

import json

import pytest

from experiments.cli import main
from experiments.listing import show
from routers.errors import InputError

ROWS = {"a": "first", "longer_name": "second: with words"}


def test_two_columns(capsys):
    show([], "cascade things", ROWS)
    assert capsys.readouterr().out == "a            first\nlonger_name  second: with words\n"


def test_json(capsys):
    show(["--json"], "cascade things", ROWS)
    assert json.loads(capsys.readouterr().out) == ROWS


def test_nothing_to_list(capsys):
    show([], "cascade things", {})
    assert capsys.readouterr().out == ""


def test_unknown_option_is_one_line():
    with pytest.raises(InputError, match=r"--jsno; did you mean --json\?; see 'cascade things"):
        show(["--jsno"], "cascade things", ROWS)


@pytest.mark.parametrize(
    ("verb", "expected"),
    [
        ("configs", {"demo", "text2text"}),
        ("tasks", {"generated", "jsonl", "text", "tfds"}),
        ("models", {"LlamaForCausalLM", "Qwen3ForCausalLM"}),
        ("routers", {"random", "chow_sum", "chow_average", "chow_quantile", "post_hoc", "oracle"}),
    ],
)
def test_the_verbs_agree_with_their_json(capsys, verb, expected):
    assert main([verb, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert expected <= set(rows)
    assert all(rows.values())  # everything says what it is
    assert main([verb]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(maxsplit=1) for line in lines] == [[k, v] for k, v in rows.items()]
