"""Training when a step is not a number, the disk is full, or a checkpoint is damaged."""

import dataclasses
import json
import logging
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from kill_driver import MODEL, OPTIMIZER, rows
from test_checkpoint_faults import halve, largest_file

from cat import faults, step, train
from cat.config import ArmConfig
from cat.data import batches
from cat.integrity import copied, named
from cat.mesh import make_mesh, shard_batch
from cat.models.decoder import Decoder
from cat.profiling import Trace
from cat.types import Teacher
from cat.watch import LOG, TIMES
from routers.errors import InputError

UNTIED = dataclasses.replace(MODEL, tied_embeddings=False)
PLAIN = dataclasses.replace(OPTIMIZER, steps=16, validate_every=0, select="last")
SKIP = dataclasses.replace(PLAIN, on_nan="skip", steps=48)
ARM = ArmConfig()
RARE = 13  # a token of one row only
ROWS = rows(64, 0)
ROWS.tokens[ROWS.tokens == RARE] = 12
ROWS.tokens[40, 3] = RARE


@pytest.fixture(autouse=True)
def one_device():
    with jax.set_mesh(make_mesh(data=1)):
        yield


def poisoned(*tokens) -> Decoder:
    """A model that gives NaN for rows that hold one of these tokens."""
    model = Decoder(UNTIED, rngs=nnx.Rngs(0))
    for token in tokens:
        model.embed.embedding[...] = model.embed.embedding[...].at[token].set(jnp.nan)
    return model


def run(folder, optimizer, source=ROWS, **kwargs):
    """(parameters by name, log lines)."""
    params = train.train(UNTIED, optimizer, ARM, source, folder=folder, **kwargs)
    return named(jax.device_get(params)), log(folder)


def log(folder) -> list[dict]:
    lines = [json.loads(line) for line in (folder / LOG).read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMES} for line in lines]


def bad_steps(optimizer) -> list[int]:
    """Steps, from 1, whose batch holds the rare token."""
    data = batches(
        ROWS,
        batch_size=optimizer.batch_size,
        steps=optimizer.steps,
        steps_per_dispatch=optimizer.steps,
        seed=optimizer.seed,
    )
    (whole,) = data
    return [i + 1 for i, tokens in enumerate(whole.tokens) if (tokens == RARE).any()]


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_a_step_that_is_no_number_stops_the_run_and_leaves_its_batch(tmp_path):
    optimizer = dataclasses.replace(SKIP, on_nan="stop", checkpoint_every=4)
    first = bad_steps(optimizer)[0]
    for _ in range(2):  # again after resuming: the same step, the same file
        with pytest.raises(InputError) as caught:
            run(tmp_path, optimizer, init=poisoned(RARE))
        path = tmp_path / f"bad_step_{first}.npz"
        assert str(caught.value).startswith(f"step {first}: loss not finite, gradient norm not fin")
        assert str(path) in str(caught.value)
    with np.load(path) as kept:
        assert set(kept) == {"tokens", "targets", "mask", "positions", "segments"}
        assert kept["tokens"].shape == (8, 12)
        assert (kept["tokens"] == RARE).any()
    lines = log(tmp_path)
    assert [line["step"] for line in lines] == list(range(1, first + 1))
    assert lines[-1]["loss"] is lines[-1]["grad_norm"] is None
    saved = [int(p.name) for p in (tmp_path / "checkpoints").iterdir()]
    assert all(step < first for step in saved)


def test_the_teacher_s_columns_are_kept_too(tmp_path):
    batch = ROWS.batch(np.arange(3))
    told = Teacher(batch.mask > 0, np.zeros((3, 12, 2), np.int32), np.ones((3, 12, 2), np.float32))
    path = faults.keep_batch(tmp_path, 7, batch._replace(teacher=told))
    with np.load(path) as kept:
        np.testing.assert_array_equal(kept["teacher.hit"], told.hit)
        np.testing.assert_array_equal(kept["teacher.topk_logprob"], told.topk_logprob)
        assert "teacher.logprob" not in kept
    assert [p.name for p in tmp_path.iterdir()] == ["bad_step_7.npz"]


def dispatched(optimizer, model, batch):
    """(state before, state after, metrics) of one dispatch."""
    before = step.start(nnx.state(model), optimizer)
    after, metrics = step.dispatch(
        copied(before), shard_batch(batch, axis=1), key=jax.random.key(0), large=None,
        large_graph=None, graph=step.skeleton(UNTIED), frozen=None, optimizer=optimizer, arm=ARM,
        response_width=7,
    )  # fmt: skip
    return before, after, metrics


def test_a_skipped_step_changes_nothing_but_the_count():
    """A bad step alone; and between two good ones, as if it had not been."""
    (bad,) = np.flatnonzero((ROWS.tokens == RARE).any(1))
    good, also = np.arange(8), np.arange(8, 16)
    worse = np.append(np.arange(16, 23), bad)
    model = poisoned(RARE)
    before, after, metrics = dispatched(SKIP, model, ROWS.batch(worse[None]))
    assert np.isnan(metrics["loss"][0])
    assert_same(*(jax.device_get(named(tree[:2])) for tree in (before, after)))
    assert (int(before.step), int(after.step)) == (0, 1)
    _, three, told = dispatched(SKIP, model, ROWS.batch(np.stack([good, worse, also])))
    _, two, _ = dispatched(SKIP, model, ROWS.batch(np.stack([good, also])))
    assert_same(*(jax.device_get(named(tree[:2])) for tree in (three, two)))
    assert (int(three.step), int(two.step)) == (3, 2)
    # The rate that is logged is the one applied: AdamW's schedule did not move either.
    rates = [np.asarray(step.learning_rate(SKIP)(i)).item() for i in (0, 1, 1, 2)]
    assert rates[2] != rates[3]
    np.testing.assert_allclose(told["learning_rate"], rates[:3], rtol=1e-6)


def test_without_bad_steps_skipping_changes_only_how_sums_are_rounded():
    """Another compiled program: equal to float32's rounding of a few steps."""
    batch = ROWS.batch(np.arange(16).reshape(2, 8))
    model = poisoned()
    skipping, stopping = (
        dispatched(dataclasses.replace(SKIP, on_nan=how), model, batch)[1:]
        for how in ("skip", "stop")
    )
    found, wanted = (named(jax.device_get(tree)) for tree in (skipping, stopping))
    assert found.keys() == wanted.keys()
    for name in found:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_skipped_steps_are_counted_and_a_resumed_run_counts_on(tmp_path):
    optimizer = dataclasses.replace(SKIP, checkpoint_every=4)
    params, lines = run(tmp_path / "whole", optimizer, init=poisoned(RARE))
    bad = bad_steps(optimizer)
    assert len(bad) > 3
    for line in lines:
        assert line["skipped"] == sum(b <= line["step"] for b in bad)
        assert (line["loss"] is None) == (line["step"] in bad)
    done = 0

    def interrupt(count, note):
        nonlocal done
        done += count
        if done >= 20 and note != "resumed":
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "parts", optimizer, init=poisoned(RARE), progress=interrupt)
        done = 0
    again, others = run(tmp_path / "parts", optimizer, init=poisoned(RARE))
    assert lines == others
    assert_same(params, again)


def test_twenty_skips_in_a_row_stop_the_run_also_across_a_restart(tmp_path):
    broken = poisoned(*range(4, 14))
    optimizer = dataclasses.replace(SKIP, checkpoint_every=4)
    with pytest.raises(InputError, match=r"^step 20: loss not finite, .*, 20 in a row;"):
        run(tmp_path / "whole", optimizer, init=broken)

    def interrupt(count, note):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", optimizer, init=broken, progress=interrupt)
    with pytest.raises(InputError, match=r"^step 20: "):
        run(tmp_path / "parts", optimizer, init=broken)
    assert log(tmp_path / "whole") == log(tmp_path / "parts")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    with jax.set_mesh(make_mesh(data=1)):
        return run(tmp_path_factory.mktemp("plain"), PLAIN)


def test_a_full_disk_stops_training_and_with_room_it_goes_on(plain, tmp_path):
    """Files above a size cannot be written from the third dispatch on."""
    room, dispatches = [], 0

    def fill(count, note):
        nonlocal dispatches
        dispatches += 1
        if dispatches == 2:
            room.append(largest_file(5_000))
            room[-1].__enter__()

    try:
        with pytest.raises(InputError) as caught:
            run(tmp_path, dataclasses.replace(PLAIN, checkpoint_every=4), progress=fill)
    finally:
        room[-1].__exit__(None, None, None)
    message = str(caught.value)
    assert "could not be written (File too large); make room and run again" in message
    assert "\n" not in message
    notes = []
    found = run(
        tmp_path,
        dataclasses.replace(PLAIN, checkpoint_every=4),
        progress=lambda *a: notes.append(a),
    )
    assert notes[0][1] == "resumed"
    assert 0 < notes[0][0] <= 8
    assert_same(found[0], plain[0])
    assert found[1] == plain[1]


def test_a_full_disk_for_the_log_is_one_line_too(tmp_path):
    optimizer = dataclasses.replace(PLAIN, checkpoint_every=1000)
    message = rf"^{tmp_path}: metrics\.jsonl could not be written \(File too large\); make room .*$"
    with largest_file(3_000), pytest.raises(InputError, match=message) as caught:
        run(tmp_path, optimizer)
    assert "\n" not in str(caught.value)


# a failed read leaves Orbax's own tasks behind, whose errors nobody takes
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_damaged_checkpoint_is_said_and_the_run_still_ends_the_same(plain, tmp_path, caplog):
    optimizer = dataclasses.replace(PLAIN, checkpoint_every=4)

    def stop(count, note):
        if note != "resumed" and len(log(tmp_path)) >= 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, optimizer, progress=stop)
    newest = tmp_path / "checkpoints" / "12"
    halve(max(newest.glob("params/d/*"), key=lambda path: path.stat().st_size))
    notes = []
    with caplog.at_level(logging.WARNING, logger="cat.checkpoints"):
        found = run(tmp_path, optimizer, progress=lambda *a: notes.append(a))
    assert notes[0] == (8, "resumed; checkpoint 12 is damaged, set aside")
    assert f"{newest} is damaged" in caplog.text
    assert_same(found[0], plain[0])
    assert found[1] == plain[1]


def test_a_signal_while_the_last_checkpoint_is_written_is_not_lost(tmp_path, monkeypatch):
    """The run is finished, and what comes after it does not begin."""
    with monkeypatch.context() as patch:
        patch.setattr(Trace, "close", lambda *_: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, PLAIN)
    notes = []
    run(tmp_path, PLAIN, progress=lambda *note: notes.append(note))
    assert notes == [(PLAIN.steps, "resumed")]


def test_a_signal_waits_until_the_checkpoint_is_on_disk(tmp_path, monkeypatch):
    """What Ctrl-C acknowledged is there, although writing is done in the background."""

    def stop(count, note):
        signal.raise_signal(signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, PLAIN, progress=stop)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["4"]
