"""The task ``text``: whole documents to learn from, passages to continue."""

import dataclasses
import json

import pytest

from cat import tasks
from cat.config import DataConfig
from cat.tasks import text
from routers.errors import InputError


def words(count, start=0):
    return " ".join(f"w{i}" for i in range(start, start + count))


def config(path, **kwargs):
    return DataConfig(task="text", path=str(path), max_prompt_tokens=21, max_response_tokens=11,
                      **kwargs)  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    rows = [(s, words(40 + i, 100 * i)) for i, s in enumerate(["train"] * 30 + ["validation"] * 4)]
    lines = [{"task": "lm", "split": s, "inputs": "", "targets": t} for s, t in rows]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path


def test_training_documents_are_whole(folder):
    found = text.examples(config(folder), "train")
    carved = 30 - len(found)
    assert 0 < carved < 10  # to be the test split
    for example in found:
        joined = f"{example.prompt} {example.target}"
        assert joined == words(len(joined.split()), int(joined.split()[0][1:]))
        assert len(joined.split()) >= 40
        assert abs(len(example.prompt) - len(example.target)) <= 6


@pytest.mark.parametrize("split", ["validation", "test"])
def test_passages_cover_documents_in_order_and_fit(split, folder):
    found = text.examples(config(folder), split)
    documents: dict[str, str] = {}
    for example in found:
        assert 0 < len(example.prompt) <= 20
        assert 0 < len(example.target) <= 9
        name = example.id.partition("#")[0]
        said = f"{example.prompt} {example.target}"
        documents[name] = f"{documents[name]} {said}" if name in documents else said
    for joined in documents.values():
        assert joined == words(len(joined.split()), int(joined.split()[0][1:]))
        assert len(joined.split()) >= 34  # all but the rest that is too short for both
    assert len({e.id for e in found}) == len(found)


def test_no_document_is_in_two_splits(folder):
    splits = tasks.load(config(folder))
    seen = [
        {w for e in part for w in f"{e.prompt} {e.target}".split()}
        for part in (splits.train, splits.validation, splits.test)
    ]
    assert all(seen)
    assert not seen[0] & (seen[1] | seen[2])
    assert not seen[1] & seen[2]


def test_a_document_with_inputs_is_refused(tmp_path):
    line = {"task": "lm", "split": "train", "inputs": "question", "targets": words(30)}
    (tmp_path / "a.jsonl").write_text(json.dumps(line))
    with pytest.raises(InputError, match=r"a\.jsonl:1' has inputs; leave them empty"):
        [text.examples(config(tmp_path), split) for split in tasks.SPLITS]


def passages(folder, document):
    line = {"task": "lm", "split": "test", "inputs": "", "targets": document}
    (folder / "a.jsonl").write_text(json.dumps(line))
    return [(e.prompt, e.target) for e in text.examples(config(folder), "test")]


def test_a_word_too_long_for_its_place_is_skipped(tmp_path):
    first, second = ("w0 w1 w2 w3 w4 w5 w6", "w7 w8"), ("v0 v1 v2 v3 v4 v5 v6", "v7 v8")
    again = words(9).replace("w", "v")
    for unbroken in ("x" * 30, "x" * 30 + " " + "y" * 30 + "  "):
        assert passages(tmp_path, f"{words(9)} {unbroken} {again}") == [first, second]
    # longer than a continuation only: the prompt before it goes with it
    assert passages(tmp_path, f"{words(7)} {'x' * 10} {again}") == [second]
    assert passages(tmp_path, "x" * 30) == []


def test_the_longest_passages_fit_a_token_a_character(folder):
    """And not one character more would: bos, the space between, eos."""
    from cat import running_text, tokenizers
    from cat.data import framed

    limits = config(folder)
    found = text.examples(limits, "validation")
    plain = tokenizers.from_spec("characters", [f"{e.prompt} {e.target}" for e in found])
    tokenizer = running_text.without_frame(plain)

    def fits(prompt, target):
        example = dataclasses.replace(found[0], prompt=prompt, target=target)
        ((_, pair),) = framed([example], tokenizer, limits)
        return pair is not None

    assert fits("w" * 20, "w" * 9)
    assert not fits("w" * 21, "w" * 9)
    assert not fits("w" * 20, "w" * 10)
