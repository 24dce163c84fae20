"""The training loop: every arm learns, one device or eight, stopped or not: the same run."""

import dataclasses
import json
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from cat import loop, masks, step, teacher, train, watch
from cat.checkpoints import load_params
from cat.config import ARMS, ArmConfig, ModelConfig, OptimizerConfig
from cat.data import Rows, batches
from cat.example import Example
from cat.gradients import gradients
from cat.mesh import make_mesh, shard_batch, shard_params
from cat.models.decoder import Decoder
from cat.source import taught
from cat.types import Teacher
from routers.errors import InputError

V, T = 14, 12
MODEL = ModelConfig(width=8, layers=1, heads=2, kv_heads=1, head_dim=4, ffn=16, vocab_size=V)
OPTIMIZER = OptimizerConfig(  # one for almost all tests: each other one is compiled anew
    steps=40, batch_size=16, learning_rate=2e-2, warmup_steps=2, steps_per_dispatch=4,
    checkpoint_every=1000, weight_decay=0.01,
)  # fmt: skip


def make_rows(count=64, seed=0) -> Rows:
    """<bos> d d d d <sep> d d d noise <eos>: three tokens can be copied, one cannot be known."""
    rng = np.random.default_rng(seed)
    digits, noise = rng.integers(4, V, (count, 4)), rng.integers(4, V, (count, 1))
    column = np.full((count, 1), 1)
    ids = np.concatenate(
        [column, digits, column * 3, digits[:, :3], noise, column * 2, column * 0, column * 0], 1
    ).astype(np.int32)
    real = np.broadcast_to(np.arange(T) < 10, (count, T))
    response = np.broadcast_to((np.arange(T) >= 5) & (np.arange(T) < 10), (count, T))
    return Rows(
        tokens=np.where(real, ids[:, :-1], 0).astype(np.int32),
        targets=ids[:, 1:],
        mask=response.astype(np.float32),
        positions=np.where(real, np.arange(T), 0).astype(np.int32),
        segments=real.astype(np.int32),
        prompt_lengths=np.full(count, 6, np.int32),
        response_lengths=np.full(count, 5, np.int32),
        examples=[Example(str(i), "copy", "", "") for i in range(count)],
    )


ROWS = make_rows()
CELLS = ("n11", "n10", "n01", "n00")


@pytest.fixture(autouse=True, scope="module")
def compile_fast():
    """Almost all of this file's time is compiling: leave out what makes code faster to run."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def one_device():
    return jax.set_mesh(make_mesh(data=1))


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Decoder:
    """A wider model, trained until it is right about half the time."""
    folder, size = tmp_path_factory.mktemp("large"), dataclasses.replace(MODEL, width=12)
    with one_device():
        train.train(size, OPTIMIZER, ARMS["xent"], ROWS, folder=folder)
        return load_params(folder, size)


@pytest.fixture(scope="module")
def stored(large) -> Teacher:
    """Its bits and its whole distribution."""
    with one_device():
        found = teacher.compute(large, ROWS, topk=V, batch_size=32)
    assert 0.2 < found.hit[ROWS.mask > 0].mean() < 0.8
    return found


def run(folder, arm: str | ArmConfig = "xent", signals=None, optimizer=OPTIMIZER, **kwargs):
    """(parameters by name, log lines) of one run."""
    arm = ARMS[arm] if isinstance(arm, str) else arm
    earlier = signals if "before" in masks.reads(arm.mask) else None
    rows = taught(ROWS, earlier, "before")
    params = train.train(MODEL, optimizer, arm, rows, folder=folder, teacher=signals, **kwargs)
    lines = [json.loads(line) for line in (folder / train.LOG).read_text().splitlines()]
    flat = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in flat}, lines


def without_time(lines):
    return [{k: v for k, v in line.items() if k not in watch.TIMES} for line in lines]


def assert_same_run(a, b):
    assert a[0].keys() == b[0].keys()
    for name in a[0]:
        np.testing.assert_array_equal(a[0][name], b[0][name], err_msg=name)
    assert without_time(a[1]) == without_time(b[1])


@pytest.fixture(scope="module")
def runs(stored, tmp_path_factory):
    """``runs(arm)``: that arm with stored signals on one device; each is run once."""
    done = {}

    def of(arm):
        if arm not in done:
            with one_device():
                done[arm] = run(tmp_path_factory.mktemp(arm), arm, stored)
        return done[arm]

    return of


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_lowers_its_own_loss_and_logs_every_step(arm, runs):
    _, lines = runs(arm)
    assert [line["step"] for line in lines] == list(range(1, OPTIMIZER.steps + 1))
    # Per kept token: a mask that follows the small model keeps more as it learns.
    kept = [line["loss"] / line["keep_rate"] for line in lines if line["keep_rate"]]
    assert np.mean(kept[-5:]) < 0.95 * np.mean(kept[:5])
    for line in lines:
        assert line["n11"] + line["n10"] + line["n01"] + line["n00"] == 16 * 5
        assert (line["grad_norm"] > 0) == (line["keep_rate"] > 0)
        assert line["tokens_per_s"] > 0


@pytest.mark.parametrize("arm", ["cat_xent", "random_mask"])
def test_eight_devices_train_as_one(arm, runs, stored, tmp_path):
    params, lines = runs(arm)
    with jax.set_mesh(make_mesh()):
        assert len(jax.devices()) == 8
        params_8, lines_8 = run(tmp_path, arm, stored)
    for a, b in zip(lines, lines_8, strict=True):
        for name in ("loss", "grad_norm", "keep_rate", "learning_rate"):
            np.testing.assert_allclose(a[name], b[name], rtol=1e-5, err_msg=f"{a['step']} {name}")
        assert [a[n] for n in CELLS] == [b[n] for n in CELLS]
    for name in params:
        np.testing.assert_allclose(params[name], params_8[name], atol=1e-5, err_msg=name)


def test_every_arm_s_loss_and_gradient_are_of_the_global_batch(stored):
    """Eight devices = one, for all arms in one compilation; atol: entries where sums cancel."""
    batch = taught(taught(ROWS, stored), stored, "before").batch(np.arange(16))
    params = nnx.state(Decoder(MODEL, rngs=nnx.Rngs(0)))

    @jax.jit
    def every(params, batch):
        make = lambda params: nnx.merge(step.skeleton(MODEL), params)  # noqa: E731
        at = (jax.random.key(1), jnp.asarray(3), 5)
        return {name: gradients(arm, make, params, None, batch, *at) for name, arm in ARMS.items()}

    found = []
    for devices in (1, 8):
        with jax.set_mesh(make_mesh(data=devices)):
            found.append(jax.device_get(every(shard_params(params), shard_batch(batch))))
    for name in ARMS:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
                     found[0][name], found[1][name])  # fmt: skip


@pytest.mark.parametrize(
    ("arm", "cells"),
    [
        ("xent", ("n11", "n10", "n01", "n00")),
        ("cat_xent", ("n11", "n10", "n01")),
        ("large_handles", ("n11", "n10", "n00")),
        ("large_hit", ("n11", "n01")),
        ("small_hit", ("n11", "n10")),
        ("both_hit", ("n11",)),
    ],
)
def test_the_keep_rate_is_the_mask_s(arm, cells, runs):
    for line in runs(arm)[1]:
        expected = sum(line[cell] for cell in cells) / (16 * 5)
        np.testing.assert_allclose(line["keep_rate"], expected, rtol=1e-6)


def test_without_a_large_model_the_table_is_null_and_the_run_the_same(runs, tmp_path):
    """Also with other, and a shorter last, dispatches."""
    optimizer, counts = dataclasses.replace(OPTIMIZER, steps_per_dispatch=32), []
    with one_device():
        bare, lines = run(
            tmp_path, optimizer=optimizer, progress=lambda count, _: counts.append(count)
        )
    told, told_lines = runs("xent")
    assert counts == [32, 8]
    assert all(line[n] is None for line in lines for n in CELLS)
    for a, b in zip(lines, told_lines, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
    for name in bare:
        np.testing.assert_allclose(bare[name], told[name], atol=1e-5)


def test_the_first_step_equals_a_loss_and_an_optimiser_written_out(tmp_path):
    """One step of Xent by plain optax calls on the same rows."""
    optimizer = dataclasses.replace(OPTIMIZER, steps=1, weight_decay=0.1)
    with one_device():
        model = Decoder(MODEL, rngs=nnx.Rngs(5))
        after, lines = run(tmp_path, optimizer=optimizer, init=model)
        batch = jax.tree.map(
            lambda x: jnp.asarray(x[0]),
            next(iter(batches(ROWS, batch_size=16, steps=1, steps_per_dispatch=1, seed=0))),
        )
        graph, params = nnx.split(model)

        def loss(params):
            model = nnx.merge(graph, params)
            logits = model.unembed(
                model.hidden(batch.tokens, batch.positions, batch.segments).hidden
            )
            each = optax.softmax_cross_entropy_with_integer_labels(logits, batch.targets)
            return each[:, 5:10].mean()

        value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    np.testing.assert_allclose(lines[0]["loss"], value, rtol=1e-6)
    leaves = jax.tree_util.tree_leaves_with_path(gradient)
    norm = np.sqrt(sum(np.sum(np.square(g)) for _, g in leaves))
    np.testing.assert_allclose(lines[0]["grad_norm"], norm, rtol=1e-5)
    rate = lines[0]["learning_rate"]
    assert rate == pytest.approx(OPTIMIZER.learning_rate / OPTIMIZER.warmup_steps)
    for (path, g), before in zip(leaves, jax.tree.leaves(params), strict=True):
        g, before = np.asarray(g) * min(1, 1 / norm), np.asarray(before)
        # Adam's first step: m / sqrt(v) with both bias-corrected is g / |g|
        moved = before - rate * (g / (np.abs(g) + 1e-8) + 0.1 * before * (before.ndim > 1))
        np.testing.assert_allclose(after[jax.tree_util.keystr(path)], moved, atol=2e-6)


def test_learning_rate_rises_and_falls_as_written():
    optimizer = OptimizerConfig(steps=30, warmup_steps=10, learning_rate=3.0, final_fraction=0.2)
    got = [np.asarray(step.learning_rate(optimizer)(i)).item() for i in range(30)]
    for i, rate in enumerate(got):
        done = i + 1
        cosine = (1 + np.cos(np.pi * (done - 10) / 20)) / 2
        expected = 0.3 * done if done <= 10 else 3.0 * (0.2 + 0.8 * cosine)
        assert rate == pytest.approx(expected, rel=1e-5), i


def test_every_arm_sees_the_same_rows(stored, tmp_path, monkeypatch):
    seen, orders, real = [], [], loop.shard_batch
    monkeypatch.setattr(loop, "shard_batch", lambda b, axis: seen.append(b) or real(b, axis=axis))
    for arm in ("xent", "cat_xent"):
        seen.clear()
        with one_device():
            run(tmp_path / arm, arm, stored)
        orders.append(np.concatenate([batch.tokens for batch in seen]))
    np.testing.assert_array_equal(*orders)
    assert len(orders[0]) == OPTIMIZER.steps


class StopAt:
    """A progress callback that is Ctrl-C at one dispatch."""

    def __init__(self, step):
        self.step, self.done = step, 0

    def __call__(self, count, note):
        self.done += count
        if note != "resumed" and self.done >= self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("arm", ["cat_xent", "random_mask"])
def test_stopped_and_resumed_equals_uninterrupted_bit_for_bit(arm, runs, stored, tmp_path):
    rng = np.random.default_rng(len(arm))
    with one_device():
        for stop in sorted(rng.choice(np.arange(1, OPTIMIZER.steps), 3, replace=False)):
            with pytest.raises(KeyboardInterrupt):
                run(tmp_path, arm, stored, progress=StopAt(stop))
        assert_same_run(runs(arm), run(tmp_path, arm, stored))


def test_killed_between_checkpoints_a_run_goes_back_and_repeats_itself(runs, stored, tmp_path):
    """No time to save: the log is ahead of the newest checkpoint."""
    optimizer = dataclasses.replace(OPTIMIZER, checkpoint_every=6)

    def kill(count, note, done=[0]):  # noqa: B006
        done[0] += count
        if done[0] == 24:
            raise ZeroDivisionError

    with one_device():
        with pytest.raises(ZeroDivisionError):
            run(tmp_path, "xent", stored, optimizer, progress=kill)
        # Due after 6, 12, 18 and 24 steps, which dispatches of 4 first pass at these:
        kept = sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
        assert kept == [20, 24]
        shutil.rmtree(tmp_path / "checkpoints" / "24")
        assert len((tmp_path / train.LOG).read_text().splitlines()) == 24
        assert_same_run(runs("xent"), run(tmp_path, "xent", stored, optimizer))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_dispatch_and_the_run_can_continue(number, runs, stored, tmp_path):
    before = signal.getsignal(number)
    counts = []

    def progress(count, note):
        counts.append(count)
        if len(counts) == 1:
            signal.raise_signal(number)

    with one_device():
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, "xent", stored, progress=progress)
        assert counts == [4]
        assert signal.getsignal(number) is before
        assert_same_run(runs("xent"), run(tmp_path, "xent", stored))


def test_a_finished_run_returns_at_once(tmp_path, stored, monkeypatch):
    notes = []
    with one_device():
        first = run(tmp_path, "xent", stored)
        monkeypatch.setattr(
            train, "dispatch", lambda *args, **kwargs: pytest.fail("a step was run")
        )
        again = run(tmp_path, "xent", stored, progress=lambda *note: notes.append(note))
    assert notes == [(OPTIMIZER.steps, "resumed")]
    assert_same_run(first, again)


def test_init_is_where_a_run_starts_and_is_left_alone(stored, tmp_path):
    with one_device():
        model = Decoder(MODEL, rngs=nnx.Rngs(42))
        before = jax.tree.map(np.asarray, nnx.state(model))
        params = step.start(nnx.state(model), OPTIMIZER).params
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, "xent", stored, init=model, progress=StopAt(1))
    for old, now, begun in zip(
        *map(jax.tree.leaves, (before, nnx.state(model), params)), strict=True
    ):
        np.testing.assert_array_equal(now, old)
        np.testing.assert_array_equal(begun, old)


def test_a_checkpoint_of_eight_devices_continues_on_one(runs, stored, tmp_path):
    with jax.set_mesh(make_mesh()), pytest.raises(KeyboardInterrupt):
        run(tmp_path, "cat_xent", stored, progress=StopAt(4))
    with one_device():
        parts = run(tmp_path, "cat_xent", stored)
    whole = runs("cat_xent")
    for name in whole[0]:
        np.testing.assert_allclose(parts[0][name], whole[0][name], atol=1e-5, err_msg=name)


@pytest.mark.parametrize("arm", ["cat_xent", "cat_dist"])
def test_stored_and_live_teachers_train_alike(arm, large, runs, tmp_path):
    before = [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(large))]
    live_arm = dataclasses.replace(ARMS[arm], teacher="live")
    with one_device():
        live = run(tmp_path, live_arm, large=large)
        other = Decoder(large.config, rngs=nnx.Rngs(1))
        with pytest.raises(InputError, match=r"made with other teacher;"):
            run(tmp_path, live_arm, large=other)
    told = runs(arm)
    for name in told[0]:
        np.testing.assert_allclose(told[0][name], live[0][name], atol=1e-5, err_msg=name)
    for x, y in zip(without_time(told[1]), without_time(live[1]), strict=True):
        assert x == pytest.approx(y, rel=1e-5)
    for old, now in zip(before, jax.tree.leaves(nnx.state(large)), strict=True):
        np.testing.assert_array_equal(old, now)


def test_a_loss_that_is_not_a_number_stops_the_run_and_names_the_step(stored, tmp_path):
    with one_device():
        model = Decoder(MODEL, rngs=nnx.Rngs(0))
        model.embed.embedding[...] = model.embed.embedding[...].at[5].set(jnp.nan)
        with pytest.raises(InputError, match=r"step 1: loss not finite.*lower the learning rate"):
            run(tmp_path, "xent", stored, init=model)
        assert not list((tmp_path / "checkpoints").iterdir())
        with pytest.raises(InputError, match="no finished checkpoint"):
            load_params(tmp_path, MODEL)


@pytest.mark.parametrize(
    ("arm", "signals", "message"),
    [
        (ARMS["cat_xent"], None, "pass teacher="),
        (ARMS["dist"], None, "pass teacher="),
        (ARMS["dist"], "bits", "teacher_topk > 0"),
        (ArmConfig(teacher="live"), None, "pass large="),
        (ARMS["cat_xent"], "short", "compute them on these rows"),
    ],
)
def test_missing_signals_are_refused_before_anything_is_written(
    arm, signals, message, stored, tmp_path
):
    empty = stored._replace(topk_ids=stored.topk_ids[..., :0])
    given = {"bits": empty, "short": Teacher(*[c[:5] for c in stored])}.get(signals)
    with one_device(), pytest.raises(InputError, match=message):
        run(tmp_path / "run", arm, given)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"mask": "before | large"}, r"taught\(rows, signals, 'before'\)"),
        ({"mask": "before", "teacher": "live"}, r"taught\(rows, signals, 'before'\)"),
        (
            {"mask_temperature": 0.5},
            r"log-probabilities of 'large'; store .*logprob=True",
        ),
    ],
)
def test_a_mask_without_its_signals_is_refused_before_anything_is_written(
    changed, message, stored, tmp_path
):
    arm, bits = dataclasses.replace(ARMS["cat_xent"], **changed), stored._replace(logprob=None)
    with one_device(), pytest.raises(InputError, match=message):
        train.train(MODEL, OPTIMIZER, arm, ROWS, folder=tmp_path / "run", teacher=bits)
    assert not (tmp_path / "run").exists()


def test_a_soft_mask_reads_the_log_probabilities_of_before(stored, tmp_path):
    arm = ArmConfig(mask="before", mask_temperature=0.5)
    rows = taught(ROWS, stored._replace(logprob=None), "before")
    with one_device(), pytest.raises(InputError, match="log-probabilities of 'before'"):
        train.train(MODEL, OPTIMIZER, arm, rows, folder=tmp_path / "run")


def test_a_folder_of_another_run_is_refused_by_name(stored, tmp_path):
    with one_device():
        run(tmp_path, "xent", stored)
        with pytest.raises(InputError, match=r"other arm\.mask;"):
            run(tmp_path, "cat_xent", stored)
        with pytest.raises(InputError, match=r"other optimizer\.steps, teacher;"):
            run(tmp_path, "xent", None, dataclasses.replace(OPTIMIZER, steps=9))


def test_train_outside_a_mesh_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"jax\.set_mesh"):
        run(tmp_path)
