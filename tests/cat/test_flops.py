"""FLOPs against a step-by-step count, the compiler's own count, and the built module."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cat import mesh as meshes
from cat.config import ModelConfig
from cat.flops import (
    approximate_flops,
    decode_flops,
    embedding_count,
    forward_flops,
    keys_seen,
    layer_parameters,
    parameter_count,
)
from cat.models.decoder import Decoder
from routers.errors import InputError

WORKED = ModelConfig(
    width=1024, layers=12, heads=16, kv_heads=4, head_dim=64, ffn=2816, vocab_size=32_000
)


def step_by_step(c, prompt, response):
    """Prefill then one decode step per token, layer by layer, matrix by matrix."""

    def token(seen):
        """One token through all layers, attending to ``seen`` keys."""
        d, h, g, k = c.width, c.heads, c.kv_heads, c.head_dim
        total = 0
        for layer in range(c.layers):
            total += 2 * d * h * k + 2 * (2 * d * g * k) + 2 * h * k * d
            total += 3 * 2 * d * c.ffn
            window = c.windows[layer] if c.windows else seen
            keys = [key for key in range(seen) if key > seen - 1 - (window or seen)]
            total += sum(2 * h * k + 2 * h * k for _ in keys)
        return total

    unembed = 2 * c.width * c.vocab_size
    total = sum(token(seen) for seen in range(1, prompt + 1)) + unembed  # first response token
    for n in range(1, response):
        total += token(prompt + n) + unembed
    return total


WINDOWS = [(), (3, 3, 3), (1, 0, 8), (0, 50, 0)]


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("windows", WINDOWS, ids=str)
def test_equals_prefill_plus_decode_steps(kv_heads, windows):
    config = ModelConfig(kv_heads=kv_heads, vocab_size=29, windows=windows)
    P, N = np.array([1, 1, 7, 24]), np.array([1, 5, 1, 9])
    got = forward_flops(config, P, N)
    assert got.dtype == np.float64
    expected = [step_by_step(config, p, n) for p, n in zip(P, N, strict=True)]
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("window", [0, 1, 3, 7, 8, 9])
def test_keys_seen_counts_pairs(window):
    for tokens in range(1, 9):
        near = window or tokens
        pairs = [(q, k) for q in range(tokens) for k in range(tokens) if k <= q < k + near]
        assert keys_seen(tokens, window) == len(pairs)


@pytest.mark.parametrize("windows", WINDOWS, ids=str)
def test_the_next_token_is_what_one_more_response_token_costs(windows):
    config = ModelConfig(kv_heads=2, vocab_size=29, windows=windows)
    for context in (2, 4, 9, 60):
        more = forward_flops(config, 1, context) - forward_flops(config, 1, context - 1)
        assert decode_flops(config, context) == more
    assert decode_flops(config, 1) == forward_flops(config, 1, 1)
    with pytest.raises(InputError, match="context of 0 tokens"):
        decode_flops(config, 0)


def test_a_window_longer_than_the_text_changes_nothing():
    plain, wide = ModelConfig(vocab_size=9), ModelConfig(vocab_size=9, windows=(16, 17, 400))
    assert forward_flops(wide, 9, 8) == forward_flops(plain, 9, 8)
    assert forward_flops(wide, 9, 9) < forward_flops(plain, 9, 9)


def test_worked_example():
    """153.06 GFLOP; the rule of thumb gives 1.122 of it, layers alone 0.903."""
    exact = float(forward_flops(WORKED, 384, 128))
    assert round(exact / 1e9, 2) == 153.06
    assert round(float(approximate_flops(WORKED, 384, 128)) / exact, 3) == 1.122
    layers_only = 2 * WORKED.layers * layer_parameters(WORKED) * (384 + 128 - 1)
    assert round(layers_only / exact, 3) == 0.903


def test_no_rounding_at_large_counts():
    """float64 holds these integers exactly; float32 or int32 would not."""
    assert float(forward_flops(WORKED, 3_001, 1_001)) == step_by_step_closed(WORKED, 3_001, 1_001)


def step_by_step_closed(c, prompt, response):
    """Python integers, attention summed as an arithmetic series."""
    T = prompt + response - 1
    per_layer = 2 * layer_parameters(c) * T + 4 * c.heads * c.head_dim * (T * (T + 1) // 2)
    return c.layers * per_layer + 2 * c.width * c.vocab_size * response


SWITCHES = {
    "plain": {},
    "untied": dict(tied_embeddings=False),
    "bias": dict(qkv_bias=True),
    "head norm": dict(qk_norm="head"),
    "projection norm, norms after": dict(qk_norm="projection", norms="after"),
    "norms on both sides": dict(norms="both", norm_plus_one=True),
    "all that has no parameters": dict(
        windows=(3, 0, 3), rope_local_base=10.0, attention_softcap=1.0, scaled_embedding=True
    ),
    "all that has some": dict(
        qkv_bias=True, qk_norm="projection", norms="both", tied_embeddings=False, head_dim=6
    ),
}


@pytest.mark.parametrize("switch", SWITCHES)
def test_parameter_count_equals_the_module(switch):
    config = ModelConfig(vocab_size=31, kv_heads=2, **SWITCHES[switch])
    model = nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0)))
    sizes = {
        jax.tree_util.keystr(path): leaf.size
        for path, leaf in jax.tree_util.tree_leaves_with_path(nnx.state(model, nnx.Param))
    }
    assert parameter_count(config) == sum(sizes.values())
    tables = sum(n for name, n in sizes.items() if "embed" in name or "head" in name.split("'"))
    assert embedding_count(config) == tables


@pytest.mark.parametrize(
    "changes",
    [{}, dict(qkv_bias=True, qk_norm="head", norms="both", windows=(8, 0), attention_softcap=9.0)],
    ids=["plain", "switches"],
)
def test_equals_the_compiler_up_to_elementwise_work(changes):
    """XLA counts the full T x T square (masked scores are computed too) and elementwise
    operations; with the square counted, ours must be below XLA's, by at most 6 % (8 % with the
    norms and the soft-cap).
    """
    T = 32
    config = ModelConfig(
        width=128, layers=2, heads=4, kv_heads=2, head_dim=32, ffn=384, vocab_size=512, **changes
    )
    with jax.set_mesh(meshes.make_mesh(data=1)):
        model = jax.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0)))
        ids = jax.ShapeDtypeStruct((1, T), jnp.int32)
        run = jax.jit(lambda m, t, p, s: m.unembed(m.hidden(t, p, s).hidden))
        analysis = run.lower(model, ids, ids, ids).compile().cost_analysis()
    ours = float(forward_flops(config, 1, T))  # one prompt token: T logits over T tokens
    seen = sum(keys_seen(T, config.window(layer)) for layer in range(config.layers))
    square = 4 * config.heads * config.head_dim * (config.layers * T * T - seen)
    ratio = analysis["flops"] / (ours + square)
    assert 1.0 <= ratio < (1.08 if changes else 1.06), ratio


@pytest.mark.parametrize(("P", "N"), [(0, 3), (4, 0), ([5, 5], [1, 0])])
def test_counts_below_one(P, N):
    with pytest.raises(InputError, match="at least 1") as error:
        forward_flops(WORKED, P, N)
    assert "\n" not in str(error.value)
