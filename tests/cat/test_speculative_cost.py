"""Costs against a count token by token, and against the large model alone."""

import numpy as np
import pytest

from cat.config import ModelConfig
from cat.flops import forward_flops, parameter_count
from cat.speculative import Speculation
from cat.speculative_cost import (
    expected_tokens,
    round_starts,
    speculative_cost,
    speedup,
    weight_bytes,
)
from routers.errors import InputError

SMALL = ModelConfig(width=8, layers=1, heads=2, kv_heads=1, head_dim=4, ffn=12, vocab_size=31)
LARGE = ModelConfig(width=16, layers=3, heads=4, kv_heads=2, head_dim=8, ffn=40, vocab_size=31)
PROMPTS = np.array([1, 4, 9])
STARTS = np.array([[1, 0, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 1, 1]], bool)
LENGTHS = np.array([6, 2, 6])  # the second row ended early


def run_of(starts, lengths):
    """A round ends before the next begins; the last token is a draft that the limit cut off."""
    drafted = np.roll(~starts, -1, axis=1)
    drafted[:, -1] = True
    return Speculation(np.zeros(starts.shape, np.int32), lengths, drafted)


def token_flops(c, seen, unembed):
    """One token through every matrix, attending to ``seen`` keys."""
    d, h, g, k = c.width, c.heads, c.kv_heads, c.head_dim
    layer = 2 * d * h * k + 2 * 2 * d * g * k + 2 * h * k * d + 3 * 2 * d * c.ffn + 4 * h * k * seen
    return c.layers * layer + (2 * d * c.vocab_size if unembed else 0)


def one_by_one(c, prompt, starts, gamma):
    total = sum(token_flops(c, seen, False) for seen in range(1, prompt))
    for n, start in enumerate(starts):
        if start:
            total += sum(token_flops(c, prompt + n + g, True) for g in range(gamma + 1))
    return total


def test_rounds_are_read_off_the_drafts():
    np.testing.assert_array_equal(round_starts(run_of(STARTS, LENGTHS)), STARTS)


@pytest.mark.parametrize("gamma", [1, 2, 5])
def test_flops_token_by_token_and_passes(gamma):
    small, large = speculative_cost(SMALL, LARGE, PROMPTS, run_of(STARTS, LENGTHS), gamma)
    for config, spent in ((SMALL, small), (LARGE, large)):
        expected = [one_by_one(config, p, s, gamma) for p, s in zip(PROMPTS, STARTS, strict=True)]
        np.testing.assert_array_equal(spent.flops, expected)
    rounds = np.array([3, 2, 3])
    np.testing.assert_array_equal(large.passes, 1 + rounds)
    np.testing.assert_array_equal(small.passes, 1 + rounds * (gamma + 1))


@pytest.mark.parametrize("gamma", [1, 3])
def test_never_fewer_flops_than_the_large_model_alone(gamma):
    """Even if every draft stays; then the large model's own share is exactly the same."""
    N = 4 * (gamma + 1)
    perfect = (np.arange(N) % (gamma + 1) == 0)[None, :]
    worst = np.ones((1, N), bool)
    alone = forward_flops(LARGE, 7, N)
    for starts in (perfect, worst):
        _, large = speculative_cost(SMALL, LARGE, [7], run_of(starts, np.array([N])), gamma)
        assert large.flops[0] >= alone
        assert (large.flops[0] == alone) == (starts is perfect)


def test_weights_are_read_once_a_pass():
    N, gamma = 12, 3
    perfect = (np.arange(N) % 4 == 0)[None, :]
    small, large = speculative_cost(SMALL, LARGE, [7], run_of(perfect, np.array([N])), gamma)
    spent = weight_bytes(SMALL, small.passes, 2) + weight_bytes(LARGE, large.passes, 2)
    expected = 2 * (parameter_count(SMALL) * (1 + 3 * 4) + parameter_count(LARGE) * (1 + 3))
    assert spent.tolist() == [expected]
    assert spent[0] < weight_bytes(LARGE, N, 2), "here bytes are saved where FLOPs are not"


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.9, 1.0])
def test_expected_tokens_sums_the_chances_to_get_that_far(rate):
    for gamma in (1, 2, 7):
        assert np.isclose(expected_tokens(rate, gamma), sum(rate**g for g in range(gamma + 1)))
    assert expected_tokens([rate, 0.5], 2).shape == (2,)


def test_speedup():
    """All stay, small model free: gamma + 1 times; none stays: slower than the large alone."""
    assert speedup(1.0, 4, 0.0) == 5
    assert speedup(1.0, 4, 0.1) == 5 / 1.5
    assert speedup(0.0, 4, 0.1) < 1


def test_a_filler_row_is_no_query():
    with pytest.raises(InputError, match="prompt of 0 tokens") as error:
        speculative_cost(SMALL, LARGE, [0, 3, 4], run_of(STARTS, LENGTHS), 2)
    assert "\n" not in str(error.value)
