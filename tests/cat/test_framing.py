"""Prompt and target as one text: lm-evaluation-harness's rule by another road; token borders."""

import pytest
import tokenizers
from tokenizers import models

from cat.framing import Plain, behind

PAIRS = [
    ("Q: 2 + 2? A:", "4"),
    ("Q: 2 + 2? A: ", "4"),
    ("Q: 2 + 2? A:   ", " 4"),
    ("def f():\n", "    return 1"),
    ("tab\t", "x"),
    ("line\n  ", "x"),
    ("", "x"),
    ("  ", "x"),
    ("漢字", "ok"),
]


def harness(context, continuation):
    """What _encode_pair does to the two texts, except that newlines stay with the context."""
    delimiter = "" if context[-1:].isspace() or not context else " "
    continuation = delimiter + continuation
    while context.endswith(" "):
        context, continuation = context[:-1], " " + continuation
    return context, continuation


@pytest.mark.parametrize(("prompt", "target"), PAIRS)
def test_spaces_move_to_the_response_and_nothing_is_lost(prompt, target):
    plain = Plain()
    parts = plain.prompt(prompt), plain.response(prompt, target)
    assert parts == harness(prompt, target)
    joint = "" if not prompt or prompt[-1].isspace() else " "
    assert "".join(parts) == prompt + joint + target


@pytest.mark.parametrize(("prompt", "target"), PAIRS)
def test_the_answer_is_the_target(prompt, target):
    plain = Plain()
    assert plain.answer(prompt, plain.response(prompt, target)) == target
    assert plain.answer(prompt, "") == ""


def test_an_answer_without_its_space_is_left_as_it_is():
    assert Plain().answer("Q:", "4") == "4"
    assert Plain().answer("Q:", "  4") == " 4"


def words(texts):
    """Longest known piece first; a space in front of everything, as SentencePiece does."""
    pieces = [" yes", "yes", "\n\n", "\n", "a", " "]
    rows = []
    for text in texts:
        text, row = " " + text if text else "", []
        while text:
            found = next(p for p in pieces if text.startswith(p))
            row.append(pieces.index(found))
            text = text[len(found) :]
        rows.append(row)
    return rows


def test_no_space_is_added_behind_an_anchor():
    assert words(["yes", "\nyes"]) == [[0], [5, 3, 1]]
    assert behind(["\n"], ["yes"], words) == [[1]]
    assert behind(["\n"], [" yes"], words) == [[0]]
    assert behind([""], ["yes"], words) == [[0]]  # where a text starts, as always


def test_a_text_that_melts_into_its_anchor_is_encoded_behind_a_letter():
    assert words(["\n\nyes"]) == [[5, 2, 1]]
    assert behind(["\n", "a"], ["\nyes", "yes"], words) == [[3, 1], [1]]


def test_where_all_melts_a_text_is_encoded_by_itself():
    joined = tokenizers.Tokenizer(
        models.BPE({"a": 0, "b": 1, "c": 2, "ab": 3, "cb": 4}, [("a", "b"), ("c", "b")])
    )

    def encode(texts):
        return [joined.encode(text).ids for text in texts]

    assert behind(["c"], ["b"], encode) == [[1]]
    assert behind(["c", "b", "a"], ["a", "c", "b"], encode) == [[0], [2], [1]]


def test_each_row_has_its_own_anchor():
    calls = []

    def encode(texts):
        calls.append(list(texts))
        return [list(map(ord, text)) for text in texts]

    found = behind(["x", "", "x"], ["ab", "cd", "ef"], encode)
    assert found == [[97, 98], [99, 100], [101, 102]]
    assert calls == [["x", ""], ["xab", "cd", "xef"]]  # two calls, whatever the number of rows
