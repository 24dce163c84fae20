"""Packed rows: every example once, whole and apart from its neighbours; the same losses."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from cat import losses, teacher
from cat import train as run
from cat.config import ARMS, DataConfig, ModelConfig, OptimizerConfig
from cat.data import batches, tokenize
from cat.mesh import make_mesh
from cat.models.decoder import Decoder
from cat.packing import _best_fit, pack
from cat.source import Source, taught
from cat.tasks import generated
from cat.tokenizers import train
from cat.types import Batch, Teacher
from routers.errors import InputError

CONFIG = DataConfig(train_size=101, validation_size=8, test_size=8)
WIDTH = 64
COLUMNS = ("tokens", "targets", "mask", "positions", "segments")


@pytest.fixture(scope="module")
def rows():
    examples = generated.examples(CONFIG, "train")
    tokenizer = train("characters", [e.prompt + e.target for e in examples])
    return tokenize(examples, tokenizer, CONFIG)


@pytest.fixture(scope="module")
def signals(rows):
    """Every value says which row and position it belongs to; zero where nothing counts."""
    N, T = rows.tokens.shape
    place = np.arange(1, N * T + 1, dtype=np.int32).reshape(N, T) * (rows.mask > 0)
    return Teacher(
        hit=(rows.targets % 2 == 0) & (rows.mask > 0),
        topk_ids=np.stack([place, -place], -1),
        topk_logprob=np.stack([place, place + 1], -1).astype(np.float32),
        logprob=place.astype(np.float32),
    )


@pytest.fixture(scope="module")
def packed(rows, signals):
    return pack(taught(rows, signals), WIDTH, seed=3)


def test_every_example_lies_in_one_row_once(packed, rows):
    assert isinstance(packed, Source)
    np.testing.assert_array_equal(np.sort(packed.members), np.arange(len(rows)))
    assert (packed.lengths <= WIDTH).all()
    assert packed.lengths.sum() == rows.lengths.sum()
    assert packed.counted.sum() == rows.counted.sum()


def test_every_position_by_a_loop(packed, rows, signals):
    """Each packed row is written again from its examples, a position at a time."""
    found = packed.batch(np.arange(len(packed)))
    for k in range(len(packed)):
        expected = {name: [] for name in (*COLUMNS, *Teacher._fields)}
        members = packed.members[packed.offsets[k] : packed.offsets[k + 1]]
        tasks = [rows.examples[i].task for i in members for _ in range(rows.lengths[i])]
        names = np.array(packed.families)[found.family[k, : len(tasks)]]
        assert names.tolist() == tasks
        for number, i in enumerate(packed.members[packed.offsets[k] : packed.offsets[k + 1]]):
            for t in range(rows.lengths[i]):
                for name in ("tokens", "targets", "mask", "positions"):
                    expected[name].append(getattr(rows, name)[i, t])
                expected["segments"].append(number + 1)
                for name in Teacher._fields:
                    expected[name].append(getattr(signals, name)[i, t])
        for name, values in expected.items():
            column = getattr(found if name in COLUMNS else found.teacher, name)[k]
            assert column.dtype == getattr(rows if name in COLUMNS else signals, name).dtype
            np.testing.assert_array_equal(column[: len(values)], np.array(values), err_msg=name)
            assert not column[len(values) :].any()


def test_what_is_said_of_packed_rows(packed):
    found = packed.batch(np.arange(len(packed)))
    np.testing.assert_array_equal(packed.lengths, (found.segments > 0).sum(1))
    np.testing.assert_array_equal(packed.counted, found.mask.sum(1))
    assert packed.response_width == found.mask.sum(1).max()
    assert packed.width == WIDTH == found.tokens.shape[1]
    padding = 1 - (found.segments > 0).mean()
    assert f"{padding:.1%} padding instead of" in packed.notes[0]
    assert padding < 0.1


def test_any_rows_in_any_shape(packed):
    whole = packed.batch(np.arange(len(packed)))
    rng = np.random.default_rng(0)
    for shape in ((1,), (3, 4), (2, 3, 2)):
        index = rng.integers(0, len(packed), shape)
        for part, column in zip(
            jax.tree.leaves(packed.batch(index)), jax.tree.leaves(whole), strict=True
        ):
            np.testing.assert_array_equal(part, column[index])


def test_the_plan_depends_on_lengths_and_seed_alone(packed, rows):
    again = pack(rows, WIDTH, seed=3)
    np.testing.assert_array_equal(again.members, packed.members)
    np.testing.assert_array_equal(again.offsets, packed.offsets)
    assert again.fingerprint == packed.fingerprint
    other = pack(rows, WIDTH, seed=4)
    assert not np.array_equal(other.members, packed.members)
    assert len({packed.fingerprint, other.fingerprint, pack(rows, 72, seed=3).fingerprint}) == 3


def test_batches_of_packed_rows_resume_anywhere(packed):
    sizes = {"batch_size": 4, "steps": 11, "steps_per_dispatch": 2, "seed": 0}
    whole = list(batches(packed, **sizes))
    for done in range(len(whole)):
        iterator = iter(batches(packed, **sizes))
        for _ in range(done):
            next(iterator)
        again = iter(batches(packed, **sizes))
        again.set_state(iterator.get_state())
        np.testing.assert_array_equal(next(again).tokens, whole[done].tokens)


def test_a_row_longer_than_the_width_is_refused(rows):
    longest = rows.lengths.max()
    with pytest.raises(InputError, match=rf"data\.pack={longest - 1} is less than .*{longest}"):
        pack(rows, int(longest) - 1, seed=0)


def one_by_one(lengths, width):
    """Best fit, longest first, one row at a time: what is left in each bin."""
    bins: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [b for b in range(len(bins)) if bins[b] >= length]
        if not fitting:
            bins.append(width)
            fitting = [len(bins) - 1]
        bins[min(fitting, key=lambda b: bins[b])] -= length
    return sorted(bins)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=60), st.integers(20, 31))
@settings(max_examples=200, deadline=None)
def test_the_histogram_packs_as_one_row_after_another_would(lengths, width):
    found, seen = [], []
    for count, held in _best_fit(np.bincount(lengths, minlength=width + 1), width):
        inside = [length for length, times in held for _ in range(times)]
        found += [width - sum(inside)] * count
        seen += inside * count
    assert sorted(seen) == sorted(lengths)
    assert sorted(found) == one_by_one(lengths, width)


MODEL = ModelConfig(width=16, layers=2, heads=2, kv_heads=1, head_dim=8, ffn=16)


@pytest.fixture(scope="module")
def decoder(rows):
    with jax.set_mesh(make_mesh(data=1)):
        size = dataclasses.replace(MODEL, vocab_size=int(rows.tokens.max()) + 1)
        return Decoder(size, rngs=nnx.Rngs(0))


@jax.jit
def summed(model: Decoder, batch: Batch) -> tuple[jax.Array, jax.Array]:
    loss_BT = losses.cross_entropy(teacher.forward(model, batch), batch.targets)
    return losses.masked_sum(loss_BT, batch.mask), batch.mask.sum()


def test_packed_loss_is_unpacked_loss(rows, packed, decoder):
    """Sums over all tokens of the same examples, and their gradients."""

    def value(source):
        graph, params = nnx.split(decoder)
        batch = jax.tree.map(jax.numpy.asarray, source.batch(np.arange(len(source))))
        total = lambda p: summed(nnx.merge(graph, p), batch._replace(teacher=None))  # noqa: E731
        (loss, count), grads = jax.value_and_grad(total, has_aux=True)(params)
        return loss, count, jax.tree.leaves(grads)

    with jax.set_mesh(make_mesh(data=1)):
        plain, together = value(rows), value(packed)
    assert plain[1] == together[1] == rows.mask.sum()
    np.testing.assert_allclose(together[0], plain[0], rtol=1e-5)
    for a, b in zip(together[2], plain[2], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())


def test_a_neighbour_is_never_seen(rows, packed, decoder):
    """Changing one example of a packed row changes the logits of no other."""
    k = int(np.argmax(np.diff(packed.offsets)))
    batch = packed.batch(np.array([k]))._replace(teacher=None)
    first = batch.segments[0] == 1
    changed = batch._replace(tokens=np.where(first, 5, batch.tokens).astype(np.int32))
    with jax.set_mesh(make_mesh(data=1)):
        before, after = (
            np.asarray(teacher.forward(decoder, jax.tree.map(jax.numpy.asarray, b)))[0]
            for b in (batch, changed)
        )
    others = batch.segments[0] > 1
    np.testing.assert_array_equal(before[others], after[others])
    assert np.abs(before[first] - after[first]).max() > 1e-3


def test_one_step_on_all_examples_is_the_same_packed_or_not(rows, decoder, tmp_path):
    """The real loop: log line and parameters; what is counted is every response token."""
    size = decoder.config
    topk = teacher_signals(decoder, rows)
    lines, params = [], []
    for name, source in (
        ("plain", taught(rows, topk)),
        ("packed", pack(taught(rows, topk), WIDTH, seed=3)),
    ):
        step = OptimizerConfig(
            steps=1, batch_size=len(source), steps_per_dispatch=1, learning_rate=1e-2
        )
        with jax.set_mesh(make_mesh(data=1)):
            found = run.train(size, step, ARMS["cat_dist"], source, folder=tmp_path / name)
        lines.append(json.loads((tmp_path / name / "metrics.jsonl").read_text()))
        params.append([np.asarray(leaf) for leaf in jax.tree.leaves(found)])
    for name in ("loss", "keep_rate", "grad_norm"):
        np.testing.assert_allclose(lines[1][name], lines[0][name], rtol=1e-5, err_msg=name)
    cells = ("n11", "n10", "n01", "n00")
    assert [lines[1][c] for c in cells] == [lines[0][c] for c in cells]
    assert sum(lines[0][c] for c in cells) == rows.mask.sum()
    for a, b in zip(*params, strict=True):
        # Adam's first step is the sign of the gradient: where that is rounding, so is the step
        assert np.mean(np.abs(a - b) > 1e-5) < 1e-3


def teacher_signals(decoder, rows):
    with jax.set_mesh(make_mesh(data=1)):
        return teacher.compute(decoder, rows, topk=4, batch_size=len(rows))
