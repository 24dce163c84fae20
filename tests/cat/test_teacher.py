"""Stored teacher signals: what they are, that they survive the disk, and what is refused."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cat import step, teacher
from cat.config import ARMS, ArmConfig, ModelConfig
from cat.data import Rows
from cat.example import Example
from cat.mesh import make_mesh
from cat.models.decoder import Decoder
from cat.types import Teacher
from routers.errors import InputError

N, T, V = 13, 8, 11
MODEL = ModelConfig(width=8, layers=1, heads=2, kv_heads=1, head_dim=4, ffn=8, vocab_size=V)


def make_rows() -> Rows:
    """Random tokens; row i has i % 4 + 1 response tokens and some pads."""
    rng = np.random.default_rng(0)
    time = np.arange(T)
    length = np.arange(N) % 4 + 1
    response = (time >= 2) & (time < 2 + length[:, None])
    real = time < 2 + length[:, None]
    return Rows(
        tokens=np.where(real, rng.integers(4, V, (N, T)), 0).astype(np.int32),
        targets=rng.integers(4, V, (N, T)).astype(np.int32),
        mask=response.astype(np.float32),
        positions=np.where(real, time, 0).astype(np.int32),
        segments=real.astype(np.int32),
        prompt_lengths=np.full(N, 3, np.int32),
        response_lengths=length.astype(np.int32),
        examples=[Example(str(i), "", "", "") for i in range(N)],
    )


ROWS = make_rows()
ON = ROWS.mask > 0


@pytest.fixture(scope="module")
def logits_NTV():
    """The model's own logits, one row at a time and without compilation."""
    with jax.set_mesh(make_mesh(data=1)):
        graph, params = nnx.split(Decoder(MODEL, rngs=nnx.Rngs(1)))
        one = jax.jit(lambda params, batch: teacher.forward(nnx.merge(graph, params), batch))
        return np.concatenate([one(params, ROWS.batch(np.array([i]))) for i in range(N)])


@pytest.fixture(scope="module")
def model() -> Decoder:
    with jax.set_mesh(make_mesh(data=1)):
        return Decoder(MODEL, rngs=nnx.Rngs(1))


def compute(model, topk, batch_size=4, devices=1, **kwargs) -> Teacher:
    with jax.set_mesh(make_mesh(data=devices)):
        graph, params = nnx.split(model)
        put = jax.device_put(params, jax.NamedSharding(make_mesh(data=devices), jax.P()))
        return teacher.compute(
            nnx.merge(graph, put), ROWS, topk=topk, batch_size=batch_size, **kwargs
        )


def test_bits_and_probabilities_are_the_model_s(model, logits_NTV):
    found = compute(model, topk=3)
    expected = (logits_NTV.argmax(-1) == ROWS.targets) & ON
    assert found.hit.dtype == bool
    np.testing.assert_array_equal(found.hit, expected)
    assert 0 < expected.sum() < ON.sum()
    wide = logits_NTV.astype(np.float64)
    logprob_NTV = wide - np.log(np.exp(wide).sum(-1, keepdims=True))
    ids_NTC = np.argsort(-logprob_NTV, axis=-1)[..., :3]
    np.testing.assert_array_equal(found.topk_ids[ON], ids_NTC[ON])
    sorted_NTC = np.take_along_axis(logprob_NTV, ids_NTC, -1)
    np.testing.assert_allclose(found.topk_logprob[ON], sorted_NTC[ON], rtol=1e-5)


def test_off_the_response_everything_is_zero(model):
    for column in compute(model, topk=2):
        assert not column[~ON].any()


def test_batch_size_and_devices_change_nothing(model):
    expected, counts = compute(model, topk=2), []
    for batch_size, devices in ((N, 1), (5, 1), (3, 8)):
        found = compute(
            model, 2, batch_size, devices, progress=lambda count, note: counts.append(count)
        )
        assert sum(counts) == N
        counts.clear()
        np.testing.assert_array_equal(found.hit, expected.hit)
        np.testing.assert_array_equal(found.topk_ids, expected.topk_ids)
        np.testing.assert_allclose(found.topk_logprob, expected.topk_logprob, atol=1e-6)


LONG = 40


@pytest.fixture(scope="module")
def long_rows() -> Rows:
    """Prompts of 3 to 36 tokens before answers of 1 to 4; the last answer ends its row."""
    rng = np.random.default_rng(1)
    prompt, answer = rng.integers(3, LONG - 4, N), np.arange(N) % 4 + 1
    prompt[3] = LONG - answer[3] + 1
    time, end = np.arange(LONG), prompt + answer - 1
    real = time < end[:, None]
    return Rows(
        tokens=np.where(real, rng.integers(4, V, (N, LONG)), 0).astype(np.int32),
        targets=rng.integers(4, V, (N, LONG)).astype(np.int32),
        mask=(real & (time >= prompt[:, None] - 1)).astype(np.float32),
        positions=np.where(real, time, 0).astype(np.int32),
        segments=real.astype(np.int32),
        prompt_lengths=prompt.astype(np.int32),
        response_lengths=answer.astype(np.int32),
        examples=[Example(str(i), "", "", "") for i in range(N)],
    )


@pytest.mark.parametrize("topk", [0, 3, V])
def test_long_prompts_and_short_answers(model, long_rows, topk, monkeypatch):
    """Every row's own loop over its response; no more is unembedded than the longest answer."""
    shapes, unembed = [], Decoder.unembed

    def watched(self, hidden):
        shapes.append(hidden.shape)
        return unembed(self, hidden)

    with jax.set_mesh(make_mesh(data=1)):
        batch = jax.tree.map(jnp.asarray, long_rows.batch(np.arange(N)))
        logits_NTV = np.asarray(jax.jit(teacher.forward)(model, batch), np.float64)
        monkeypatch.setattr(Decoder, "unembed", watched)
        found = teacher.compute(model, long_rows, topk=topk, batch_size=6)
    assert shapes == [(6, 4, MODEL.width)]  # traced once
    hit_NT = np.zeros((N, LONG), bool)
    ids_NTC, logprob_NTC = np.zeros((N, LONG, topk), int), np.zeros((N, LONG, topk))
    for n in range(N):
        for t in np.flatnonzero(long_rows.mask[n]):
            logprob_V = logits_NTV[n, t] - np.log(np.exp(logits_NTV[n, t]).sum())
            hit_NT[n, t] = logprob_V.argmax() == long_rows.targets[n, t]
            ids_NTC[n, t] = np.argsort(-logprob_V)[:topk]
            logprob_NTC[n, t] = logprob_V[ids_NTC[n, t]]
    assert hit_NT.any()
    np.testing.assert_array_equal(found.hit, hit_NT)
    np.testing.assert_array_equal(found.topk_ids, ids_NTC)
    np.testing.assert_allclose(found.topk_logprob, logprob_NTC, rtol=1e-5)
    assert [column.dtype for column in found] == [bool, np.int32, np.float32]


@pytest.mark.parametrize("topk", [-1, V + 1])
def test_a_topk_outside_the_vocabulary_is_refused(model, topk):
    with pytest.raises(InputError, match=f"teacher_topk is {topk}; give 0 .* to {V}"):
        compute(model, topk)


@pytest.mark.parametrize("topk", [0, 2, V])
def test_saved_and_loaded_is_the_same(model, topk, tmp_path):
    found = compute(model, topk)
    teacher.save(tmp_path, found, "abc")
    for before, after in zip(found, teacher.load(tmp_path, "abc"), strict=True):
        assert before.dtype == after.dtype
        np.testing.assert_array_equal(before, after)
    assert [path.name for path in tmp_path.iterdir()] == ["teacher.safetensors"]


def test_the_bit_costs_a_bit(model, tmp_path):
    rng = np.random.default_rng(0)
    shape = (1000, 32)
    signals = Teacher(
        rng.random(shape) < 0.5, np.zeros((*shape, 0), np.int32), np.zeros((*shape, 0), np.float32)
    )
    teacher.save(tmp_path, signals, "abc")
    # two bitmaps (hits; where probabilities are kept) and a header
    assert (tmp_path / teacher.FILE).stat().st_size < 2 * 1000 * 32 / 8 + 1000
    np.testing.assert_array_equal(teacher.load(tmp_path, "abc").hit, signals.hit)


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        ("abc", "abd", "fingerprint"),
        ({"rows": "1", "model": "2"}, {"rows": "1", "model": "3"}, "model"),
        ({"rows": "1", "topk": "2"}, {"rows": "3", "topk": "4"}, "rows, topk"),
        ({"rows": "1"}, {"rows": "1", "model": "2"}, "model"),
    ],
)
def test_other_ingredients_are_refused_by_name(before, after, named, model, tmp_path):
    teacher.save(tmp_path, compute(model, 0), before)
    teacher.load(tmp_path, before)
    with pytest.raises(InputError, match=rf"teacher\.safetensors was made with other {named};"):
        teacher.load(tmp_path, after)


@pytest.mark.parametrize("keep", [0, 5, 200, -1])
def test_a_truncated_file_is_refused(keep, model, tmp_path):
    teacher.save(tmp_path, compute(model, 2), "abc")
    path = tmp_path / teacher.FILE
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"truncated.*delete it"):
        teacher.load(tmp_path, "abc")


def test_a_foreign_file_is_refused(tmp_path):
    from safetensors.numpy import save_file

    save_file({"weight": np.zeros(3)}, tmp_path / teacher.FILE)
    with pytest.raises(InputError, match=r"not teacher signals; delete it"):
        teacher.load(tmp_path, "abc")


def test_a_missing_file_says_what_to_do(tmp_path):
    with pytest.raises(InputError, match="compute them first"):
        teacher.load(tmp_path, "abc")


def test_an_interrupted_save_leaves_the_old_file(model, tmp_path, monkeypatch):
    found = compute(model, 0)
    teacher.save(tmp_path, found, "old")

    def cut(columns, path, about):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(teacher, "save_file", cut)
    with pytest.raises(KeyboardInterrupt):
        teacher.save(tmp_path, found, "new")
    np.testing.assert_array_equal(teacher.load(tmp_path, "old").hit, found.hit)


@pytest.mark.parametrize("arm", ["cat_xent", "dist", "cat_dist"])
def test_stored_and_live_signals_give_the_same_gradients(arm, model, tmp_path):
    """With K = V; through the file. Gradients with respect to the small model's logits."""
    teacher.save(tmp_path, compute(model, topk=V), "abc")
    batch = jax.tree.map(jnp.asarray, ROWS.batch(np.arange(N), teacher.load(tmp_path, "abc")))
    small = jnp.asarray(np.random.default_rng(5).normal(size=(N, T, V)), jnp.float32)

    def gradient(told):
        loss = lambda s: step.objective(ARMS[arm], s, batch, told, jax.random.key(0))[0]  # noqa: E731
        return jax.grad(loss)(small)

    with jax.set_mesh(make_mesh(data=1)):
        stored, live = gradient(batch.teacher), gradient(teacher.signals(model, batch))
    np.testing.assert_allclose(stored, live, atol=1e-6)
    assert np.abs(stored).max() > 1e-3


def test_needs_are_read_off_the_arm():
    wants = {
        name: (teacher.needs_hits(a), teacher.needs_probabilities(a)) for name, a in ARMS.items()
    }
    assert {name for name, (hits, _) in wants.items() if not hits} == {
        "xent", "dist", "gatekeeper", "small_hit"
    }  # fmt: skip
    assert {name for name, (_, probabilities) in wants.items() if probabilities} == {
        "dist", "cat_dist"
    }  # fmt: skip
    assert teacher.needs_hits(dataclasses.replace(ArmConfig(), mask="both_hit"))


def test_the_key_is_readable_in_the_file(model, tmp_path):
    from safetensors import safe_open

    teacher.save(tmp_path, compute(model, 0), {"rows": "1"})
    with safe_open(tmp_path / teacher.FILE, "numpy") as file:
        assert json.loads(file.metadata()["key"]) == {"rows": "1"}
