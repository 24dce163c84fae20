"""Checkpoints that are damaged, cannot be written, or are written while training goes on."""

import contextlib
import resource
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_checkpoints import MODEL, assert_equal, numbers, save, tree

from cat import checkpoints
from cat.config import to_dict
from cat.faults import stored
from cat.integrity import apart, copied, sums
from cat.mesh import make_mesh, shard_params
from cat.models.decoder import Decoder
from cat.saver import Kept, Saver
from routers.errors import InputError

ONE = make_mesh(data=1)

# What a failed read of Orbax leaves to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    """A folder with checkpoints 4 and 8, made at these places in the data."""
    folder, data = tmp_path_factory.mktemp("two"), numbers()
    with checkpoints.opened(folder) as checkpointer:
        for step in (4, 8):
            while next(data) < step:
                pass
            save(checkpointer, step, *tree(step, ONE), data, notes={"seen": step})
    return folder


def restored(folder):
    """(what is found, the next number of the data)."""
    data = numbers()
    with checkpoints.opened(folder) as checkpointer:
        return checkpoints.restore(checkpointer, *tree(0, ONE), data), next(data)


def files(folder, step) -> list[Path]:
    return sorted(p for p in (folder / "checkpoints" / str(step)).rglob("*") if p.is_file())


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("harm", [halve, empty, flip, Path.unlink])
def test_any_file_harmed_the_state_is_one_that_was_saved(two, tmp_path, harm):
    """The newest checkpoint exactly, or the one before and it is said: never anything else."""
    fell_back = set()
    for path in files(two, 8):
        copy = Path(
            shutil.copytree(two, tmp_path / path.relative_to(two).as_posix().replace("/", "-"))
        )
        harm(copy / path.relative_to(two))
        found, following = restored(copy)
        step = 4 if found.damaged else 8
        assert found.damaged in ((), (8,)), path
        assert_equal(found[:2], tree(step, ONE))
        assert (found.notes, following) == ({"seen": step}, step + 1), path
        kept = {p.name for p in (copy / "checkpoints").iterdir()}
        assert kept == ({"4", "damaged-8"} if found.damaged else {"4", "8"}), path
        fell_back |= (
            {path.relative_to(two / "checkpoints" / "8").parts[0]} if found.damaged else set()
        )
        shutil.rmtree(copy)
    assert fell_back == {"params", "rest", "data", "about"}


def test_a_flipped_bit_of_a_value_is_noticed(tmp_path):
    """Compressed values carry no sum of their own: without ours this would be read as it is."""
    params = {"w": jax.device_put(np.random.default_rng(0).normal(size=(64, 64)).astype("f4"))}
    with checkpoints.opened(tmp_path) as checkpointer:
        for step in (1, 2):
            save(checkpointer, step, params, {"step": jnp.asarray(step)}, numbers())
    flip(max(files(tmp_path, 2), key=lambda path: path.stat().st_size))
    with checkpoints.opened(tmp_path) as checkpointer:
        found = checkpoints.restore(checkpointer, params, {"step": jnp.asarray(0)}, numbers())
    assert (found.damaged, int(found.rest["step"])) == ((2,), 1)


def test_a_damaged_step_is_named_set_aside_and_can_be_saved_again(two, tmp_path, caplog):
    folder = Path(shutil.copytree(two, tmp_path / "run"))
    for _ in range(2):  # the second time there is a damaged-8 already
        halve(folder / "checkpoints" / "8" / "about" / "note.json")
        caplog.clear()
        with checkpoints.opened(folder) as checkpointer:
            found = checkpoints.restore(checkpointer, *tree(0, ONE), numbers())
            assert found.damaged == (8,)
            save(checkpointer, 8, *tree(9, ONE), numbers())
        assert "8 is damaged" in caplog.text
        assert "kept as damaged-8" in caplog.text
        assert_equal(restored(folder)[0][:2], tree(9, ONE))


def test_when_none_is_whole_training_does_not_begin_anew_by_itself(two, tmp_path):
    folder = Path(shutil.copytree(two, tmp_path / "run"))
    for step in (4, 8):
        halve(folder / "checkpoints" / str(step) / "data" / "process_0-of-1.json")
    with pytest.raises(
        InputError,
        match=rf"{folder}/ch.*: no checkpoint is whole \(8: .*; 4: .*remove {folder} to train anew",
    ):
        restored(folder)
    assert {p.name for p in (folder / "checkpoints").iterdir()} == {"4", "8"}


def test_a_checkpoint_without_sums_is_read_unchecked(two, tmp_path):
    """As those of an earlier version are: the ones before have none either."""
    folder = Path(shutil.copytree(two, tmp_path / "run"))
    for step in (4, 8):
        shutil.rmtree(folder / "checkpoints" / str(step) / "about")
    found, following = restored(folder)
    assert_equal(found[:2], tree(8, ONE))
    assert (following, found.notes) == (9, {})


def test_lost_sums_are_damage_where_the_checkpoint_before_has_some(two, tmp_path):
    folder = Path(shutil.copytree(two, tmp_path / "run"))
    shutil.rmtree(folder / "checkpoints" / "8" / "about")
    found, following = restored(folder)
    assert (found.damaged, following) == ((8,), 5)
    assert_equal(found[:2], tree(4, ONE))


def test_lost_best_parameters_are_damage(tmp_path):
    """Else the last ones would be taken for what the run selected."""
    with jax.set_mesh(ONE):
        params = shard_params(nnx.state(Decoder(MODEL, rngs=nnx.Rngs(0))))
        rest = jnp.zeros(())
        checkpoints.claim(tmp_path / checkpoints.RECIPE, {"model": to_dict(MODEL)})
        with checkpoints.opened(tmp_path) as checkpointer:
            for step in (3, 6):
                save(checkpointer, step, params, rest, numbers(), best=params)
        shutil.rmtree(tmp_path / "checkpoints" / "6" / "best")
        with pytest.raises(InputError, match=r"checkpoint 6 is damaged \(best is missing\)"):
            checkpoints.load_params(tmp_path, MODEL)
        with checkpoints.opened(tmp_path) as checkpointer:
            found = checkpoints.restore(checkpointer, params, rest, numbers())
    assert found.damaged == (6,)
    assert_equal(found.best, params)


@pytest.mark.parametrize(
    "error", [MemoryError(), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")]
)
def test_too_little_memory_is_not_a_damaged_checkpoint(two, tmp_path, monkeypatch, error):
    folder = Path(shutil.copytree(two, tmp_path / "run"))

    def exhausted(*args):
        raise error

    monkeypatch.setattr(checkpoints, "_verified", exhausted)
    with pytest.raises(type(error)):
        restored(folder)
    checkpoints.claim(folder / checkpoints.RECIPE, {"model": to_dict(MODEL)})
    with jax.set_mesh(ONE), pytest.raises(type(error)):
        checkpoints.load_params(folder, MODEL)
    assert {p.name for p in (folder / "checkpoints").iterdir()} == {"4", "8"}


@pytest.mark.parametrize("harm", [halve, flip])
def test_a_finished_model_is_never_replaced_by_an_older_one(tmp_path, harm):
    with jax.set_mesh(ONE):
        checkpoints.claim(tmp_path / checkpoints.RECIPE, {"model": to_dict(MODEL)})
        with checkpoints.opened(tmp_path) as checkpointer:
            for step in (3, 6):
                params = shard_params(nnx.state(Decoder(MODEL, rngs=nnx.Rngs(step))))
                save(checkpointer, step, params, jnp.zeros(()), numbers())
        values = [p for p in files(tmp_path, 6) if p.parts[-3:-1] == ("params", "d")]
        harm(max(values, key=lambda path: path.stat().st_size))
        with pytest.raises(InputError, match="checkpoint 6 is damaged"):
            checkpoints.load_params(tmp_path, MODEL)


def test_the_best_parameters_are_the_model_where_they_were_kept(tmp_path):
    with jax.set_mesh(ONE):
        last, best = (shard_params(nnx.state(Decoder(MODEL, rngs=nnx.Rngs(i)))) for i in (0, 1))
        checkpoints.claim(tmp_path / checkpoints.RECIPE, {"model": to_dict(MODEL)})
        rest = jnp.zeros(())
        with checkpoints.opened(tmp_path) as checkpointer:
            save(checkpointer, 3, last, rest, numbers(), best=best)
            found = checkpoints.restore(checkpointer, best, rest, numbers())
        assert_equal(nnx.state(checkpoints.load_params(tmp_path, MODEL)), best)
    assert_equal((found.params, found.best), (last, best))


@contextlib.contextmanager
def largest_file(size: int):
    """Files may not grow beyond this: what a full disk is to a program."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("when", ["wait", "check", "save"])
def test_a_full_disk_is_one_line_and_the_checkpoint_before_stays(tmp_path, when, capfd):
    big = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(200, 200)), jnp.float32)}
    rest, data = {"step": jnp.asarray(0)}, numbers()

    def fill() -> None:
        with checkpoints.opened(tmp_path) as checkpointer:
            save(checkpointer, 1, big, rest, data)
            saver = Saver(checkpointer)
            with largest_file(50_000):
                saver.save(2, Kept(big, rest), data)
                if when == "wait":
                    saver.wait()
                while when == "check":  # raises as soon as the writing has ended
                    saver.check()
                saver.save(3, Kept(big, rest), data)

    with pytest.raises(InputError) as caught:
        fill()
    message = str(caught.value)
    assert message.count("\n") == 0
    assert "checkpoint 2 could not be written (File too large)" in message
    assert message.endswith("make room and run again: it continues from checkpoint 1")
    assert "Traceback" not in capfd.readouterr().err
    with checkpoints.opened(tmp_path) as checkpointer:
        assert [found.step for found in checkpointer.checkpoints] == [1]
        found = checkpoints.restore(checkpointer, big, rest, numbers())
    assert_equal(found[:2], (big, rest))
    finished = [p.name for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()]
    assert finished == ["1"]


def test_other_faults_are_not_taken_for_a_full_disk(tmp_path):
    with pytest.raises(ValueError, match=r"^a mistake$") as caught, stored(tmp_path, "x", "y"):
        raise ValueError("a mistake")
    assert not isinstance(caught.value, InputError)


# -- while training goes on ---------------------------------------------------------------


def advance(state):
    return jax.tree.map(lambda leaf: leaf * 2 + 1, state)


def saved_at_two(folder, saver_waits: bool):
    """What is read back of step 2 of five, each step overwriting the buffers of the last."""
    step, data = jax.jit(advance, donate_argnums=0), numbers()
    state = copied(tree(5, ONE))
    with checkpoints.opened(folder) as checkpointer:
        saver = Saver(checkpointer)
        for i in range(1, 6):
            place = state[0]["embed"].unsafe_buffer_pointer()
            state = jax.block_until_ready(step(state))
            next(data)
            assert state[0]["embed"].unsafe_buffer_pointer() == place, "its buffer was not reused"
            if i == 2:
                saver.save(i, Kept(*state, best=state[0]), data)
                if saver_waits:
                    saver.wait()
        saver.wait()
        blank = numbers()
        found = checkpoints.restore(checkpointer, *tree(0, ONE), blank)
    return found, next(blank)


def test_what_is_saved_while_its_buffers_are_reused_is_what_a_waiting_save_writes(tmp_path):
    waited, first = saved_at_two(tmp_path / "waits", saver_waits=True)
    flown, second = saved_at_two(tmp_path / "flies", saver_waits=False)
    expected = jax.tree.map(lambda leaf: (leaf * 2 + 1) * 2 + 1, tree(5, ONE))
    for found in (waited, flown):
        assert_equal((*found[:2], found.best), (*expected, expected[0]))
    assert first == second == 2


def test_at_most_one_save_is_in_flight_and_leaving_waits_for_it(tmp_path):
    state, data = tree(1, ONE), numbers()
    place = tmp_path / "checkpoints"
    with checkpoints.opened(tmp_path) as checkpointer:
        saver = Saver(checkpointer)
        for step in (1, 2, 3):
            saver.save(step, Kept(*state), data)
            finished = {p.name for p in place.iterdir() if p.name.isdigit()}
            assert {str(before) for before in range(max(1, step - 2), step)} <= finished
    assert {p.name for p in place.iterdir()} == {"2", "3"}
    assert_equal(restored(tmp_path)[0][:2], state)


def test_arrays_kept_apart_share_no_buffer_and_stay_where_they_are():
    eight = make_mesh()
    rows = jax.device_put(np.arange(16.0), jax.NamedSharding(eight, jax.P("data")))
    found = apart({"rows": rows})["rows"]
    assert found.sharding == rows.sharding
    np.testing.assert_array_equal(found, rows)
    for ours, theirs in zip(found.addressable_shards, rows.addressable_shards, strict=True):
        assert ours.data.unsafe_buffer_pointer() != theirs.data.unsafe_buffer_pointer()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "int32", "bool", "uint32"])
def test_sums_are_those_of_the_bits(dtype):
    values = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5)) * 9, dtype)
    raw = np.asarray(values)
    word = {1: np.uint8, 2: np.uint16, 4: np.uint32}[raw.dtype.itemsize]
    expected = sum(int(bits) for bits in np.frombuffer(raw.tobytes(), word)) % 2**32
    assert sums({"x": values, "y": [values]}) == {"x": expected, "y.0": expected}


def test_sums_do_not_depend_on_where_arrays_lie():
    values = np.random.default_rng(1).normal(size=(16, 4)).astype("f4")
    spread = [
        jax.device_put(values, jax.NamedSharding(make_mesh(), spec))
        for spec in (jax.P(), jax.P("data"))
    ]
    assert len({sums({"x": array})["x"] for array in (*spread, jnp.asarray(values))}) == 1


@pytest.mark.parametrize("bit", [0, 7, 23, 31])
def test_one_bit_changes_the_sum(bit):
    values = np.random.default_rng(2).normal(size=50).astype("f4")
    other = values.copy()
    other.view(np.uint32)[17] ^= np.uint32(1 << bit)
    assert sums({"x": jnp.asarray(values)}) != sums({"x": jnp.asarray(other)})
