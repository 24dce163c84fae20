"""Routers survive the disk bit for bit; other files are refused in one line."""

import dataclasses
import json
import pickle

import numpy as np
import pytest
from planted import planted
from safetensors import safe_open
from safetensors.numpy import save_file

from routers.build import build
from routers.column import Column
from routers.errors import InputError
from routers.storage import load, save
from routers.zoo.chow_quantile import ChowQuantile
from routers.zoo.oracle import Oracle


def test_an_unfitted_router_keeps_its_fields(tmp_path):
    path = tmp_path / "new" / "folder" / "r.safetensors"
    save(ChowQuantile(alpha=0.1), path)
    assert load(path) == ChowQuantile(alpha=0.1)
    save(build("post_hoc:learner=mlp,seed=7"), path)
    loaded = load(path)
    assert not loaded.fitted
    assert (loaded.learner, loaded.seed) == ("mlp", 7)
    assert [p.name for p in path.parent.iterdir()] == ["r.safetensors"]


def test_a_ready_made_score_is_saved_by_its_name(tmp_path):
    save(Column("trust: é,a=b"), tmp_path / "r")
    assert load(tmp_path / "r") == Column("trust: é,a=b")
    with safe_open(tmp_path / "r", framework="numpy") as file:
        assert file.metadata()["router"] == "score"


def test_a_fitted_router_keeps_every_bit_of_its_arrays(tmp_path):
    inputs, outcomes = planted(100)
    fitted = build("post_hoc").fit(inputs, outcomes)
    save(fitted, tmp_path / "r")
    loaded = load(tmp_path / "r")
    assert set(loaded.weights_) == set(fitted.weights_)
    for name, array in fitted.weights_.items():
        assert loaded.weights_[name].dtype == array.dtype
        assert loaded.weights_[name].shape == array.shape
        assert loaded.weights_[name].tobytes() == np.asarray(array, order="C").tobytes()
    np.testing.assert_array_equal(loaded.score(inputs), fitted.score(inputs))


def test_fortran_order_is_not_scrambled(tmp_path):
    square = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    save(Oracle(gains_={"key": square, "gain": square.T}), tmp_path / "r")
    np.testing.assert_array_equal(load(tmp_path / "r").gains_["key"], square)
    np.testing.assert_array_equal(load(tmp_path / "r").gains_["gain"], square.T)


def test_the_header_is_json_anyone_can_read(tmp_path):
    save(ChowQuantile(alpha=0.25), tmp_path / "r")
    with safe_open(tmp_path / "r", framework="numpy") as file:
        header = file.metadata()
    assert header["format"] == "cascade-router"
    assert header["schema"] == "1"
    assert header["router"] == "chow_quantile"
    assert json.loads(header["fields"]) == {"alpha": 0.25}


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    save(ChowQuantile(alpha=0.25), tmp_path / "r")

    def broken(arrays, path, metadata):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("routers.storage.save_file", broken)
    with pytest.raises(OSError, match="disk full"):
        save(ChowQuantile(alpha=0.5), tmp_path / "r")
    assert load(tmp_path / "r") == ChowQuantile(alpha=0.25)
    assert [p.name for p in tmp_path.iterdir()] == ["r"]


def header(**changes):
    return {
        "format": "cascade-router",
        "schema": "1",
        "router": "chow_quantile",
        "fields": "{}",
    } | changes


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        (None, "not of a router"),
        (header(format="weights"), "not of a router"),
        (header(schema="99"), "schema 99 is newer"),
        (header(router="chow_qantile"), "did you mean 'chow_quantile'"),
        (header(fields='{"beta": 1}'), "no field 'beta'"),
        ({"format": "cascade-router"}, "header is broken .*'schema'"),
        (header(schema="new"), "header is broken"),
        (header(fields="["), "header is broken"),
        (header(fields="3"), "header is broken"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path, metadata, says):
    save_file({"x": np.zeros(2)}, tmp_path / "r", metadata=metadata)
    with pytest.raises(InputError, match=says) as caught:
        load(tmp_path / "r")
    assert str(caught.value).startswith(f"{tmp_path / 'r'}: ")
    assert "\n" not in str(caught.value)


def test_missing_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such router file"):
        load(tmp_path / "nothing")
    (tmp_path / "p").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(InputError, match="not a safetensors file"):
        load(tmp_path / "p")


def test_arrays_a_router_has_no_field_for_are_refused(tmp_path):
    save_file({"other_.x": np.zeros(2)}, tmp_path / "r", metadata=header())
    with pytest.raises(InputError, match="no field 'other_'"):
        load(tmp_path / "r")


def test_a_router_outside_the_zoo_cannot_be_saved_by_name(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Mine(ChowQuantile):
        pass

    with pytest.raises(InputError, match="no router 'test_storage'"):
        save(Mine(), tmp_path / "r")
