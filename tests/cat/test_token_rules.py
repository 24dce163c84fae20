"""Every rule against the same equation as a plain loop, and its limits."""

import inspect

import jax.numpy as jnp
import numpy as np
import pytest
import token_oracle

from cat import token_rules
from cat.token_rules import Pair, distribution, make_pair, total_variation
from routers.errors import InputError

V, B = 6, 200
RNG = np.random.default_rng(5)
SMALL = RNG.normal(0, 2, (B, V)).astype(np.float32)
LARGE = (SMALL * 0.6 + RNG.normal(0, 1.5, (B, V))).astype(np.float32)  # alike, not equal
GATE = RNG.normal(0, 2, B).astype(np.float32)

THRESHOLDS = {
    "lossless": [()],
    "lossy": [(0.0,), (0.15,), (0.6,), (0.95,)],
    "chow": [(0.1,), (0.35,), (0.7,)],
    "diff": [(-0.2,), (0.0,), (0.11,), (0.5,)],
    "opt": [(-0.5,), (0.0,), (0.33,), (0.9,)],
    "token_v1": [(-0.3,), (0.0,), (0.21,), (0.8,)],
    "token_v2": [(0.0,), (0.13,), (0.6,)],
    "token_v3": [(0.0,), (0.13,), (0.6,), (0.97,)],
    "bild": [(0.6, 5.0), (0.3, 1.0), (0.0, 2.5)],
    "co_llm": [(0.2,), (0.5,), (0.9,)],
    "citer": [(0.2,), (0.5,), (0.9,)],
}
CASES = [(name, t) for name, all_of_them in THRESHOLDS.items() for t in all_of_them]


def rule(name):
    return getattr(token_rules, name)


def pair_at(temperature):
    return make_pair(jnp.array(SMALL), jnp.array(LARGE), temperature, jnp.array(GATE))


def close(got, expected, atol=1e-6):
    np.testing.assert_allclose(got, expected, rtol=0, atol=atol)


def test_every_rule_of_the_module_is_tested():
    rules = {
        name
        for name, value in vars(token_rules).items()
        if inspect.isfunction(value) and next(iter(inspect.signature(value).parameters)) == "pair"
    }
    assert {name for name in rules if not name.startswith("_")} == set(THRESHOLDS)


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize(("name", "thresholds"), CASES)
def test_equals_the_equation_as_a_loop(name, thresholds, temperature):
    got = np.asarray(rule(name)(pair_at(temperature), *thresholds))
    expected = [
        token_oracle.target(name, SMALL[b], LARGE[b], temperature, thresholds, float(GATE[b]))
        for b in range(B)
    ]
    close(got, expected)
    close(got.sum(axis=1), 1.0)
    assert (got >= 0).all()
    if temperature == 0:
        assert set(np.unique(got)) == {0.0, 1.0}, "greedy laws are certain"


@pytest.mark.parametrize(("name", "thresholds"), CASES)
def test_thresholds_in_between_use_both_models(name, thresholds):
    """Else the loop above would compare nothing but q and p."""
    pair = pair_at(1.0)
    pi = np.asarray(rule(name)(pair, *thresholds))
    if name != "lossless" and thresholds != (0.0,):
        assert np.abs(pi - pair.p).max() > 0.05
    if thresholds != (0.97,):
        assert np.abs(pi - pair.q).max() > 0.05


@pytest.mark.parametrize(
    ("name", "to_small"),
    [
        ("lossy", (1.0,)),
        ("chow", (1.0,)),
        ("diff", (1.0,)),
        ("opt", (1.001,)),
        ("token_v1", (1.0,)),
        ("token_v2", (1.0,)),
        ("token_v3", (1.0,)),
        ("bild", (0.0, jnp.inf)),
        ("co_llm", (1.0,)),
        ("citer", (0.0,)),
    ],
)
def test_one_end_is_the_small_model(name, to_small):
    pair = pair_at(1.0)
    close(rule(name)(pair, *to_small), pair.q)


@pytest.mark.parametrize(
    ("name", "to_large"),
    [
        ("lossy", (0.0,)),
        ("chow", (-0.001,)),
        ("diff", (-1.0,)),
        ("opt", (-1e6,)),
        ("token_v1", (-1.0,)),
        ("token_v2", (-1e-5,)),
        ("token_v3", (-1e-5,)),
        ("bild", (1.001, 5.0)),
        ("bild", (0.5, -0.001)),
        ("co_llm", (-0.001,)),
        ("citer", (1.001,)),
    ],
)
def test_the_other_end_is_the_large_model(name, to_large):
    pair = pair_at(1.0)
    close(rule(name)(pair, *to_large), pair.p)


@pytest.mark.parametrize("name", ["token_v2", "token_v3"])
def test_alpha_zero_keeps_the_large_models_argmax_alone(name):
    """So at alpha 0 a greedy response is the large model's, a sampled one is not."""
    pair = pair_at(1.0)
    argmax = np.asarray(pair.p).argmax(axis=1)
    rows = np.arange(B)
    expected = np.asarray(pair.p) * (1 - np.asarray(pair.q)[rows, argmax])[:, None]
    expected[rows, argmax] += np.asarray(pair.q)[rows, argmax]
    close(rule(name)(pair, 0.0), expected)
    greedy = pair_at(0.0)
    close(rule(name)(greedy, 0.0), greedy.p)


@pytest.mark.parametrize("name", ["lossy", "chow", "diff", "opt"])
def test_a_larger_alpha_keeps_more_drafts(name):
    """Acceptance, sum min(q, pi), never falls as alpha grows; by token it may."""
    pair, last = pair_at(1.0), np.zeros(B)
    for alpha in (0.0, 0.1, 0.3, 0.6, 0.9, 1.0):
        now = np.minimum(pair.q, rule(name)(pair, alpha)).sum(axis=1)
        assert (now >= last - 1e-6).all()
        last = now


@pytest.mark.parametrize(
    ("name", "thresholds"), [("chow", (0.5,)), ("diff", (0.25,)), ("opt", (1.0,))]
)
def test_equality_keeps_the_small_model(name, thresholds):
    """max q = 1/2, max p = 3/4, TV = 1/4: each rule stands exactly at its threshold."""
    q, p = jnp.array([[0.5, 0.5]]), jnp.array([[0.75, 0.25]])
    assert rule(name)(Pair(q, p, q, p), *thresholds).tolist() == [[0.5, 0.5]]
    less = (thresholds[0] - 1e-3,)
    assert rule(name)(Pair(q, p, q, p), *less).tolist() == [[0.75, 0.25]]


@pytest.mark.parametrize("name", ["chow", "diff"])
def test_decisions_do_not_move_with_the_temperature(name):
    """Keep or not, by plain probabilities: what is kept is q of that temperature."""
    plain, hot = pair_at(1.0), pair_at(3.0)
    keeps = np.isclose(rule(name)(plain, 0.3), plain.q, atol=1e-6).all(axis=1)
    assert 0 < keeps.sum() < B
    close(np.asarray(rule(name)(hot, 0.3))[keeps], np.asarray(hot.q)[keeps])


def test_equal_models_are_left_alone_but_for_rules_by_token():
    """By token, the mass of the others is drawn again from all of p, so pi is sharper than p."""
    same = make_pair(jnp.array(SMALL), jnp.array(SMALL), 1.0, jnp.array(GATE))
    for name, thresholds in CASES:
        moved = np.abs(rule(name)(same, *thresholds) - same.p).max()
        assert moved < 1e-6 or (
            moved > 0.01 and name in ("token_v1", "token_v2", "token_v3", "bild")
        )
    sharper = np.asarray(token_rules.token_v3(same, 0.1)).max(axis=1)
    assert (sharper > np.asarray(same.p).max(axis=1)).all()


@pytest.mark.parametrize(("name", "thresholds"), CASES)
def test_forbidden_tokens_stay_forbidden(name, thresholds):
    """Logits of -inf in both models, as rows that pad a vocabulary have."""
    small, large = SMALL.copy(), LARGE.copy()
    small[:, -1] = large[:, -1] = -np.inf
    pi = rule(name)(make_pair(*map(jnp.array, (small, large)), 0.8, jnp.array(GATE)), *thresholds)
    assert (np.asarray(pi)[:, -1] == 0).all()
    close(np.asarray(pi).sum(axis=1), 1.0)


def test_total_variation_is_half_the_absolute_difference_and_the_best_event():
    pair = pair_at(1.0)
    q, p = np.asarray(pair.q, np.float64), np.asarray(pair.p, np.float64)
    got = total_variation(pair.q, pair.p)
    close(got, np.abs(q - p).sum(axis=1) / 2)
    events = np.array([[i >> v & 1 for v in range(V)] for i in range(2**V)])
    close(got, np.abs((q - p) @ events.T).max(axis=1))
    close(got, total_variation(pair.p, pair.q))


def test_greedy_is_the_limit_of_low_temperature():
    gaps = np.diff(np.sort(SMALL, axis=1)[:, -2:])[:, 0]
    logits = jnp.array(SMALL[gaps > 0.05])
    assert len(logits) > B / 2
    close(distribution(logits, 1e-3), distribution(logits, 0.0))
    tied = distribution(jnp.array([[1.0, 3.0, 3.0]]), 0.0)
    assert tied.tolist() == [[0.0, 1.0, 0.0]], "ties go to the lowest id"


@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_low_precision_logits_and_leading_axes(temperature):
    """Distributions are float32; a rule sees only the last axis."""
    small, large = (jnp.array(x, jnp.bfloat16) for x in (SMALL, LARGE))
    gate = jnp.array(GATE)
    flat = make_pair(small, large, temperature, gate)
    deep = make_pair(
        small.reshape(20, 10, V), large.reshape(20, 10, V), temperature, gate.reshape(20, 10)
    )
    for name, thresholds in CASES:
        pi = rule(name)(flat, *thresholds)
        assert pi.dtype == jnp.float32
        np.testing.assert_array_equal(rule(name)(deep, *thresholds).reshape(B, V), pi)


@pytest.mark.parametrize("name", ["co_llm", "citer"])
def test_a_gate_rule_without_a_gate(name):
    with pytest.raises(InputError, match="gate") as error:
        rule(name)(make_pair(jnp.array(SMALL), jnp.array(LARGE), 1.0), 0.5)
    assert "\n" not in str(error.value)
