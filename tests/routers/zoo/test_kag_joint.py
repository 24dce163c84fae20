"""Kag's gate: its loss by a loop over two logits, as released; the hinges; the features."""

import dataclasses

import jax
import numpy as np
import pytest
from planted import planted

from routers import learn
from routers.errors import InputError
from routers.features import token_features
from routers.zoo.kag_joint import KagJoint, Objective


def released_loss(gate, o, cov=0.55, cov2=0.65):
    """The released gate loss on a batch: two logits per query, column 1 = keep; o = 1: keep."""
    total = 0.0
    for (g0, g1), label in zip(gate, o, strict=True):
        e0, e1 = np.exp(g0), np.exp(g1)
        p = np.clip((e1 if label else e0) / (e0 + e1), 1e-7, 1 - 1e-7)
        total += (2.0 if label else 1.0) * (1 - p) ** 2 * -np.log(p)
    send = np.mean([min(max(g0 - g1, 0.0), 0.1) for g0, g1 in gate])
    keep = np.mean([min(max(g1 - g0, 0.0), 0.1) for g0, g1 in gate])
    return 0.5 * total + 100 * max(0.0, send - 0.1 * cov) + 100 * max(0.0, keep - 0.1 * cov2)


@pytest.mark.parametrize("lean", [-3.0, 0.0, 3.0])
def test_one_logit_gives_the_released_loss_of_two(lean):
    rng = np.random.default_rng(0)
    gate = rng.normal(size=(256, 2)) * 2
    gate[:, 0] += lean
    o = rng.integers(0, 2, 256)
    d = (gate[:, 0] - gate[:, 1]).astype(np.float32)
    got = Objective(0.55, 0.65)(*jax.device_put((d, (1 - o).astype(np.float32))))
    np.testing.assert_allclose(got, released_loss(gate, o), rtol=2e-5)


def test_a_graded_gain_is_a_mixture_of_both_labels():
    d = np.random.default_rng(1).normal(size=64).astype(np.float32)
    objective = Objective(1.0, 1.0)  # no hinge
    keep, send, mixed = (
        float(objective(*jax.device_put((d, np.full(64, s, np.float32))))) for s in (0, 1, 0.25)
    )
    np.testing.assert_allclose(mixed, 0.75 * keep + 0.25 * send, rtol=1e-5)


def test_learn_uses_the_objective_in_place_of_its_losses():
    rows = learn.Rows(*(np.ones(3, np.float32) for _ in range(3)))
    recipe = learn.Recipe(objective=lambda logit, target: (logit - 2.0 * target).sum())
    got = learn._loss(*jax.device_put((np.arange(3, dtype=np.float32), rows)), recipe)
    np.testing.assert_allclose(got, 3.0 - 6.0, rtol=1e-6)


def test_features_are_the_mean_token_features_and_the_embedding():
    inputs, _ = planted(12)
    got = KagJoint()._features(inputs, 4)
    for i in range(12):
        tokens = token_features(inputs.topk_logprob[i][:, :4].astype(np.float64))
        want = [*(sum(column) / len(tokens) for column in tokens.T), *inputs.response_embedding[i]]
        np.testing.assert_allclose(got[i], want, rtol=1e-12)


def test_the_hinge_caps_how_many_are_sent():
    """Features say nothing, three of four should go on: the gate would send most."""
    inputs, outcomes = planted(400, kinds=(1, 1, 1, 0))
    outcomes = outcomes.take(np.random.default_rng(0).permutation(400))

    def soft_share(most_sent):
        router = KagJoint(most_sent=most_sent, most_kept=1.0).fit(inputs, outcomes)
        p = router.score(inputs)
        return np.clip(np.log(p) - np.log1p(-p), 0.0, 0.1).mean() / 0.1, (p > 0.5).mean()

    (free, free_sent), (capped, capped_sent) = map(soft_share, (1.0, 0.1))
    # The hinge acts on the mean of min(relu(d), 0.1) / 0.1, here on all rows, there on batches.
    assert free > 0.5
    assert abs(capped - 0.1) < 0.05
    assert capped_sent < free_sent - 0.2


def test_cost_is_the_gates():
    inputs, outcomes = planted(30)
    assert set(KagJoint().fit(inputs, outcomes).flops_per_query(inputs)) == {
        2 * ((1 + 10 + 5 + 3) * 32 + 32 * 32 + 32)
    }


def test_refusals():
    inputs, outcomes = planted(30)
    with pytest.raises(InputError, match="at least 2"):
        KagJoint(topk=1)
    with pytest.raises(InputError, match="fractions"):
        KagJoint(most_kept=1.5)
    with pytest.raises(InputError, match="response_embedding"):
        KagJoint().fit(dataclasses.replace(inputs, response_embedding=None), outcomes)
