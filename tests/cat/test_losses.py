"""Per-token losses against NumPy loops, optax, finite differences and each other."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cat import losses, masks
from cat.config import ARMS, ArmConfig
from cat.losses import (
    cross_entropy,
    distill,
    gatekeeper,
    hand_over,
    hit,
    masked_mean,
    per_token,
)
from cat.masks import Hits
from cat.types import Teacher
from routers.errors import InputError

B, T, V = 3, 5, 7
RNG = np.random.default_rng(0)
LOGITS = jnp.asarray(RNG.normal(size=(B, T, V)) * 2, jnp.float32)
TARGETS = jnp.asarray(RNG.integers(0, V, (B, T)))
LARGE = jnp.asarray(jax.nn.log_softmax(jnp.asarray(RNG.normal(size=(B, T, V)) * 2, jnp.float32)))
MASK = jnp.asarray(RNG.random((B, T)) < 0.7, jnp.float32)


def live(logprob=LARGE) -> Teacher:
    return Teacher(hit(logprob, TARGETS), None, logprob)


def stored(topk: int, logprob=LARGE) -> Teacher:
    values, ids = jax.lax.top_k(logprob, topk)
    return Teacher(hit(logprob, TARGETS), ids, values)


def softmax(x):
    shifted = np.exp(np.asarray(x, np.float64) - np.max(x))
    return shifted / shifted.sum()


def each(function) -> np.ndarray:
    """A plain loop: ``function(student logits, target, teacher log-probs)`` at every token."""
    out = np.zeros((B, T))
    for b, t in np.ndindex(B, T):
        out[b, t] = function(np.asarray(LOGITS[b, t]), int(TARGETS[b, t]), np.asarray(LARGE[b, t]))
    return out


def test_cross_entropy_equals_a_loop_and_optax():
    got = cross_entropy(LOGITS, TARGETS)
    np.testing.assert_allclose(got, each(lambda s, y, _: -np.log(softmax(s)[y])), rtol=1e-5)
    reference = optax.softmax_cross_entropy_with_integer_labels(LOGITS, TARGETS)
    np.testing.assert_allclose(got, reference, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("w", [0.0, 0.3, 1.0])
def test_distill_equals_a_loop(w, temperature):
    def one(student, target, teacher):
        soft = softmax(teacher / temperature) @ np.log(softmax(student / temperature))
        return -w * np.log(softmax(student)[target]) - (1 - w) * temperature**2 * soft

    np.testing.assert_allclose(
        distill(LOGITS, TARGETS, live(), w, temperature), each(one), rtol=1e-5
    )


def test_the_teacher_term_is_forward_kl_plus_the_teachers_entropy():
    kl = optax.kl_divergence(jax.nn.log_softmax(LOGITS), jnp.exp(LARGE))
    entropy = -(jnp.exp(LARGE) * LARGE).sum(-1)
    got = distill(LOGITS, TARGETS, live(), 0.0, 1.0)
    np.testing.assert_allclose(got, kl + entropy, rtol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_keeping_the_whole_vocabulary_equals_the_live_teacher(temperature):
    got = distill(LOGITS, TARGETS, stored(V), 0.4, temperature)
    np.testing.assert_array_equal(got, distill(LOGITS, TARGETS, live(), 0.4, temperature))


@pytest.mark.parametrize("topk", [1, 3, V - 1])
def test_the_tail_is_one_class_for_both_models(topk):
    def one(student, target, teacher):
        kept = np.argsort(-teacher)[:topk]
        p, q = np.exp(teacher.astype(np.float64)), softmax(student)
        tail = [1 - p[kept].sum(), 1 - q[kept].sum()]
        return -(p[kept] @ np.log(q[kept])) - tail[0] * np.log(tail[1])

    got = distill(LOGITS, TARGETS, stored(topk), 0.0, 1.0)
    np.testing.assert_allclose(got, each(one), rtol=2e-5)


@pytest.mark.parametrize("topk", [1, 3])
def test_a_student_equal_to_the_teacher_is_at_the_minimum_whatever_is_kept(topk):
    gradient = jax.grad(lambda s: distill(s, TARGETS, stored(topk), 0.0, 1.0).sum())(LARGE)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


def test_tempering_a_truncated_teacher_is_refused():
    with pytest.raises(InputError, match="teacher_topk 7"):
        distill(LOGITS, TARGETS, stored(3), 0.5, 2.0)


def test_temperature_squared_keeps_the_gradient_at_high_temperature():
    """As tau grows, tau^2 CE tends to half the squared distance of centred logits (over V)."""
    tau = 300.0
    gradient = jax.grad(lambda s: distill(s, TARGETS, live(), 0.0, tau).sum())(LOGITS)
    centred = [x - x.mean(-1, keepdims=True) for x in (np.asarray(LOGITS), np.asarray(LARGE))]
    np.testing.assert_allclose(gradient, (centred[0] - centred[1]) / V, atol=0.02)


@pytest.mark.parametrize("a", [0.1, 0.5, 1.0])
def test_gatekeeper_equals_a_loop(a):
    def one(student, target, _):
        p = softmax(student)
        if student.argmax() == target:
            return -a * np.log(p[target])
        return (1 - a) * sum(p_v * np.log(p_v / (1 / V)) for p_v in p)

    np.testing.assert_allclose(gatekeeper(LOGITS, TARGETS, a), each(one), rtol=1e-5, atol=1e-6)


def test_gatekeeper_is_zero_on_a_wrong_and_uniform_token():
    assert float(gatekeeper(jnp.zeros((1, 1, V)), jnp.full((1, 1), 3), 0.5)[0, 0]) == pytest.approx(
        0, abs=1e-6
    )


LOSSES = {
    "cross_entropy": lambda s: cross_entropy(s, TARGETS),
    "distill": lambda s: distill(s, TARGETS, live(), 0.3, 2.0),
    "distill_top3": lambda s: distill(s, TARGETS, stored(3), 0.3, 1.0),
    "gatekeeper": lambda s: gatekeeper(s, TARGETS, 0.4),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_equals_finite_differences(name):
    with jax.enable_x64(True):
        logits = jnp.asarray(LOGITS, jnp.float64)
        loss = lambda s: LOSSES[name](s).sum()  # noqa: E731
        gradient = np.asarray(jax.grad(loss)(logits))
        rng, step = np.random.default_rng(1), 1e-6
        for _ in range(4):
            d = jnp.asarray(rng.normal(size=logits.shape))
            slope = (loss(logits + step * d) - loss(logits - step * d)) / (2 * step)
            # teacher columns are float32
            np.testing.assert_allclose((gradient * d).sum(), slope, rtol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_a_forbidden_token_gives_finite_values_and_gradients(name):
    """A padded vocabulary row at -inf in both models."""
    logits = LOGITS.at[:, :, V - 1].set(-jnp.inf)
    large = jax.nn.log_softmax(LARGE.at[:, :, V - 1].set(-jnp.inf))
    targets = jnp.minimum(TARGETS, V - 2)
    loss = {
        "cross_entropy": lambda s: cross_entropy(s, targets),
        "distill": lambda s: distill(s, targets, live(large), 0.3, 2.0),
        "distill_top3": lambda s: distill(s, targets, stored(3, large), 0.3, 1.0),
        "gatekeeper": lambda s: gatekeeper(s, targets, 0.4),
    }[name]
    value, gradient = jax.value_and_grad(lambda s: loss(s).sum())(logits)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient[..., V - 1], 0)


def test_hit_is_argmax_also_in_ties():
    rng = np.random.default_rng(2)
    logits = jnp.asarray(rng.integers(0, 3, (50, 6, V)), jnp.float32)  # many ties
    targets = jnp.asarray(rng.integers(0, V, (50, 6)))
    expected = np.argmax(np.asarray(logits), -1) == np.asarray(targets)
    np.testing.assert_array_equal(hit(logits, targets), expected)
    assert 0 < expected.sum() < expected.size


def test_masked_equals_the_subset():
    """The mean over kept tokens is the plain mean of those tokens alone."""
    values = cross_entropy(LOGITS, TARGETS)
    kept = np.asarray(values)[np.asarray(MASK) > 0]
    np.testing.assert_allclose(masked_mean(values, MASK, MASK), kept.mean(), rtol=1e-6)


@pytest.mark.parametrize("denominator", ["tokens", "kept"])
def test_masked_mean_divides_by_what_it_says(denominator):
    values = cross_entropy(LOGITS, TARGETS)
    alpha = MASK * jnp.asarray(np.random.default_rng(5).random((B, T)) < 0.5, jnp.float32)
    total = sum(float(v) for v, a in zip(values.ravel(), alpha.ravel(), strict=True) if a)
    count = float((MASK if denominator == "tokens" else alpha).sum())
    assert 0 < alpha.sum() < MASK.sum()
    got = masked_mean(values, alpha, MASK, denominator)
    np.testing.assert_allclose(got, total / count, rtol=1e-6)


def test_a_batch_without_tokens_has_loss_zero():
    zeros = jnp.zeros((B, T))
    assert masked_mean(cross_entropy(LOGITS, TARGETS), zeros, zeros, "kept") == 0


def test_nan_at_a_masked_place_stays_there():
    values = jnp.where(MASK > 0, cross_entropy(LOGITS, TARGETS), jnp.nan)
    assert np.isnan(values).any()
    mean, gradient = jax.value_and_grad(masked_mean)(values, MASK, MASK)
    assert np.isfinite(mean)
    np.testing.assert_array_equal(gradient, MASK / MASK.sum())


def test_the_gradient_is_exactly_zero_where_alpha_is_zero():
    alpha = MASK * (jnp.arange(T) % 2 == 0).astype(jnp.float32)[None, :]
    for loss in LOSSES.values():
        gradient = jax.grad(lambda s: masked_mean(loss(s), alpha, MASK))(LOGITS)  # noqa: B023
        dropped = np.asarray(gradient)[np.asarray(alpha) == 0]
        np.testing.assert_array_equal(dropped, 0)
        assert (np.asarray(gradient)[np.asarray(alpha) > 0] != 0).any()


@pytest.mark.parametrize("a", [0.0, 0.3, 1.0])
def test_hand_over_equals_a_loop(a):
    def one(student, target, teacher):
        p = softmax(student)
        if np.argmax(student) != target and np.argmax(teacher) == target:
            return (1 - a) * (math.log(V) + p @ np.log(p))
        return -a * np.log(p[target])

    got = hand_over(LOGITS, TARGETS, hit(LARGE, TARGETS), a)
    np.testing.assert_allclose(got, each(one), rtol=1e-5, atol=1e-6)


def test_hand_over_with_cats_mask_is_gatekeeper_without_what_both_get_wrong():
    teacher = live()
    hybrid = arm_loss(ArmConfig(loss="hand_over", mask="either_hit"), teacher)
    other = arm_loss(ArmConfig(loss="gatekeeper", mask="either_hit"), teacher)
    for a, b in zip(hybrid, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


def arm_loss(arm: ArmConfig, teacher: Teacher):
    def loss(logits):
        hits = Hits(hit(logits, TARGETS), teacher.hit, MASK)
        alpha = masks.weights(arm.mask, hits, jax.random.key(0))
        return masked_mean(per_token(arm, logits, TARGETS, teacher), alpha, MASK)

    return jax.value_and_grad(loss)(LOGITS)


def test_cat_dist_with_the_whole_weight_on_labels_is_cat_xent():
    arm = ArmConfig(loss="distill", mask="either_hit", label_weight=1.0)
    for a, b in zip(arm_loss(arm, live()), arm_loss(ARMS["cat_xent"], live()), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_large_model_that_is_always_right_makes_cat_its_baseline_bit_for_bit():
    teacher = live()._replace(hit=jnp.ones((B, T), bool))
    for cat, base in [("cat_xent", "xent"), ("cat_dist", "dist")]:
        pairs = zip(arm_loss(ARMS[cat], teacher), arm_loss(ARMS[base], teacher), strict=True)
        for a, b in pairs:
            np.testing.assert_array_equal(a, b)


def test_no_gradient_reaches_the_teacher():
    for teacher in (live, lambda p: stored(3, p)):
        gradient = jax.grad(lambda p: distill(LOGITS, TARGETS, teacher(p), 0.5, 1.0).sum())(LARGE)  # noqa: B023
        np.testing.assert_array_equal(gradient, 0)


def test_per_token_fills_parameters_from_the_arm():
    arm = ArmConfig(loss="distill", label_weight=0.2, temperature=2.0)
    np.testing.assert_array_equal(
        per_token(arm, LOGITS, TARGETS, live()), distill(LOGITS, TARGETS, live(), 0.2, 2.0)
    )
    arm = ArmConfig(loss="gatekeeper", correct_weight=0.9)
    np.testing.assert_array_equal(
        per_token(arm, LOGITS, TARGETS, None), gatekeeper(LOGITS, TARGETS, 0.9)
    )


@pytest.mark.parametrize("teacher", [None, stored(V)._replace(topk_logprob=jnp.zeros((B, T, 0)))])
def test_distillation_without_probabilities_is_refused(teacher):
    with pytest.raises(InputError, match="teacher_topk > 0"):
        per_token(ARMS["dist"], LOGITS, TARGETS, teacher)


def test_entropy_bounds_hold():
    assert math.isclose(float(losses.cross_entropy(jnp.zeros((1, 1, V)), TARGETS[:1, :1])[0, 0]),
                        math.log(V), rel_tol=1e-6)  # fmt: skip
