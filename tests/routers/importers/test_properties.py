"""Properties of every parser, for whatever hypothesis can think of."""

import csv
import math

import numpy as np
import pytest
from foreign import chat, grades, harness_choice, harness_folder, write_jsonl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from routers.errors import InputError
from routers.importers import one_line, reader
from routers.importers.complete import hashed_splits
from routers.importers.huggingface import lengths
from routers.importers.openai_tokens import tokens
from routers.importers.options import Options
from routers.importers.sources import number, objects
from routers.importers.tabular import cells, load, pick

KEYS = [
    "query_id", "model", "quality", "dollars", "task", "split", "token_logprob", "prompt_tokens",
    "custom_id", "response", "request", "body", "choices", "message", "content", "logprobs",
    "top_logprobs", "logprob", "token_logprobs", "usage", "text", "error", "status_code", "object",
    "doc_id", "filtered_resps", "resps", "filter", "metrics", "acc", "arguments", "target",
]  # fmt: skip
WORDS = st.text(st.characters(blacklist_categories=["Cs"]), max_size=12)


def trees(floats, text):
    """JSON values with the keys that readers look for."""
    return st.recursive(
        st.none() | st.booleans() | st.integers() | floats | text,
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5)
        ),
        max_leaves=12,
    )


VALUES = trees(st.floats(allow_nan=False), st.text(max_size=8))
SOUND = trees(st.floats(allow_nan=False, allow_infinity=False), WORDS)
LINES = st.lists(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=8), max_size=3)
often = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def attempt(work, *arguments):
    """(what came back, "") or (None, the refusal)."""
    try:
        return work(*arguments), ""
    except InputError as error:
        return None, str(error)


@often
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_and_its_text_are_the_same_number(value):
    assert number(value, "here") == number(repr(value), "here") == value


@often
@given(VALUES | WORDS | st.floats())
def test_a_number_is_finite_or_refused(value):
    found, refusal = attempt(number, value, "here")
    assert refusal.startswith("here is ") if refusal else found is None or math.isfinite(found)


@often
@given(st.text())
def test_a_message_is_one_printable_line(text):
    assert one_line(text).isprintable()
    assert one_line(one_line(text)) == one_line(text)


@often
@given(st.lists(st.dictionaries(st.sampled_from(KEYS), SOUND, max_size=6), max_size=3))
def test_json_lines_come_back_as_they_were(tmp_path, lines):
    path = write_jsonl(tmp_path / "log.jsonl", lines)
    assert [line for _, line in objects(path)] == lines


@often
@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=6), st.sampled_from([",", "\t"]))
def test_any_text_survives_a_csv(tmp_path, rows, delimiter):
    path = tmp_path / ("log.csv" if delimiter == "," else "log.tsv")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL)
        writer.writerows([("query_id", "prompt"), *rows])
    loaded = load(path)
    found = [cells(loaded, name, name) for name in ("query_id", "prompt")]
    assert list(zip(*found, strict=True)) == rows


@often
@given(VALUES, st.text(max_size=10))
def test_a_path_leads_to_a_value_or_to_none(value, path):
    pick(value, path)
    if isinstance(value, dict):
        assert all(pick(value, key) == inner for key, inner in value.items())


@often
@given(VALUES)
def test_logprobs_are_finite_or_refused(value):
    found, refusal = attempt(tokens, value, "here")
    if refusal:
        return
    for row in [found.logprob or [], *(found.topk or [])]:
        assert all(math.isfinite(entry) for entry in row)
        assert not found.topk or all(list(e) == sorted(e, reverse=True) for e in found.topk)


@often
@given(st.lists(WORDS, min_size=1, max_size=20), st.randoms(use_true_random=False))
def test_a_query_keeps_its_split_in_any_company(ids, shuffler):
    whole = dict(zip(ids, hashed_splits(np.array(ids, dtype=object)).tolist(), strict=True))
    shuffler.shuffle(ids)
    half = ids[: len(ids) // 2 + 1]
    assert hashed_splits(np.array(half, dtype=object)).tolist() == [whole[q] for q in half]


@often
@given(st.lists(st.lists(st.integers(0, 4), min_size=4, max_size=4), min_size=1, max_size=5))
def test_a_response_ends_at_its_first_end(rows):
    wanted = [row.index(3) + 1 if 3 in row else 4 for row in rows]
    assert lengths(np.array(rows), [3]).tolist() == wanted


OPTIONS = {"table": {}, "openai": {"columns": {"quality": "quality"}}, "lm_eval": {}}


@pytest.mark.parametrize("name", OPTIONS)
@often
@given(lines=LINES)
def test_any_json_is_read_or_refused_in_one_line(tmp_path, name, lines):
    """Alone, and after a good line, so that the strange one meets the later checks too."""
    good = {
        "table": {"query_id": "q", "model": "m", "quality": 1, "dollars": 1.0},
        "openai": chat("q", [-0.5], model="m") | {"quality": 1},
        "lm_eval": harness_choice(7, [-1.0, -2.0], True),
    }[name]
    for content in (lines, [good, *lines], [good | line for line in lines]):
        path = harness_folder(tmp_path, "m", "t", content)
        options = Options(query_cost={"m": 1.0}, **OPTIONS[name])
        found, refusal = attempt(reader(name), [path], options)
        assert refusal.isprintable()
        if found:
            quality = np.array(found.table["quality"].to_pylist())
            assert ((quality >= 0) & (quality <= 1)).all()


@often
@given(rows=st.lists(st.tuples(WORDS, WORDS, WORDS), max_size=4))
def test_any_grades_are_joined_or_refused(tmp_path, rows):
    path = write_jsonl(tmp_path / "log.jsonl", [chat("q", [-0.5], model="m")])
    graded = grades(tmp_path / "g.csv", [*rows, ("q", "0.5", "m")], "query_id,quality,model")
    options = Options(quality=graded, query_cost={"m": 1.0})
    found, refusal = attempt(reader("openai"), [path], options)
    assert refusal.isprintable()
    assert bool(refusal) or found.table["quality"].to_pylist() == [0.5]
