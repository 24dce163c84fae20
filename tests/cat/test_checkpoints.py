"""Checkpoints: what comes back, where it lies, how many are kept, what is refused."""

import dataclasses
import json
from typing import Any, NamedTuple

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from cat import checkpoints
from cat.config import ModelConfig, to_dict
from cat.mesh import make_mesh, shard_params
from cat.models.decoder import Decoder
from cat.saver import Kept, Saver
from routers.errors import InputError

MODEL = ModelConfig(width=8, layers=2, heads=2, kv_heads=1, head_dim=4, ffn=8, vocab_size=9)


class Rest(NamedTuple):
    opt_state: Any
    step: jax.Array


def tree(seed, mesh) -> tuple[Any, Any]:
    """(params, rest) as training has them: containers of several kinds, a scalar among them."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    params = {"embed": draw(5, 4), "layers": [{"w": draw(3)}, {"w": draw(2, 2)}]}
    rest = Rest(optax.adam(1e-3).init(params), jnp.asarray(seed, jnp.int32))
    return jax.device_put((params, rest), jax.NamedSharding(mesh, jax.P()))


def numbers():
    return iter(grain.MapDataset.range(100).to_iter_dataset())


def save(checkpointer, step, params, rest, data, **more):
    """Until it is on disk."""
    saver = Saver(checkpointer)
    saver.save(step, Kept(params, rest, **more), data)
    saver.wait()


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


def test_everything_comes_back_also_the_place_in_the_data(tmp_path):
    mesh = make_mesh(data=1)
    params, rest = tree(3, mesh)
    data = numbers()
    first = [next(data) for _ in range(7)]
    with checkpoints.opened(tmp_path) as checkpointer:
        save(checkpointer, 7, params, rest, data)
    fresh, blank = numbers(), tree(0, mesh)
    with checkpoints.opened(tmp_path) as checkpointer:
        found = checkpoints.restore(checkpointer, *blank, fresh)
    assert found is not None
    assert_equal(found[:2], (params, rest))
    assert (found.best, found.damaged, dict(found.notes)) == (None, (), {})
    assert first == list(range(7))
    assert next(fresh) == next(data) == 7


def test_without_a_checkpoint_there_is_nothing_to_restore(tmp_path):
    with checkpoints.opened(tmp_path) as checkpointer:
        assert checkpoints.restore(checkpointer, *tree(0, make_mesh(data=1)), numbers()) is None


def test_the_newest_two_are_kept_and_the_newest_is_read(tmp_path):
    mesh, data = make_mesh(data=1), numbers()
    with checkpoints.opened(tmp_path) as checkpointer:
        for step in (2, 4, 10):
            save(checkpointer, step, *tree(step, mesh), data)
    assert sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == [4, 10]
    with checkpoints.opened(tmp_path) as checkpointer:
        found = checkpoints.restore(checkpointer, *tree(0, mesh), data)
    assert_equal(found[:2], tree(10, mesh))


def test_what_an_interrupted_save_left_is_ignored_and_removed(tmp_path):
    mesh, data = make_mesh(data=1), numbers()
    with checkpoints.opened(tmp_path) as checkpointer:
        save(checkpointer, 4, *tree(4, mesh), data)
    leftover = tmp_path / "checkpoints" / "8.orbax-checkpoint-tmp"
    leftover.mkdir()
    (leftover / "half").write_text("x")
    with checkpoints.opened(tmp_path) as checkpointer:
        found = checkpoints.restore(checkpointer, *tree(0, mesh), data)
    assert_equal(found[:2], tree(4, mesh))
    assert not leftover.exists()


def test_saved_on_eight_devices_and_read_on_one(tmp_path):
    data, eight, one = numbers(), make_mesh(), make_mesh(data=1)
    with checkpoints.opened(tmp_path) as checkpointer:
        save(checkpointer, 1, *tree(1, eight), data)
        found = checkpoints.restore(checkpointer, *tree(0, one), data)
    assert_equal(found[:2], tree(1, one))
    assert all(len(leaf.sharding.device_set) == 1 for leaf in jax.tree.leaves(found[:2]))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run's folder with one checkpoint of a model, and that model."""
    folder = tmp_path_factory.mktemp("run")
    with jax.set_mesh(make_mesh(data=1)):
        model = Decoder(MODEL, rngs=nnx.Rngs(5))
        params = shard_params(nnx.state(model))
        checkpoints.claim(folder / checkpoints.RECIPE, {"model": to_dict(MODEL)})
        with checkpoints.opened(folder) as checkpointer:
            save(checkpointer, 3, params, jnp.zeros(()), numbers())
    return folder, model


@pytest.mark.parametrize("devices", [1, 8])
def test_load_params_gives_the_model(trained, devices):
    folder, model = trained
    with jax.set_mesh(make_mesh(data=devices)):
        loaded = checkpoints.load_params(folder, MODEL)
        assert loaded.config == MODEL
        rows = jnp.asarray([[1, 4, 3]])
        args = (rows, jnp.asarray([[0, 1, 2]]), jnp.ones_like(rows))
        assert loaded.unembed(loaded.hidden(*args).hidden).shape == (1, 3, 9)
    assert_equal(nnx.state(loaded), nnx.state(model))
    for leaf in jax.tree.leaves(nnx.state(loaded)):
        assert len(leaf.sharding.device_set) == devices


def test_load_params_of_another_model_is_refused_by_name(trained):
    other = dataclasses.replace(MODEL, width=16, rope_base=1e6)
    with (
        jax.set_mesh(make_mesh(data=1)),
        pytest.raises(InputError, match=r"other model\.rope_base, model\.width;"),
    ):
        checkpoints.load_params(trained[0], other)


def test_load_params_before_training_says_so(tmp_path):
    with pytest.raises(InputError, match="no checkpoints; train this model first"):
        checkpoints.load_params(tmp_path, MODEL)


def test_claim_writes_once_and_then_compares(tmp_path):
    path = tmp_path / "new" / "training.json"
    recipe = {"model": {"width": 8}, "arms": ("a", "b"), "init": None}
    checkpoints.claim(path, recipe)
    checkpoints.claim(path, recipe)  # a tuple is a list in JSON, and still the same
    assert json.loads(path.read_text())["model"] == {"width": 8}
    assert [p.name for p in path.parent.iterdir()] == ["training.json"]
    changed = recipe | {"model": {"width": 9, "layers": 1}}
    with pytest.raises(InputError, match=r"new was made with other model\.layers, model\.width;"):
        checkpoints.claim(path, changed)
    assert json.loads(path.read_text())["model"] == {"width": 8}


def test_claim_survives_an_interrupted_write(tmp_path, monkeypatch):
    def interrupt(self, target):
        raise KeyboardInterrupt

    path = tmp_path / "training.json"
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.claim(path, {"a": 1})
    assert not path.exists()
    checkpoints.claim(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 2}
