"""JSON lines: what is accepted, how each fault is named, and real data sets."""

import gzip
import json
import os
import re

import pytest

from cat.config import DataConfig
from cat.example import Example
from cat.tasks import jsonl, load
from routers.errors import InputError

GOOD = {"task": "t", "split": "train", "inputs": "q", "targets": "a"}


def config(path):
    return DataConfig(task="jsonl", path=str(path))


def write(path, *rows):
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8") as stream:
        stream.writelines((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows)
    return path


def test_a_row_becomes_an_example(tmp_path):
    full = {**GOOD, "id": "x", "choices": ["a", "b"], "references": ["a", "c"], "extra": 1}
    path = write(tmp_path / "d.jsonl", GOOD, "", full, {**GOOD, "id": 7, "references": ["z"]})
    assert jsonl.examples(config(path), "train") == [
        Example("d.jsonl:1", "t", "q", "a"),
        Example("x", "t", "q", "a", ("a", "b"), ("a", "c")),
        Example("7", "t", "q", "a", (), ("a", "z")),  # the target is always a reference
    ]
    assert jsonl.examples(config(path), "test") == []


def test_folders_and_gzip_and_text_outside_ascii(tmp_path):
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub" / "test.jsonl.gz", {**GOOD, "split": "test", "inputs": "漢 ä"})
    write(tmp_path / "train.jsonl", GOOD, {**GOOD, "inputs": "r"})
    (tmp_path / "README.md").write_text("not data")
    assert [e.id for e in jsonl.examples(config(tmp_path), "train")] == [
        "train.jsonl:1",
        "train.jsonl:2",
    ]
    (test,) = jsonl.examples(config(tmp_path), "test")
    assert (test.id, test.prompt) == ("sub/test.jsonl.gz:1", "漢 ä")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ('{"task": "t",', "invalid JSON (Expecting property name enclosed in double quotes at"),
        ("[1, 2]", "a list where an object belongs"),
        ({k: v for k, v in GOOD.items() if k != "inputs"}, "key 'inputs' is missing"),
        ({**GOOD, "targets": 3}, "'targets' is a number; make it a string"),
        ({**GOOD, "task": None}, "'task' is null; make it a string"),
        ({**GOOD, "choices": "ab"}, "'choices' is a string; make it a list of strings"),
        ({**GOOD, "references": [1]}, "'references' is a list; make it a list of strings"),
        ({**GOOD, "id": 1.5}, "'id' is a number; make it a string or an integer"),
        ({**GOOD, "targets": " \n"}, "'targets' is empty"),
        ({**GOOD, "split": "tests"}, "split 'tests' is unknown; did you mean 'test'?"),
        ({**GOOD, "split": "dev"}, "split 'dev' is unknown; Known: train, validation, test"),
    ],
)
def test_a_bad_line_is_named_by_file_number_and_reason(tmp_path, row, reason):
    path = write(tmp_path / "d.jsonl", GOOD, "", row)
    with pytest.raises(InputError) as caught:
        jsonl.examples(config(path), "test")  # whichever split is asked: all lines are checked
    message = str(caught.value)
    assert message.startswith(f"{path}:3: {reason}")
    assert "\n" not in message


def test_duplicate_ids_are_found_across_files(tmp_path):
    write(tmp_path / "a.jsonl", {**GOOD, "id": "x"})
    write(tmp_path / "b.jsonl", GOOD, {**GOOD, "id": "x"})
    with pytest.raises(InputError, match=r"b\.jsonl:2: id 'x' occurs already at .*a\.jsonl:1"):
        jsonl.examples(config(tmp_path), "train")


def test_unreadable_files_are_named(tmp_path):
    for name, content, reason in (
        ("latin.jsonl", json.dumps(GOOD).encode() + b"\n\xe4\n", "not UTF-8"),
        ("not_gzip.jsonl.gz", b"plain", "cannot be read"),
        ("cut.jsonl.gz", gzip.compress(json.dumps(GOOD).encode() * 99)[:-20], "cannot be read"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(InputError, match=f"{re.escape(name)}: {reason}"):
            jsonl.examples(config(path), "train")


def test_wrong_paths_say_what_to_give(tmp_path):
    with pytest.raises(InputError, match=r"needs data\.path"):
        jsonl.examples(DataConfig(task="jsonl"), "train")
    with pytest.raises(InputError, match="does not exist"):
        jsonl.examples(config(tmp_path / "none.jsonl"), "train")
    with pytest.raises(InputError, match=r"holds no \.jsonl"):
        jsonl.examples(config(tmp_path), "train")


def test_a_changed_file_is_read_again(tmp_path):
    path = write(tmp_path / "d.jsonl", GOOD)
    assert len(jsonl.examples(config(path), "train")) == 1
    write(path, GOOD, GOOD)
    os.utime(path, ns=(1, 1))
    assert len(jsonl.examples(config(path), "train")) == 2


# Rows per split as published beside the data sets.
COUNTS = {
    "scan": (32_048, 1_670, 8_102),
    "babi": (16_621, 2_097, 20_000),
    "clinc150": (15_095, 3_100, 5_500),
    "tatoeba_en_de": (99_549, 2_000, 2_000),
    "instruction_induction": (52_795, 5_879, 1_856),
}

# Train rows whose prompt is held out in *another* task of the folder: SCAN's two tasks share
# one pool of commands.
DROPPED = {"scan": 7_572}


@pytest.mark.shared
@pytest.mark.parametrize("name", COUNTS)
def test_real_data_sets_have_the_counts_they_state(shared_data, name):
    big = DataConfig(
        task="jsonl",
        path=str(shared_data / name),
        train_size=10**6,
        validation_size=10**6,
        test_size=10**6,
    )
    splits = load(big)
    dropped = DROPPED.get(name, 0)
    expected = (COUNTS[name][0] - dropped, *COUNTS[name][1:])
    assert (len(splits.train), len(splits.validation), len(splits.test)) == expected
    assert any(f"{dropped:,} examples dropped" in n for n in splits.notes) == bool(dropped)
    held_out = {e.prompt for e in (*splits.validation, *splits.test)}
    assert held_out.isdisjoint(e.prompt for e in splits.train)
    assert all(e.target in (e.references or (e.target,)) for e in splits.test)
