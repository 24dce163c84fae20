"""Every arm's loss and gradient, chunked and in parts, against whole logits in one piece."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cat import gradients as parts
from cat import losses, masks, vocab
from cat.config import ARMS, ArmConfig
from cat.models.config import ModelConfig
from cat.models.decoder import Decoder
from cat.types import Batch, Teacher

B, T, R, V = 8, 9, 5, 23
CONFIG = ModelConfig(width=8, layers=1, heads=2, kv_heads=1, head_dim=4, ffn=16, vocab_size=V)
RNG = np.random.default_rng(1)
GRAPH, PARAMS = nnx.split(Decoder(CONFIG, rngs=nnx.Rngs(0)))
LARGE = Decoder(CONFIG, rngs=nnx.Rngs(5))
MORE = {
    "random_handles": ArmConfig(mask="random(large_handles) | before"),
    "kept": ArmConfig(mask="either_hit", denominator="kept"),
    "kept_random": ArmConfig(mask="random_like", denominator="kept"),
    "warm": ArmConfig(mask="either_hit", mask_warmup=10),
    "soft_random": ArmConfig(mask="random(small | before)", mask_temperature=0.7),
    "live": ArmConfig(loss="distill", mask="either_hit", teacher="live", temperature=2.0),
}
STEP = 4


def logits_of(model: Decoder, batch: Batch) -> jax.Array:
    return model.unembed(model.hidden(batch.tokens, batch.positions, batch.segments).hidden)


def told(logits, targets, topk: int) -> Teacher:
    logprob = jax.nn.log_softmax(logits)
    values, ids = jax.lax.top_k(logprob, topk)
    return Teacher(losses.hit(logits, targets), ids, values, -losses.cross_entropy(logits, targets))


def a_batch() -> Batch:
    """Rows with 0 to R counted targets, stored signals of two models that are often right."""
    tokens = RNG.integers(1, V, (B, T)).astype(np.int32)
    mask = np.zeros((B, T), np.float32)
    for row in range(B):
        mask[row, 2 : 2 + min(row, R)] = 1
    places = np.broadcast_to(np.arange(T, dtype=np.int32), (B, T))
    plain = Batch(tokens, tokens, mask, places, np.ones_like(tokens))
    batch = Batch(*[jnp.asarray(column) for column in plain[:5]])
    small = logits_of(nnx.merge(GRAPH, PARAMS), batch)
    right = jnp.asarray(RNG.random((B, T)) < 0.5)
    batch = batch._replace(targets=jnp.where(right, small.argmax(-1), batch.targets))
    nudged = small + 2 * RNG.normal(size=small.shape).astype(np.float32)
    return batch._replace(
        teacher=told(logits_of(LARGE, batch) + small, batch.targets, V),
        before=told(nudged, batch.targets, 0),
    )


BATCH = a_batch()


def whole(arm: ArmConfig, params):
    """The arm as it is written down: whole logits, the mask, the loss, one division."""
    logits = logits_of(nnx.merge(GRAPH, params), BATCH)
    teacher = BATCH.teacher
    if arm.teacher == "live":
        large = logits_of(LARGE, BATCH)
        teacher = Teacher(losses.hit(large, BATCH.targets), None, jax.nn.log_softmax(large))
    signals = losses.hit(logits, BATCH.targets), teacher.hit, BATCH.before.hit
    if arm.mask_temperature:
        logprobs = -losses.cross_entropy(logits, BATCH.targets), teacher.logprob
        signals = [
            masks.rightness(x, arm.mask_temperature) for x in (*logprobs, BATCH.before.logprob)
        ]
    small, large_hit, before = signals
    known = masks.Hits(small, large_hit, BATCH.mask, before)
    alpha = weights(arm, known)
    if arm.mask_warmup:
        share = STEP / arm.mask_warmup
        alpha = (1 - share) * BATCH.mask + share * alpha
    loss = losses.per_token(arm, logits, BATCH.targets, teacher)
    return losses.masked_mean(loss, alpha, BATCH.mask, arm.denominator), alpha


def weights(arm, known):
    """As ``masks.weights``, but draws belong to the response places: spread them out."""
    if "random" not in masks.NAMED.get(arm.mask, arm.mask):
        return masks.weights(arm.mask, known)
    at = np.argsort(-np.asarray(BATCH.mask), axis=1, kind="stable")[:, :R]
    near = masks.draw(arm.mask, jax.random.key(3), (B, R))
    lots = np.ones((len(near), B, T), np.float32)
    for n, b, r in np.ndindex(*near.shape):
        lots[n, b, at[b, r]] = near[n, b, r]
    return masks.weigh(arm.mask, known, jnp.asarray(lots), masks.rates(arm.mask, known))


@functools.cache
def reference(name: str):
    arm = (ARMS | MORE)[name]
    return jax.value_and_grad(functools.partial(whole, arm), has_aux=True)(PARAMS)


def run(name: str, accumulate: int):
    arm = (ARMS | MORE)[name]
    large = LARGE if arm.teacher == "live" else None
    make = functools.partial(nnx.merge, GRAPH)
    key = jax.random.key(3)

    @jax.jit
    def compiled(params):
        return parts.gradients(arm, make, params, large, BATCH, key, jnp.int32(STEP), R, accumulate)

    return compiled(PARAMS)


@pytest.mark.parametrize("name", [*ARMS, *MORE])
@pytest.mark.parametrize(("accumulate", "places"), [(1, R), (1, 2), (2, 1)])
def test_every_arm_equals_whole_logits_in_one_piece(name, accumulate, places, monkeypatch):
    monkeypatch.setattr(vocab, "CHUNK_BYTES", 4 * V * (B // accumulate) * places)
    value, metrics, grads = run(name, accumulate)
    (wanted, alpha), wanted_grads = reference(name)
    np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(metrics["keep_rate"], alpha.sum() / BATCH.mask.sum(), rtol=1e-6)
    for got, expected in zip(*map(jax.tree.leaves, (grads, wanted_grads)), strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


def test_the_arms_do_differ():
    values = {name: round(float(reference(name)[0][0]), 6) for name in [*ARMS, *MORE]}
    assert len(set(values.values())) >= len(values) - 1  # gatekeeper's two forms may meet


def test_cells_add_up_over_parts():
    once, twice = (run("cat_xent", n)[1] for n in (1, 4))
    assert sum(int(once[cell]) for cell in masks.Table._fields) == int(BATCH.mask.sum())
    for cell in masks.Table._fields:
        assert int(once[cell]) == int(twice[cell]) > 0


@pytest.mark.parametrize("accumulate", [1, 2])
def test_each_family_has_its_keep_rate(accumulate):
    family = np.arange(B * T, dtype=np.int32).reshape(B, T) % 3
    arm, key = ARMS["cat_xent"], jax.random.key(3)
    batch = BATCH._replace(family=jnp.asarray(family))
    make = functools.partial(nnx.merge, GRAPH)
    _, found, _ = jax.jit(
        lambda params: parts.gradients(
            arm, make, params, None, batch, key, jnp.int32(0), R, accumulate, 4
        )
    )(PARAMS)
    alpha, mask = np.asarray(reference("cat_xent")[0][1]), np.asarray(BATCH.mask)
    wanted = [(alpha * (family == f)).sum() / (mask * (family == f)).sum() for f in range(3)]
    np.testing.assert_allclose(found["keep_rate_F"][:3], wanted, rtol=1e-6)
    assert np.isnan(found["keep_rate_F"][3])  # a family without tokens
