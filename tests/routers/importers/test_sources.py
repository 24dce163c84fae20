"""Hostile and broken files: each is one line, and none of them runs or fills the memory."""

import gzip
import hashlib
import json
import math
import pickle
import re
import zipfile
from pathlib import Path

import pytest

from routers.errors import InputError
from routers.importers import sources
from routers.importers.sources import (
    check_file,
    digest,
    number,
    objects,
    provenance,
    read_bytes,
    read_json,
    read_text,
    text_files,
)


def file(folder: Path, data: bytes, name: str = "log.jsonl") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def refused(work, *arguments) -> str:
    with pytest.raises(InputError) as caught:
        list(work(*arguments) or [])
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    return str(caught.value)


def test_lines_arrays_blank_lines_and_byte_order_marks(tmp_path):
    lines = file(tmp_path, b'\xef\xbb\xbf{"a": 1}\n\n  \r\n{"a": "\xc3\xa4"}')
    assert list(objects(lines)) == [
        ("log.jsonl: line 1", {"a": 1}),
        ("log.jsonl: line 4", {"a": "ä"}),
    ]
    array = file(tmp_path, b'\xef\xbb\xbf \n[{"a": 1},\n {"a": 2}]', "log.json")
    assert list(objects(array)) == [("log.json: item 0", {"a": 1}), ("log.json: item 1", {"a": 2})]


def test_gzip_is_unpacked_whatever_its_name(tmp_path):
    path = file(tmp_path, gzip.compress(b'{"a": 1}\n' * 1000))
    assert len(list(objects(path))) == 1000
    assert read_text(path) == '{"a": 1}\n' * 1000


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_are_refused_by_their_bytes(tmp_path, protocol):
    path = file(tmp_path, pickle.dumps({"a": 1}, protocol), "log.csv")
    assert "a pickle, and loading one runs whatever code" in refused(check_file, path)


@pytest.mark.parametrize("suffix", ["pkl", "pickle", "pt", "pth", "bin", "PKL", "joblib"])
def test_pickles_are_refused_by_their_names(tmp_path, suffix):
    path = file(tmp_path, pickle.dumps({"a": 1}, 0), f"log.{suffix}")  # protocol 0 is plain text
    assert "a pickle" in refused(check_file, path)


def test_archives_are_refused(tmp_path):
    path = tmp_path / "log.jsonl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", "x")
    assert "a zip archive; unpack it first" in refused(objects, path)


def test_a_bomb_is_refused_long_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "FREE", 2**20)
    bomb = file(tmp_path, gzip.compress((b" " * 1023 + b"\n") * 2**13), "bomb.jsonl.gz")
    for work in (objects, read_text, read_bytes):
        assert "unpack to more than" in refused(work, bomb)
    monkeypatch.setattr(sources, "MOST_RATIO", 10**6)
    monkeypatch.setattr(sources, "MOST_UNPACKED", 2**21)
    assert "unpack to more than" in refused(read_text, bomb)


def test_a_line_has_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MOST_LINE", 1000)
    path = file(tmp_path, b'{"a": 1}\n{"a": "' + b"x" * 2000 + b'"}\n')
    assert "line 2: longer than 1,000 bytes" in refused(objects, path)


@pytest.mark.parametrize("keep", [3, 12, 40])
def test_truncated_gzip_is_one_line(tmp_path, keep):
    packed = gzip.compress(json.dumps([{"a": i} for i in range(100)]).encode())
    path = file(tmp_path, packed[:keep])
    assert "cannot be read to its end" in refused(objects, path)


def test_gzip_with_a_flipped_byte_is_one_line(tmp_path):
    packed = bytearray(gzip.compress(b'{"a": 1}\n' * 50))
    packed[-6] ^= 0xFF  # inside the checksum
    assert "cannot be read to its end" in refused(read_text, file(tmp_path, bytes(packed)))


@pytest.mark.parametrize("opener", [b"[", b'{"a":'])
def test_deep_nesting_is_one_line(tmp_path, opener):
    path = file(tmp_path, b'{"x": ' + opener * 200_000)
    message = refused(objects, path)
    assert "nested too deeply" in message or "broken JSON" in message


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"a": 1', "line 1: broken JSON"),
        (b'{"a": 1}{"a": 2}', "line 1: broken JSON .*column 9"),
        (b'{"a": NaN}', "NaN is no JSON number"),
        (b'{"a": -Infinity}', "-Infinity is no JSON number"),
        (b"3", "not a JSON object"),
        (b'"text"', "not a JSON object"),
        (b'{"a": "\xff"}', "not UTF-8 .byte 0xff at 7"),
        ("{}".encode("utf-16"), "not UTF-8 .byte 0xff at 0"),
        (rb'{"a": "\ud800"}', "half a surrogate pair"),
        (b'{"a": ' + b"9" * 5000 + b"}", "repair or drop it"),
    ],
)
def test_broken_lines_are_one_line(tmp_path, line, message):
    assert re.search(message, refused(objects, file(tmp_path, line + b"\n")))


def test_a_whole_surrogate_pair_is_text(tmp_path):
    path = file(tmp_path, rb'{"a": "\ud83d\ude00"}')
    assert next(iter(objects(path)))[1]["a"] == "\U0001f600"


def test_folders_missing_files_and_no_permission(tmp_path):
    assert "a folder; name the file" in refused(check_file, tmp_path)
    assert "no such file" in refused(read_json, tmp_path / "gone.json")


def test_folders_are_searched_and_order_is_stable(tmp_path):
    for name in ("b/samples_2.jsonl", "a/samples_1.jsonl", "a/other.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    found = text_files([tmp_path], "samples_*.jsonl")
    assert [path.name for path in found] == ["samples_1.jsonl", "samples_2.jsonl"]
    assert "no file *.csv" in refused(text_files, [tmp_path], "*.csv")
    assert "no source" in refused(text_files, [], "*")


def test_provenance_is_the_hash_of_the_bytes(tmp_path):
    path = file(tmp_path, b"abc")
    assert digest(path) == hashlib.sha256(b"abc").hexdigest()
    assert provenance([path]) == f"log.jsonl sha256:{hashlib.sha256(b'abc').hexdigest()}"


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (1, 1.0),
        (0.25, 0.25),
        (True, 1.0),
        (False, 0.0),
        ("True", 1.0),
        ("false", 0.0),
        (" -1.5e-3 ", -0.0015),
        (".5", 0.5),
        ("5.", 5.0),
        ("+2", 2.0),
        ("", None),
        (None, None),
        ("  ", None),
    ],
)
def test_numbers(value, wanted):
    assert number(value, "here") == wanted


@pytest.mark.parametrize(
    "value",
    [
        "1_000",
        "0x10",
        "1,5",
        "nan",
        "inf",
        "-Infinity",
        "1e999",
        "٣",
        "one",
        "1 2",
        [],
        {},
        [1],
        math.nan,
        math.inf,
        10**400,
    ],
)
def test_what_is_no_number_is_never_one(value):
    assert "here is " in refused(number, value, "here")
