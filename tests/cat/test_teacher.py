"""The large model's signals: what they are, for any batch, prompt and number of devices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cat import teacher
from cat.config import ARMS, ArmConfig, ModelConfig
from cat.data import Rows
from cat.example import Example
from cat.mesh import make_mesh, shard_params
from cat.models.decoder import Decoder
from cat.models.unembedding import Unembedding
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
    target_NT1 = np.take_along_axis(logprob_NTV, ROWS.targets[..., None], -1)
    np.testing.assert_allclose(found.logprob[ON], target_NT1[..., 0][ON], rtol=1e-5)


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


@pytest.mark.parametrize("topk", [0, 3])
def test_a_vocabulary_split_over_devices_tells_the_same(topk):
    """Heads, width and vocabulary over two devices, rows over four."""
    even = dataclasses.replace(MODEL, vocab_size=V + 1)

    def told(*mesh):
        with jax.set_mesh(make_mesh(*mesh)):
            model = shard_params(Decoder(even, rngs=nnx.Rngs(1)))
            split = model.embed.embedding[...].sharding.spec[0] == "tensor"
            return split, teacher.told(model, ROWS, np.arange(N), topk=topk, batch_size=8)

    (whole, alone), (split, found) = told(1, 1, 1), told(2, 2, 2)
    assert (whole, split) == (False, True)
    np.testing.assert_array_equal(found.hit, alone.hit)
    np.testing.assert_array_equal(found.topk_ids, alone.topk_ids)
    assert found.topk_ids.shape == (int(ON.sum()), topk)
    np.testing.assert_allclose(found.topk_logprob, alone.topk_logprob, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.logprob, alone.logprob, rtol=0, atol=1e-5)


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
    shapes, unembed = [], Unembedding.__call__

    def watched(self, hidden):
        shapes.append(hidden.shape)
        return unembed(self, hidden)

    with jax.set_mesh(make_mesh(data=1)):
        batch = jax.tree.map(jnp.asarray, long_rows.batch(np.arange(N)))
        logits_NTV = np.asarray(jax.jit(teacher.forward)(model, batch), np.float64)
        monkeypatch.setattr(Unembedding, "__call__", watched)
        found = teacher.compute(model, long_rows, topk=topk, batch_size=6)
    assert set(shapes) == {(6, 4, MODEL.width)}
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
    assert [column.dtype for column in found] == [bool, np.int32, np.float32, np.float32]


@pytest.mark.parametrize("topk", [-1, V + 1])
def test_a_topk_outside_the_vocabulary_is_refused(model, topk):
    with pytest.raises(InputError, match=f"teacher_topk is {topk}; give 0 .* to {V}"):
        compute(model, topk)


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
