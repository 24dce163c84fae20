"""Shards: what goes in comes out, any rows in any order; nothing damaged is ever believed."""

import os

import numpy as np
import pyarrow as pa
import pytest

from cat import shards

LENGTHS = np.array([3, 0, 5, 1, 7])
M = LENGTHS.sum()


@pytest.fixture
def columns():
    rng = np.random.default_rng(0)
    return {
        "ids": rng.integers(0, 60_000, M).astype(np.uint16),
        "hit": rng.random(M) < 0.5,
        "logprob": rng.normal(size=M).astype(np.float32),
        "topk": rng.normal(size=(M, 3)).astype(np.float32),
    }


@pytest.fixture
def path(tmp_path, columns):
    prompts = np.arange(5, dtype=np.int32)
    shards.write(
        tmp_path / "a.arrow", LENGTHS, columns, rows={"prompt": prompts}, about={"made": "here"}
    )
    return tmp_path / "a.arrow"


def test_what_goes_in_comes_out(path, columns):
    shard = shards.read(path)
    assert len(shard) == 5
    assert shard.about == {"made": "here"}
    assert shard.offsets.tolist() == [0, 3, 3, 8, 9, 16]
    assert shard.rows["prompt"].tolist() == [0, 1, 2, 3, 4]
    for name in ("ids", "logprob", "topk"):
        assert shard.tokens[name].dtype == columns[name].dtype
        np.testing.assert_array_equal(shard.tokens[name], columns[name])
    assert shard.bits == {"hit"}
    np.testing.assert_array_equal(np.diff(shard.offsets), shard.lengths)


def test_rows_of_several_shards_in_any_order_by_a_loop(path, columns):
    """Rows without tokens and the same row twice among them."""
    other = {name: column[::-1].copy() for name, column in columns.items()}
    shards.write(path.with_name("b"), LENGTHS[::-1], other)
    both = [(shards.read(path), LENGTHS, columns)]
    both.append((shards.read(path.with_name("b")), LENGTHS[::-1], other))
    for chosen in ([[4], [4]], [[2, 0, 1, 2], [3]], [[1, 1], [1]], [[4, 3, 2, 1, 0], [0, 4]]):
        counts, expected = [], {name: [] for name in columns}
        for rows, (_, lengths, given) in zip(chosen, both, strict=True):
            for row in rows:
                start = sum(lengths[:row])
                counts.append(lengths[row])
                for name, column in given.items():
                    expected[name] += list(column[start : start + lengths[row]])
        parts = [(shard, np.array(rows)) for rows, (shard, *_) in zip(chosen, both, strict=True)]
        found_counts, found = shards.take(parts, columns)
        assert found_counts.tolist() == counts
        for name, values in expected.items():
            assert found[name].dtype == columns[name].dtype
            np.testing.assert_array_equal(found[name], np.array(values).reshape(found[name].shape))


def test_bits_are_bits(tmp_path):
    shards.write(tmp_path / "a", np.full(1_000, 80), {"hit": np.ones(80_000, bool)})
    # a bit a token, 4 bytes a row, a header and a footer
    assert os.path.getsize(tmp_path / "a") < 80_000 / 8 + 4_000 + 2_000


def test_any_arrow_reader_reads_a_shard(path, columns):
    with pa.ipc.open_stream(pa.OSFile(str(path))) as file:
        rows = file.read_all().to_pylist()
    assert [len(row["tokens"]) for row in rows] == LENGTHS.tolist()
    assert [t["ids"] for row in rows for t in row["tokens"]] == columns["ids"].tolist()
    assert [row["prompt"] for row in rows] == [0, 1, 2, 3, 4]


def test_an_open_shard_holds_no_file(path):
    before = len(os.listdir("/proc/self/fd"))
    held = [shards.read(path) for _ in range(50)]
    assert len(os.listdir("/proc/self/fd")) == before
    assert sum(len(shard) for shard in held) == 250


@pytest.mark.parametrize("keep", [0, 7, 300, 0.5, -1])
def test_a_truncated_shard_is_damaged(path, keep):
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    with pytest.raises(shards.Damaged, match=r"a\.arrow"):
        shards.read(path)


@pytest.mark.parametrize("size", [0, 4, 400])
def test_zeros_are_no_shard(path, size):
    path.write_bytes(bytes(size))
    with pytest.raises(shards.Damaged, match="checksum"):
        shards.read(path)


def test_a_missing_shard_is_damaged(tmp_path):
    with pytest.raises(shards.Damaged):
        shards.read(tmp_path / "nothing")


def test_every_flipped_bit_is_found(path):
    """One flip in every byte of the file."""
    whole, other = path.read_bytes(), path.with_name("flipped")
    for place in range(len(whole)):
        flipped = bytes([whole[place] ^ (1 << place % 8)])
        other.write_bytes(whole[:place] + flipped + whole[place + 1 :])
        with pytest.raises(shards.Damaged, match="checksum"):
            shards.read(other)


def test_an_interrupted_write_leaves_the_old_file(path, columns, monkeypatch):
    def cut(stream):
        raise KeyboardInterrupt

    before = path.read_bytes()
    monkeypatch.setattr(shards.zlib, "crc32", cut)
    with pytest.raises(KeyboardInterrupt):
        shards.write(path, LENGTHS, columns)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["a.arrow"]
