"""Loading: names, unknown names, carving, leaks, sizes."""

import dataclasses
import hashlib
import itertools
import json

import pytest

from cat.config import DataConfig
from cat.example import Example
from cat.tasks import load, names, splitting
from routers.errors import InputError


def example(number, prompt, target="t"):
    return Example(str(number), "task", prompt, target)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DataConfig(task="jsonl", path=str(path))


def rows(count, split, prefix="q"):
    return [
        {"task": "t", "split": split, "inputs": f"{prefix} {i}", "targets": f"a {i}"}
        for i in range(count)
    ]


def test_names_lists_task_files_with_their_first_line_and_no_helpers():
    found = dict(names())
    assert sorted(found) == ["generated", "jsonl", "text", "tfds"]
    assert all(line.endswith(".") or line.endswith(").") for line in found.values())


def test_unknown_task_suggests_the_nearest():
    with pytest.raises(InputError, match="did you mean 'generated'"):
        load(DataConfig(task="genrated"))


@pytest.mark.parametrize("name", ["splitting", "families", "../config", "os"])
def test_only_task_files_can_be_loaded(name):
    with pytest.raises(InputError, match="unknown"):
        load(DataConfig(task=name))


def test_buckets_are_blake2b_of_the_text_modulo_ten():
    texts = ["", "copy abc", "ä\n漢"]
    for text, found in zip(texts, splitting.buckets(texts), strict=True):
        digest = hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest()
        number = sum(byte * 256**i for i, byte in enumerate(digest))
        assert found == number % 10


def test_shares_of_the_splits():
    texts = [f"prompt {i}" for i in range(10_000)]
    found = {s: splitting.of_split(texts, s) for s in ("train", "validation", "test")}
    assert sorted(itertools.chain(*found.values())) == sorted(texts)
    # 4 standard deviations of a binomial share: 0.016 and 0.012
    assert len(found["train"]) / 1e4 == pytest.approx(0.8, abs=0.016)
    assert len(found["validation"]) / 1e4 == pytest.approx(0.1, abs=0.012)
    assert len(found["test"]) / 1e4 == pytest.approx(0.1, abs=0.012)


@pytest.mark.parametrize("present", [("train",), ("train", "test"), ("train", "validation")])
def test_missing_splits_are_carved_from_train_and_nothing_is_lost(present):
    data = {split: [] for split in ("train", "validation", "test")}
    for split in present:
        data[split] = [example(f"{split}{i}", f"{split} prompt {i}") for i in range(300)]
    full, notes = splitting.complete(data)
    missing = [s for s in data if s not in present]
    assert len(notes) == len(missing)
    for split, note in zip(missing, notes, strict=True):
        assert note.startswith(f"{split}: absent, so {len(full[split])} of ")
        prompts = [e.prompt for e in full[split]]
        assert splitting.of_split(prompts, split) == prompts
    for split in present[1:]:
        assert full[split] == data[split]
    everything = [e for split in data for e in full[split]]
    assert sorted(e.id for e in everything) == sorted(e.id for s in present for e in data[s])
    prompts = [{e.prompt for e in full[split]} for split in data]
    assert all(a.isdisjoint(b) for a, b in itertools.combinations(prompts, 2))


def test_repeated_prompts_are_carved_together():
    data = {"train": [example(i, f"p {i % 40}") for i in range(400)], "validation": [], "test": []}
    full, _ = splitting.complete(data)
    assert sum(map(len, full.values())) == 400
    assert all(len(v) % 10 == 0 and v for v in full.values())


def test_carving_does_not_depend_on_order():
    train = [example(i, f"p {i}") for i in range(200)]
    full, _ = splitting.complete({"train": train, "validation": [], "test": []})
    turned, _ = splitting.complete({"train": train[::-1], "validation": [], "test": []})
    assert full["test"] == turned["test"][::-1]


def test_train_rows_that_leak_are_dropped_and_counted_and_held_out_rows_never():
    data = {
        "train": [example(0, "a"), example(1, "b"), example(2, "c"), example(3, "b", "other")],
        "validation": [example(4, "b")],
        "test": [example(5, "c"), example(6, "b")],
    }
    full, notes = splitting.complete(data)
    assert [e.id for e in full["train"]] == ["0"]
    assert (full["validation"], full["test"]) == (data["validation"], data["test"])
    assert notes == [
        "train: 3 examples dropped, their prompt is in validation or test",
        "validation and test share 1 prompts; both were kept as given",
    ]


def test_rows_without_prompt_are_told_apart_by_their_text():
    data = {
        "train": [example(0, "", "one"), example(1, "", "two")],
        "validation": [example(2, "", "three")],
        "test": [example(3, "", "one")],
    }
    full, _ = splitting.complete(data)
    assert [e.id for e in full["train"]] == ["1"]


def test_sizes_cap_by_seeded_choice_not_the_first_rows(tmp_path):
    config = write(tmp_path / "d.jsonl", rows(500, "train") + rows(90, "test", "x"))
    config = dataclasses.replace(config, train_size=50, test_size=45, validation_size=7)
    splits = load(config)
    sizes = [len(splits.train), len(splits.validation), len(splits.test)]
    assert sizes == [50, 7, 45]
    positions = [int(e.prompt.split()[1]) for e in splits.train]
    assert positions == sorted(positions)
    assert max(positions) > 400
    assert min(positions) < 100
    assert load(config) == splits
    assert load(dataclasses.replace(config, seed=1)).train != splits.train
    assert "test: 45 of 90 examples chosen" in splits.notes


def test_only_the_named_tasks_are_used_and_other_tasks_hold_nothing_out(tmp_path):
    data = [{**r, "task": "a"} for r in rows(9, "train") + rows(2, "validation", "v")]
    data += [{**r, "task": "a"} for r in rows(2, "test", "x")]
    data += [{**r, "task": "b"} for r in rows(4, "test")]  # prompts that task a trains on
    config = write(tmp_path / "d.jsonl", data)
    assert len(load(config).train) == 5
    alone = load(dataclasses.replace(config, only=("a",)))
    assert [len(s) for s in (alone.train, alone.validation, alone.test)] == [9, 2, 2]
    assert alone.notes == []
    assert load(dataclasses.replace(config, only=("b", "a"))) == load(config)


def test_a_task_that_no_example_has_is_refused_with_the_nearest(tmp_path):
    config = dataclasses.replace(write(tmp_path / "d.jsonl", rows(9, "train")), only=("tt",))
    with pytest.raises(InputError, match="the data have no task 'tt'; did you mean 't'"):
        load(config)


def test_a_split_that_fits_is_left_as_it_is(tmp_path):
    data = rows(9, "train") + rows(4, "validation", "v") + rows(4, "test", "x")
    splits = load(write(tmp_path / "d.jsonl", data))
    assert [e.prompt for e in splits.train] == [f"q {i}" for i in range(9)]
    assert splits.notes == []


def test_empty_split_and_bad_size_say_so(tmp_path):
    with pytest.raises(InputError, match="no train examples; add rows of that split"):
        load(write(tmp_path / "a.jsonl", rows(3, "test") + rows(3, "validation", "v")))
    config = write(tmp_path / "b.jsonl", rows(300, "train"))
    with pytest.raises(InputError, match=r"data\.train_size is 0; give at least 1"):
        load(dataclasses.replace(config, train_size=0))
