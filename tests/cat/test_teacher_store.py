"""The stored teacher: equal to the live one, made shard by shard, nothing damaged believed."""

import dataclasses
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cat import losses, objective, row_store, shards, teacher, teacher_store
from cat.config import ARMS, ModelConfig
from cat.data import Rows, batches
from cat.example import Example
from cat.mesh import make_mesh
from cat.models.decoder import Decoder
from cat.source import Signals, taught
from routers.errors import InputError

N, T, V = 21, 8, 11
MODEL = ModelConfig(width=8, layers=1, heads=2, kv_heads=1, head_dim=4, ffn=8, vocab_size=V)
KEY = {"checkpoint": "c0", "tokenizer": "t0"}


def make_rows() -> Rows:
    """Random tokens; row i has i % 4 + 1 response tokens and some pads."""
    rng = np.random.default_rng(0)
    time = np.arange(T)
    length = np.arange(N) % 4 + 1
    real = time < 2 + length[:, None]
    return Rows(
        tokens=np.where(real, rng.integers(4, V, (N, T)), 0).astype(np.int32),
        targets=rng.integers(4, V, (N, T)).astype(np.int32),
        mask=(real & (time >= 2)).astype(np.float32),
        positions=np.where(real, time, 0).astype(np.int32),
        segments=real.astype(np.int32),
        prompt_lengths=np.full(N, 3, np.int32),
        response_lengths=length.astype(np.int32),
        examples=[Example(str(i), "", "", "") for i in range(N)],
    )


ROWS = make_rows()
ON = ROWS.mask > 0
ALL = np.arange(N)


@pytest.fixture(scope="module")
def model() -> Decoder:
    with jax.set_mesh(make_mesh(data=1)):
        return Decoder(MODEL, rngs=nnx.Rngs(1))


@pytest.fixture(scope="module")
def computed(model):
    with jax.set_mesh(make_mesh(data=1)):
        return teacher.compute(model, ROWS, topk=V, batch_size=8)


@pytest.fixture
def fill(model, tmp_path):
    """Fills ``tmp_path/teacher`` in shards of 4 rows; ``fill.loads`` counts the model's loads."""

    def run(topk=2, logprob=True, key=KEY, rows=ROWS, **kwargs):
        def load():
            run.loads += 1
            return model

        with jax.set_mesh(make_mesh(data=1)):
            return teacher_store.fill(
                tmp_path / "teacher", rows, load, key=key, topk=topk, logprob=logprob,
                batch_size=8, **({"shard_rows": 4} | kwargs),
            )  # fmt: skip

    run.loads = 0
    return run


def files(store):
    return sorted(path.name for path in store.folder.glob("*.arrow"))


@pytest.mark.parametrize("shard_rows", [1, 4, 100])
@pytest.mark.parametrize("topk", [0, 2, V])
def test_stored_is_computed(topk, shard_rows, fill, computed):
    store = fill(topk=topk, shard_rows=shard_rows)
    assert isinstance(store, Signals)
    assert (len(store), store.topk) == (N, topk)
    assert len(files(store)) == -(-N // shard_rows)
    found = taught(ROWS, store).batch(ALL).teacher
    for a, b in zip(found, computed, strict=True):
        assert a.dtype == b.dtype
    np.testing.assert_array_equal(found.hit, computed.hit)
    np.testing.assert_allclose(found.logprob, computed.logprob, atol=1e-6)
    np.testing.assert_array_equal(found.topk_ids, computed.topk_ids[..., :topk])
    np.testing.assert_allclose(found.topk_logprob, computed.topk_logprob[..., :topk], atol=1e-6)
    for column in found:
        assert not column[~ON].any()
    assert store.hit_rate() == computed.hit[ON].mean()


def test_any_rows_in_any_shape(fill):
    source = taught(ROWS, fill())
    whole, rng = source.batch(ALL).teacher, np.random.default_rng(0)
    for shape in ((1,), (5,), (3, 4), (2, 3, 5)):
        index = rng.integers(0, N, shape)  # repeats, and several shards, out of order
        for some, column in zip(source.batch(index).teacher, whole, strict=True):
            np.testing.assert_array_equal(some, column[index])


def test_the_label_s_log_probability_is_kept_only_if_asked(fill):
    store = fill(logprob=False)
    assert taught(ROWS, store).batch(ALL).teacher.logprob is None
    assert set(store._shard(0).tokens) == {"hit", "topk_ids", "topk_logprob"}


@pytest.mark.parametrize("arm", ["cat_xent", "dist", "cat_dist"])
def test_stored_and_live_give_the_same_loss_and_gradients(arm, fill, model):
    """With K = V, with respect to the small model's logits, on the tokens that count."""
    batch = jax.tree.map(jnp.asarray, taught(ROWS, fill(topk=V)).batch(ALL))
    small = jnp.asarray(np.random.default_rng(5).normal(size=(N, T, V)), jnp.float32)

    def total(small, told):
        loss_BT = losses.per_token(ARMS[arm], small, batch.targets, told)
        hits_BT = losses.hit(small, batch.targets) | told.hit
        alpha_BT = jnp.where(hits_BT, batch.mask, 0.0) if arm.startswith("cat") else batch.mask
        return losses.masked_mean(loss_BT, alpha_BT, batch.mask)

    with jax.set_mesh(make_mesh(data=1)):
        live = objective.live(teacher.forward(model, batch), batch)
        found = [jax.value_and_grad(total)(small, told) for told in (batch.teacher, live)]
    np.testing.assert_allclose(found[0][0], found[1][0], atol=1e-6)
    np.testing.assert_allclose(found[0][1], found[1][1], atol=1e-6)
    assert np.abs(found[0][1]).max() > 1e-3


def test_an_interrupted_pass_goes_on_at_the_first_missing_shard(fill, tmp_path):
    def stop(count, note):
        if sum(counts) + count > 9:
            raise KeyboardInterrupt
        counts.append(count)

    counts: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        fill(progress=stop)
    assert [p.name for p in sorted((tmp_path / "teacher").glob("*.arrow"))] == [
        "shard-00000.arrow", "shard-00001.arrow"
    ]  # fmt: skip
    said = []
    store = fill(progress=lambda count, note: said.append((count, note)))
    assert said[0] == (8, "resumed")
    assert sum(count for count, _ in said) == N
    assert len(files(store)) == 6


def test_a_finished_pass_loads_no_model(fill):
    first = fill()
    times = [path.stat().st_mtime_ns for path in sorted(first.folder.iterdir())]
    again = fill()
    assert fill.loads == 1
    assert [path.stat().st_mtime_ns for path in sorted(again.folder.iterdir())] == times
    assert again.fingerprint == first.fingerprint


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "empty", "swapped"])
def test_a_damaged_shard_and_only_it_is_made_again(damage, fill):
    store = fill()
    whole = {name: (store.folder / name).read_bytes() for name in files(store)}
    times = {name: (store.folder / name).stat().st_mtime_ns for name in whole}
    path = store.folder / "shard-00002.arrow"
    content = whole[path.name]
    if damage == "missing":
        path.unlink()
    else:
        flipped = bytes([content[len(content) // 2] ^ 4])
        path.write_bytes({
            "truncated": content[:-20],
            "flipped": content[: len(content) // 2] + flipped + content[len(content) // 2 + 1 :],
            "empty": b"",
            "swapped": whole["shard-00001.arrow"],  # a sound shard of other rows
        }[damage])  # fmt: skip
    if damage != "missing":
        reader = teacher_store.TeacherStore(store.folder, store.recipe)
        reader.columns(np.array([0]), ROWS.mask[[0]])
        with pytest.raises(InputError, match=r"shard-00002.*run the teacher again"):
            reader.columns(np.array([9]), ROWS.mask[[9]])
    fill()
    assert {name: (store.folder / name).read_bytes() for name in files(store)} == whole
    changed = [n for n in whole if (store.folder / n).stat().st_mtime_ns != times[n]]
    assert changed == [path.name]


def test_processes_write_disjoint_shards_that_are_the_whole(fill, model, tmp_path):
    alone = fill()
    expected = {name: (alone.folder / name).read_bytes() for name in files(alone)}
    with jax.set_mesh(make_mesh(data=1)):
        for process in (2, 0, 1):
            sizes = {"key": KEY, "topk": 2, "logprob": True, "batch_size": 8, "shard_rows": 4}
            part = teacher_store.fill(
                tmp_path / "many", ROWS, lambda: model, process=process, processes=3, **sizes
            )
    assert {name: (part.folder / name).read_bytes() for name in files(part)} == expected


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"key": KEY | {"checkpoint": "c1"}}, "checkpoint"),
        ({"key": KEY | {"tokenizer": "t1", "checkpoint": "c1"}}, "checkpoint, tokenizer"),
        ({"topk": 3}, "topk"),
        ({"logprob": False}, "logprob"),
        ({"shard_rows": 5}, "shard_rows"),
    ],
)
def test_a_changed_ingredient_is_refused_by_its_name(change, named, fill):
    fill()
    with pytest.raises(InputError, match=rf"teacher was made with other {named};"):
        fill(**change)


def test_other_rows_are_refused_by_name(fill):
    fill()
    targets = ROWS.targets.copy()
    targets[0, 2] = 4 + (targets[0, 2] - 3) % 7
    with pytest.raises(InputError, match=r"teacher was made with other rows;"):
        fill(rows=dataclasses.replace(ROWS, targets=targets))


def test_signals_of_other_rows_do_not_fit(fill):
    store = fill()
    with pytest.raises(InputError, match="compute them on these"):
        store.columns(ALL, np.roll(ROWS.mask, 1, axis=0))
    with pytest.raises(InputError, match="compute them on these"):
        store.columns(ALL, np.zeros_like(ROWS.mask))
    columns = {field.name: getattr(ROWS, field.name) for field in dataclasses.fields(ROWS)}
    short = Rows(**{k: v[:5] if k != "left_out" else v for k, v in columns.items()})
    with pytest.raises(InputError, match=r"for rows \(21, 8\), the rows are \(5, 8\)"):
        taught(short, store)


@pytest.mark.parametrize("topk", [-1, V + 1])
def test_a_topk_outside_the_vocabulary_is_refused(topk, fill):
    with pytest.raises(InputError, match=f"teacher_topk is {topk}; give 0 .* to {V}"):
        fill(topk=topk)


def test_the_recipe_is_readable(fill):
    store = fill()
    found = json.loads((store.folder / "teacher.json").read_text())
    assert found == store.recipe
    assert found["rows"] == ROWS.fingerprint
    assert {"checkpoint", "tokenizer", "rows", "topk", "logprob", "count"} <= set(found)


@pytest.mark.parametrize(
    ("topk", "logprob", "vocab", "per_token"),
    [(0, False, V, 1 / 8), (0, True, V, 1 / 8 + 4), (3, True, V, 1 / 8 + 4 + 18),
     (3, False, 2**16 + 1, 1 / 8 + 24)],
)  # fmt: skip
def test_sizes_are_as_stated(topk, logprob, vocab, per_token, tmp_path):
    """M (1/8 + 4 [logprob] + topk (i + 4)) + 4 N bytes and at most 2 KB a shard."""
    rows, each = 2_000, 10
    recipe = {"count": rows, "shard_rows": rows, "topk": topk, "logprob": logprob}
    store = teacher_store.TeacherStore(tmp_path, recipe)
    shape, rng = rows * each, np.random.default_rng(0)
    found = teacher.Teacher(
        rng.random(shape) < 0.5,
        rng.integers(0, 9, (shape, topk)).astype(np.int32),
        rng.normal(size=(shape, topk)).astype(np.float32),
        rng.normal(size=shape).astype(np.float32),
    )
    teacher_store._write(store, 0, found, np.full(rows, each), vocab)
    size = os.path.getsize(tmp_path / row_store.shard_name(0))
    assert 0 <= size - (shape * per_token + 4 * rows) < 2_000
    assert len(shards.read(tmp_path / row_store.shard_name(0))) == rows


def test_training_reads_it_beside_rows_on_disk(fill):
    """By row number, in the global order, without either being in memory."""
    source = taught(ROWS, fill())
    whole = source.batch(ALL)
    known = {tuple(tokens): i for i, tokens in enumerate(whole.tokens)}
    for batch in batches(source, batch_size=7, steps=5, steps_per_dispatch=2, seed=0):
        for s, b in np.ndindex(batch.tokens.shape[:2]):
            i = known[tuple(batch.tokens[s, b])]
            for some, column in zip(batch.teacher, whole.teacher, strict=True):
                np.testing.assert_array_equal(some[s, b], column[i])
