"""Safetensors folders: blocks, shards and types against the library read whole; broken folders."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cat.models import tensors
from routers.errors import InputError

RNG = np.random.default_rng(0)
TYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


def stored(folder, values, name="model.safetensors"):
    save_file(values, folder / name)
    return tensors.listing(folder)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 100 bytes, so that small tensors have many, the last one shorter."""
    monkeypatch.setattr(tensors, "BLOCK_BYTES", 100)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("dtype", ["", "float32", "bfloat16"])
@pytest.mark.usefixtures("small_blocks")
def test_blocks_of_any_type_make_the_whole(tmp_path, kind, dtype):
    value = RNG.normal(size=(17, 5)).astype(TYPES[kind])
    found = stored(tmp_path, {"a": value, "b": value[0]})
    assert found["a"] == tensors.Stored(tmp_path / "model.safetensors", "a", (17, 5), kind)
    expected = value.astype(dtype or TYPES[kind])
    for got, wanted in [
        (tensors.read(found["a"], dtype), expected),
        (tensors.read(found["a"], dtype, transpose=True), expected.T),
        (tensors.read(found["b"], dtype), expected[0]),
    ]:
        assert got.dtype == wanted.dtype
        np.testing.assert_array_equal(got, wanted)
        assert got.ctypes.data % 64 == 0
        assert got.flags.c_contiguous


def test_a_row_wider_than_a_block_is_read_whole(tmp_path, small_blocks):
    value = RNG.normal(size=(3, 200)).astype(np.float32)
    np.testing.assert_array_equal(tensors.read(stored(tmp_path, {"a": value})["a"]), value)


def test_equal_sees_the_last_number_of_the_last_block(tmp_path, small_blocks):
    value = RNG.normal(size=(17, 5)).astype(np.float32)
    other = value.copy()
    other[-1, -1] = np.nextafter(other[-1, -1], 9)
    found = stored(tmp_path, {"a": value, "b": value.copy(), "c": other})
    assert tensors.equal(found["a"], found["b"])
    assert not tensors.equal(found["a"], found["c"])


def many(count=7):
    """Tensors of 80 bytes each; one of them a transposed view."""
    values = {f"t{i}": RNG.normal(size=(4, 5)).astype(np.float32) for i in range(count)}
    return {**values, "t3": values["t3"].T.copy().T}


@pytest.mark.parametrize(("limit", "shards"), [(1000, 1), (560, 1), (559, 2), (160, 4), (1, 7)])
def test_shards_hold_at_most_the_limit_and_read_back(tmp_path, limit, shards):
    values = many()
    tensors.write(tmp_path, iter(values.items()), limit=limit)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) == shards
    held = [load_file(file) for file in files]
    assert all(sum(v.nbytes for v in part.values()) <= max(limit, 80) for part in held)
    assert sum(map(len, held)) == len(values)
    found = tensors.listing(tmp_path)
    assert found.keys() == values.keys()
    for name, value in values.items():
        np.testing.assert_array_equal(tensors.read(found[name]), value)


def test_names_and_index_of_shards_are_those_of_transformers(tmp_path):
    values = many()
    tensors.write(tmp_path, iter(values.items()), limit=240)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 7 * 80
    assert index["weight_map"] == {
        f"t{i}": f"model-{i // 3 + 1:05d}-of-00003.safetensors" for i in range(7)
    }
    header = (tmp_path / "model-00001-of-00003.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", header[:8])
    assert json.loads(header[8 : 8 + length])["__metadata__"] == {"format": "pt"}


def test_only_one_shard_is_held_at_a_time(tmp_path):
    """Tensors are taken from the iterator as they are needed, and earlier shards are written."""

    def lazily():
        for i, item in enumerate(many().items()):
            assert len(list(tmp_path.glob("*.safetensors"))) == max(0, (i - 1) // 2)
            yield item

    tensors.write(tmp_path, lazily(), limit=160)


def sharded(folder):
    tensors.write(folder, iter(many().items()), limit=240)
    return folder / "model.safetensors.index.json"


def remap(folder, change):
    index = sharded(folder)
    about = json.loads(index.read_text())
    change(about)
    index.write_text(json.dumps(about))


def truncated(folder):
    save_file(many(), folder / "model.safetensors")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-1])


def cut_in_header(folder):
    (folder / "model.safetensors").write_bytes(b"\x40" + bytes(7) + b'{"a":')


def lost_shard(folder):
    sharded(folder)
    (folder / "model-00002-of-00003.safetensors").unlink()


def truncated_shard(folder):
    sharded(folder)
    shard = folder / "model-00002-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:-9])


def escaping(folder):
    remap(folder, lambda about: about["weight_map"].update(t0="../model.safetensors"))


BROKEN = {
    "truncated": (truncated, "model.safetensors: not whole"),
    "cut in the header": (cut_in_header, "model.safetensors: not whole"),
    "empty file": (lambda f: (f / "model.safetensors").touch(), "not whole"),
    "a shard is lost": (lost_shard, "model-00002-of-00003.safetensors is missing"),
    "a shard is truncated": (truncated_shard, "model-00002-of-00003.safetensors: not whole"),
    "a shard elsewhere": (escaping, "'../model.safetensors', which is not a file of its folder"),
    "a shard that is a number": (
        lambda f: remap(f, lambda about: about.update(weight_map={"t0": 3})),
        "names 3, which is not a file",
    ),
    "index without a map": (lambda f: remap(f, lambda a: a.pop("weight_map")), "not an index"),
    "index that is no JSON": (lambda f: sharded(f).write_text("{"), "not an index of shards"),
    "pickles only": (
        lambda f: (f / "pytorch_model.bin").write_bytes(b"\x80\x04."),
        "only pickled weights (pytorch_model.bin), which can run code",
    ),
    "nothing": (lambda f: None, "no model.safetensors and no model.safetensors.index.json"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_folder_is_one_line(tmp_path, case):
    make, said = BROKEN[case]
    make(tmp_path)
    with pytest.raises(InputError) as error:
        tensors.listing(tmp_path)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_whole_file_goes_before_an_index_as_in_transformers(tmp_path):
    sharded(tmp_path)
    value = {"only": np.zeros(2, np.float32)}
    assert stored(tmp_path, value).keys() == {"only"}


def test_a_file_that_shrinks_after_listing_is_one_line(tmp_path):
    found = stored(tmp_path, many())
    truncated(tmp_path)
    with pytest.raises(InputError, match="t0 is not readable"):
        tensors.read(found["t0"])
