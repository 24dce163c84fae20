"""Logged API responses, against the same logs read with a few lines of plain Python."""

import copy
import re

import numpy as np
import pytest
from foreign import chat, grades, read_jsonl, text, write_jsonl

from routers.build import build
from routers.errors import InputError
from routers.importers.openai import read
from routers.importers.openai_tokens import Tokens, least_k, tokens
from routers.importers.options import Options
from routers.records import pair

PRICES = {"small": (1.0, 2.0), "large": (10.0, 20.0)}
VALUES = {"q1": [-0.5, -0.25, -2.0], "q2": [-1.0]}


@pytest.fixture
def log(tmp_path):
    lines = [chat(q, v, k=4) for q, v in VALUES.items()]
    lines += [chat(q, v, model="large") for q, v in VALUES.items()]
    return write_jsonl(tmp_path / "log.jsonl", lines)


@pytest.fixture
def graded(tmp_path):
    rows = [(q, 1, m) for q in VALUES for m in PRICES]
    return grades(tmp_path / "grades.csv", rows, "query_id,quality,model")


def refused(path, **options) -> str:
    with pytest.raises(InputError) as caught:
        read([path], Options(**options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_chat_batches(log, graded):
    found = read([log], Options(quality=graded, prices=PRICES, split="test"))
    rows = found.table.to_pylist()
    for row, line in zip(rows, read_jsonl(log), strict=True):
        body = line["response"]["body"]
        content = body["choices"][0]["logprobs"]["content"]
        assert row["query_id"] == line["custom_id"]
        assert row["model"] == body["model"]
        assert row["response"] == "an answer"
        assert row["token_logprob"] == [token["logprob"] for token in content]
        top = [[entry["logprob"] for entry in token["top_logprobs"]] for token in content]
        assert row["topk_logprob"] == top
        usage, price = body["usage"], PRICES[row["model"]]
        spent = price[0] * usage["prompt_tokens"] + price[1] * usage["completion_tokens"]
        assert row["dollars"] == pytest.approx(spent / 1e6, rel=1e-12)
    assert "token_entropy" not in found.table.column_names
    assert found.metadata["topk"] == "small: 4, large: 3"


def test_a_router_runs_on_it(log, graded):
    found = read([log], Options(quality=graded, prices=PRICES, split="test"))
    inputs, _ = pair(found, "small", "large", "test")
    wanted = [-np.mean(VALUES[q]) for q in ("q1", "q2")]
    np.testing.assert_allclose(build("chow_average").score(inputs), wanted, rtol=1e-6)
    np.testing.assert_allclose(build("margin").score(inputs), [-1.0, -1.0], atol=1e-6)


def test_completions_with_an_extra_alternative(tmp_path):
    top = [{"a": -0.1, "b": -3.0, "c": -2.5}, {"x": -4.0, "y": -0.2, "z": -1.0, "w": -5.0}]
    path = write_jsonl(tmp_path / "l.jsonl", [text("q1", [-0.1, -5.0], top)])
    graded = grades(tmp_path / "g.csv", [("q1", 0.5)])
    found = read(
        [path], Options(columns={"query_id": "name"}, quality=graded, query_cost={"small": 1.0})
    ).table.to_pylist()[0]
    assert (found["model"], found["prompt"], found["response"]) == ("small", "2 + 2 =", " 4")
    assert found["token_logprob"] == pytest.approx([-0.1, -5.0], abs=1e-6)
    wanted = [[-0.1, -2.5, -3.0], [-0.2, -1.0, -4.0]]  # K = 3 everywhere, largest first
    np.testing.assert_allclose(found["topk_logprob"], wanted, atol=1e-6)


def test_plain_bodies_and_quality_in_the_line(tmp_path):
    lines = []
    for i in range(3):
        body = chat("x", [-1.0])["response"]["body"]
        lines.append(body | {"id": f"chat-{i}", "meta": {"grade": i / 2, "seconds": 0.5}})
    path = write_jsonl(tmp_path / "l.jsonl", lines)
    mapping = {"query_id": "id", "quality": "meta.grade", "latency_s": "meta.seconds"}
    found = read([path], Options(columns=mapping, parameters={"small": 3.0})).table
    assert found["query_id"].to_pylist() == ["chat-0", "chat-1", "chat-2"]
    assert found["quality"].to_pylist() == [0.0, 0.5, 1.0]
    assert found["latency_s"].to_pylist() == [0.5] * 3
    assert found["flops"].to_pylist() == [2 * 3 * (7 + 1)] * 3


def test_messages_become_a_prompt_and_models_come_from_the_request(tmp_path):
    line = chat("q1", [-1.0])
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    line["request"] = {"body": {"messages": messages, "model": "asked"}}
    del line["response"]["body"]["model"]
    path = write_jsonl(tmp_path / "l.jsonl", [line])
    graded = grades(tmp_path / "g.csv", [("q1", 1)])
    found = read([path], Options(quality=graded, query_cost={"asked": 1.0})).table.to_pylist()[0]
    assert (found["model"], found["prompt"]) == ("asked", "system: Be brief.\nuser: Why?")


def test_without_logprobs_there_are_no_token_columns(tmp_path):
    line = chat("q1", [-1.0])
    line["response"]["body"]["choices"][0]["logprobs"] = None
    path = write_jsonl(tmp_path / "l.jsonl", [line])
    graded = grades(tmp_path / "g.csv", [("q1", 1)])
    names = read([path], Options(quality=graded, prices={"small": (1, 1)})).table.column_names
    assert not {"token_logprob", "topk_logprob", "token_entropy"} & set(names)


def test_hidden_tokens_are_paid_but_not_counted_as_logged(tmp_path):
    path = write_jsonl(tmp_path / "l.jsonl", [chat("q1", [-1.0, -2.0], extra=500)])
    graded = grades(tmp_path / "g.csv", [("q1", 1)])
    found = read([path], Options(quality=graded, prices={"small": (0.0, 1.0)}))
    row = found.table.to_pylist()[0]
    assert row["dollars"] == pytest.approx(502e-6, rel=1e-12)
    assert row["response_tokens"] == 2
    assert "billed" in found.metadata["response_tokens"]


def test_quality_is_asked_for(log):
    assert "no quality in this log; give --quality FILE" in refused(log, prices=PRICES)


def broken(change):
    """A good line with one thing wrong."""
    line = copy.deepcopy(chat("q1", [-1.0, -2.0]))
    body = line["response"]["body"]
    change(line, body, body["choices"][0])
    return line


def put(container, key, value):
    container[key] = value


WRONG = {
    "no_id": (lambda l, b, c: l.pop("custom_id"), "no 'custom_id' that says which query it is"),
    "failed": (lambda l, b, c: put(l, "error", {"code": "x"}), 'failed request .*"code": "x"'),
    "status": (lambda l, b, c: put(l["response"], "status_code", 429), "request .status 429"),
    "no_body": (lambda l, b, c: put(l, "response", "text"), "no response body"),
    "stream": (lambda l, b, c: put(b, "object", "chat.completion.chunk"), "a piece of a stream"),
    "no_choices": (lambda l, b, c: b.pop("choices"), "no 'choices'; expected a chat or text"),
    "many": (lambda l, b, c: b["choices"].append(c), "2 choices; a record is one answer"),
    "none": (lambda l, b, c: b["choices"].clear(), "0 choices"),
    "odd_logprobs": (lambda l, b, c: put(c, "logprobs", {"x": 1}), "has neither 'content' nor"),
    "list_logprobs": (lambda l, b, c: put(c, "logprobs", [1]), "has neither 'content' nor"),
    "no_logprob": (lambda l, b, c: c["logprobs"]["content"][0].pop("logprob"), "echo"),
    "text_logprob": (
        lambda l, b, c: put(c["logprobs"]["content"][0], "logprob", "-1"), "give a finite number",
    ),
    "entry": (lambda l, b, c: put(c["logprobs"]["content"], 0, 3), "is not an object"),
    "top": (
        lambda l, b, c: put(c["logprobs"]["content"][0], "top_logprobs", 3), "is not a list",
    ),
    "probabilities": (
        lambda l, b, c: put(c["logprobs"]["content"][0], "logprob", 0.7), "above 0",
    ),
    "usage": (lambda l, b, c: put(b["usage"], "prompt_tokens", -1), "give a count of tokens"),
    "list_model": (lambda l, b, c: put(b, "model", ["m"]), "'model' is list"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named(tmp_path, name):
    change, message = WRONG[name]
    path = write_jsonl(tmp_path / "l.jsonl", [broken(change)])
    graded = grades(tmp_path / "g.csv", [("q1", 1)])
    assert re.search(message, refused(path, quality=graded, query_cost={"small": 1.0}))


def test_logprobs_in_some_responses_only(tmp_path):
    bare = chat("q2", [-1.0])
    bare["response"]["body"]["choices"][0]["logprobs"] = None
    path = write_jsonl(tmp_path / "l.jsonl", [chat("q1", [-1.0]), bare])
    graded = grades(tmp_path / "g.csv", [("q1", 1), ("q2", 1)])
    message = refused(path, quality=graded, query_cost={"small": 1.0})
    assert "'token_logprob' is missing in 1 of 2 rows of model 'small'" in message


def test_completions_of_the_prompt_too_and_of_other_lengths(tmp_path):
    graded = grades(tmp_path / "g.csv", [("q1", 1)])
    rest = {"columns": {"query_id": "name"}, "quality": graded, "query_cost": {"small": 1.0}}
    path = write_jsonl(tmp_path / "l.jsonl", [text("q1", [None, -1.0], [None, {"a": -1.0}])])
    assert "the prompt was logged too (echo)" in refused(path, **rest)
    path = write_jsonl(tmp_path / "l.jsonl", [text("q1", [-1.0, -1.0], [{"a": -1.0}])])
    assert "2 token_logprobs, 1 top_logprobs" in refused(path, **rest)


def test_brackets_belong_to_tables(log):
    message = refused(log, columns={"quality[small]": "x"}, prices=PRICES)
    assert "brackets are for format 'table'; use quality" in message


def test_an_empty_answer_has_no_tokens_and_no_lack_of_them():
    assert tokens({"content": [], "refusal": None}, "here") == Tokens([], [])
    assert tokens({"content": None, "refusal": []}, "here") == Tokens(None, None)
    cut, notes = least_k(["m", "m"], [[], [[-1.0, -2.0]]])
    assert (cut, notes) == ([[], [[-1.0, -2.0]]], {"topk": "m: 2"})


def test_least_k_is_per_model_and_zero_means_none():
    rows = [[[-1.0, -2.0, -3.0], [-1.0, -2.0]], [[-1.0]], [[], [-1.0]]]
    cut, notes = least_k(["a", "b", "c"], rows)
    assert cut == [[[-1.0, -2.0], [-1.0, -2.0]], [[-1.0]], None]
    assert notes == {"topk": "a: 2, b: 1"}
