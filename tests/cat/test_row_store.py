"""Rows on disk: the same as in memory, whatever the shards; little memory; damage is named."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from cat import row_store, tokenizers
from cat.config import DataConfig
from cat.data import batches, tokenize
from cat.example import Example
from cat.source import Source
from cat.tasks import generated
from routers.errors import InputError

CONFIG = DataConfig(train_size=203, validation_size=8, test_size=8, max_response_tokens=8)


@pytest.fixture(scope="module")
def examples():
    return generated.examples(CONFIG, "train")


@pytest.fixture(scope="module")
def tokenizer(examples):
    return tokenizers.train("characters", [e.prompt + e.target for e in examples])


@pytest.fixture(scope="module")
def rows(examples, tokenizer):
    return tokenize(examples, tokenizer, CONFIG)


@pytest.fixture(params=[10**6, 700, 1])
def store(request, examples, tokenizer, tmp_path):
    """One shard, a few, and one for every row."""
    return row_store.write(
        tmp_path / "rows", iter(examples), tokenizer, CONFIG, shard_tokens=request.param
    )


def same(a, b):
    for name in ("tokens", "targets", "mask", "positions", "segments"):
        first, second = getattr(a, name), getattr(b, name)
        assert first.dtype == second.dtype
        np.testing.assert_array_equal(first, second, err_msg=name)
    assert a.teacher is b.teacher is None


def family_names(source, batch):
    return np.array(source.families)[batch.family]


def test_what_the_store_says_of_its_rows_is_what_memory_says(store, rows):
    assert 0 < rows.left_out == store.index["left_out"]
    assert isinstance(store, Source)
    assert (len(store), store.width) == (len(rows), rows.width)
    assert (store.response_width, store.notes) == (rows.response_width, rows.notes)
    np.testing.assert_array_equal(store.lengths, rows.lengths)
    np.testing.assert_array_equal(store.counted, rows.counted)
    assert set(store.families) == set(rows.families) == {e.task for e in rows.examples}
    assert {store.lengths.dtype, store.counted.dtype} == {np.dtype(np.int32)}


def test_any_rows_in_any_shape(store, rows):
    rng = np.random.default_rng(0)
    for shape in ((len(rows),), (1,), (3, 4), (2, 3, 5)):
        index = rng.integers(0, len(rows), shape)  # repeats too
        same(store.batch(index), rows.batch(index))
        names = family_names(store, store.batch(index))
        np.testing.assert_array_equal(names, family_names(rows, rows.batch(index)))
        assert names[..., 0].ravel().tolist() == [rows.examples[i].task for i in index.ravel()]
    same(store.batch(np.arange(len(rows))[::-1]), rows.batch(np.arange(len(rows))[::-1]))


def test_training_sees_the_same_batches(store, rows):
    sizes = {"batch_size": 10, "steps": 23, "steps_per_dispatch": 4, "seed": 3}
    for a, b in zip(batches(store, **sizes), batches(rows, **sizes), strict=True):
        same(a, b)


def test_loaded_is_as_written(store, tokenizer, rows):
    again = row_store.load(store.folder, tokenizer)
    assert again.index == store.index
    same(again.batch(np.array([5, 2])), rows.batch(np.array([5, 2])))


def test_the_fingerprint_is_of_the_rows_not_of_the_shards(examples, tokenizer, tmp_path):
    def made(name, examples, size=10**6):
        sizes = {"shard_tokens": size}
        return row_store.write(tmp_path / name, examples, tokenizer, CONFIG, **sizes).fingerprint

    whole = made("a", examples)
    assert {made("b", examples, 700), made("c", examples, 1)} == {whole}
    first = examples[0]
    moved = Example(first.id, first.task, first.prompt[:-1], first.prompt[-1] + first.target)
    others = [
        examples[1:],
        [examples[1], examples[0], *examples[2:]],
        [moved, *examples[1:]],  # one token moved from prompt to response
    ]
    assert len({whole, *(made(f"d{i}", e) for i, e in enumerate(others))}) == 4


def test_ids_take_two_bytes_where_they_fit(examples, tokenizer, tmp_path, monkeypatch):
    store = row_store.write(tmp_path / "a", examples, tokenizer, CONFIG)
    assert store._shard(0).tokens["ids"].dtype == np.uint16
    monkeypatch.setattr(tokenizers.Tokenizer, "vocab_size", 2**16 + 1)
    wide = row_store.write(tmp_path / "b", examples, tokenizer, CONFIG)
    assert wide._shard(0).tokens["ids"].dtype == np.int32
    same(wide.batch(np.arange(9)), store.batch(np.arange(9)))
    size = os.path.getsize(tmp_path / "a" / row_store.shard_name(0))
    tokens = int(store.lengths.sum()) + len(store)
    assert size < 2 * tokens + 8 * len(store) + 1_500


def test_nothing_within_the_limits_writes_nothing(tokenizer, tmp_path):
    with pytest.raises(InputError, match="none of 1 examples has at most 32 prompt and 8 response"):
        row_store.write(tmp_path / "a", [Example("0", "t", "a", "b" * 9)], tokenizer, CONFIG)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_leaves_nothing(examples, tokenizer, tmp_path):
    def interrupted():
        yield from examples[:50]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        row_store.write(tmp_path / "a", interrupted(), tokenizer, CONFIG, shard_tokens=100)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_shard_is_named_when_it_is_read(examples, tokenizer, tmp_path):
    row_store.write(tmp_path / "a", examples, tokenizer, CONFIG, shard_tokens=700)
    path = tmp_path / "a" / row_store.shard_name(1)
    path.write_bytes(path.read_bytes()[:-9])
    store = row_store.load(tmp_path / "a", tokenizer)
    first = len(store._shard(0))
    store.batch(np.arange(first))
    with pytest.raises(InputError, match=r"shard-00001.*checksum.*delete .*write it again"):
        store.batch(np.array([first]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format 2, this version reads 1"),
        ({"tokenizer": "other"}, "another tokenizer"),
    ],
)
def test_a_store_of_something_else_is_refused(change, message, examples, tokenizer, tmp_path):
    store = row_store.write(tmp_path / "a", examples, tokenizer, CONFIG)
    (tmp_path / "a" / "index.json").write_text(json.dumps(store.index | change))
    with pytest.raises(InputError, match=message):
        row_store.load(tmp_path / "a", tokenizer)


@pytest.mark.parametrize("text", [None, "", "{", "[]", "{}"])
def test_no_index_says_so(text, tokenizer, tmp_path):
    if text is not None:
        (tmp_path / "index.json").write_text(text)
    with pytest.raises(InputError, match="no store of token rows"):
        row_store.load(tmp_path, tokenizer)


def anonymous_mib():
    """Memory of this process that no file backs."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def test_many_rows_train_without_being_loaded(tokenizer, tmp_path):
    """200,000 rows, written from a generator and read in random order."""
    count = 200_000

    def stream():
        for i in range(count):
            word = f"{i:06}".translate(str.maketrans("0123456789", "abcdefghij"))
            yield Example(str(i), "copy", word, word[: 1 + i % 6])

    store = row_store.write(tmp_path / "rows", stream(), tokenizer, CONFIG)
    assert len(store) == count
    assert store.width == 16
    assert len(store.index["shards"]) == 1
    sizes = {"batch_size": 64, "steps": count // 64 + 10, "steps_per_dispatch": 25}
    before, seen, total = anonymous_mib(), np.zeros(count, np.int32), 0
    for batch in batches(store, seed=0, **sizes):
        digits = batch.tokens[..., 1:7] - tokenizer.encode("a")[0]
        np.add.at(seen, (digits * 10 ** np.arange(5, -1, -1)).sum(-1), 1)
        total += batch.tokens.shape[0] * 64
    assert seen.sum() == total
    assert (seen.min(), seen.max()) == (1, 2)
    assert anonymous_mib() - before < 40  # as columns in memory they would take 61 MiB
