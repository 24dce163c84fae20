"""The product with a parameter: JAX's own value and gradient, in every type and layout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from cat.mesh import ROWS, make_mesh
from cat.models.config import ModelConfig
from cat.models.embedding import look_up
from cat.models.product import Projection, layout, product

LETTERS = ["BTD,DHC->BTHC", "BTHC,HCD->BTD", "BTD,DF->BTF"]
SIZE = dict(B=4, T=3, D=8, H=4, C=2, F=6)


def draw(letters, seed):
    shape = [SIZE[letter] for letter in letters]
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("letters", LETTERS)
def test_value_and_gradient_are_those_of_einsum(letters):
    of_x, of_kernel, of_out = letters.replace("->", ",").split(",")
    x, kernel, weights = draw(of_x, 0), draw(of_kernel, 1), draw(of_out, 2)
    found = jax.value_and_grad(lambda *a: (product(letters, *a) * weights).sum(), (0, 1))(x, kernel)
    x, kernel, weights = (np.asarray(part, np.float64) for part in (x, kernel, weights))
    value = np.sum(np.einsum(letters, x, kernel) * weights)
    by_x = np.einsum(f"{of_out},{of_kernel}->{of_x}", weights, kernel)
    by_kernel = np.einsum(f"{of_x},{of_out}->{of_kernel}", x, weights)
    np.testing.assert_allclose(found[0], value, rtol=1e-5)
    np.testing.assert_allclose(found[1][0], by_x, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found[1][1], by_kernel, rtol=0, atol=1e-5)


def test_in_bfloat16_the_kernel_s_gradient_is_summed_and_kept_in_float32():
    """256 ones and one half: bfloat16 holds 256 and 258, not 256.5."""
    x = jnp.ones((257, 1), jnp.bfloat16).at[0].set(0.5)
    out, pull = jax.vjp(lambda k: product("BD,DF->BF", x, k), jnp.ones((1, 1)))
    assert out.dtype == jnp.bfloat16
    (gradient,) = pull(jnp.ones((257, 1), jnp.bfloat16))
    assert gradient.dtype == jnp.float32
    assert gradient[0, 0] == 256.5


@pytest.mark.parametrize(
    ("letters", "of_x", "of_kernel", "of_out"),
    [
        ("BTD,DF->BTF", P(ROWS), P("fsdp", "tensor"), P(ROWS, None, "tensor")),
        ("BTF,FD->BTD", P(ROWS, None, "tensor"), P("tensor", "fsdp"), P(ROWS, None, None)),
        ("BTD,DF->BTF", P(ROWS), P(), P(ROWS, None, None)),
    ],
)
def test_what_is_split_stays_split_and_gradients_lie_like_parameters(
    letters, of_x, of_kernel, of_out
):
    x, kernel = (draw(part, 0) for part in letters.split("->")[0].split(","))
    with jax.set_mesh(make_mesh(2, 2, 2)):
        given = jax.device_put(x, of_x), jax.device_put(kernel, of_kernel)
        assert layout(letters, *given) == of_out
        out, pull = jax.vjp(jax.jit(lambda *a: product(letters, *a)), *given)
        assert jax.typeof(out).sharding.spec == of_out
        for found, primal in zip(pull(out), given, strict=True):
            assert jax.typeof(found) == jax.typeof(primal)


def test_a_bias_has_the_axes_that_end_the_result():
    from flax import nnx

    kind = dict(kernel_init=nnx.initializers.normal(), dtype=jnp.float32, rngs=nnx.Rngs(0))
    made = Projection("BTD,DHC->BTHC", (8, 4, 2), (4, 2), **kind)
    made.bias[...] = jnp.arange(8.0).reshape(4, 2)
    x = draw("BTD", 0)
    wanted = np.einsum("BTD,DHC->BTHC", np.asarray(x), np.asarray(made.kernel[...]))
    np.testing.assert_allclose(made(x), wanted + np.arange(8.0).reshape(4, 2), atol=1e-5)


@pytest.mark.parametrize(
    "spec", [P(), P("tensor", "fsdp"), P("fsdp", None), P("tensor", None), P(None, "fsdp")], ids=str
)
def test_looked_up_rows_and_their_gradient(spec):
    table, weights = np.asarray(draw("DF", 0)), np.asarray(draw("BTF", 1))
    tokens = np.random.default_rng(2).integers(0, 8, (4, 3)).astype(np.int32)
    wanted = np.zeros_like(table)
    np.add.at(wanted, tokens, weights)
    with jax.set_mesh(make_mesh(2, 2, 2)):
        lying = jax.device_put(table, spec)
        ids, w = jax.device_put(tokens, P(ROWS)), jax.device_put(weights, P(ROWS))
        out = jax.jit(look_up)(lying, ids)
        gradient = jax.jit(jax.grad(lambda t: (look_up(t, ids) * w).sum()))(lying)
        assert jax.typeof(gradient) == jax.typeof(lying)
    np.testing.assert_array_equal(out, table[tokens])
    np.testing.assert_allclose(gradient, wanted, rtol=0, atol=1e-6)


def test_half_heads_are_refused_nowhere():
    """A model whose sizes nothing divides is whole, not an error."""
    from flax import nnx

    from cat.mesh import shard_params
    from cat.models.decoder import Decoder

    odd = ModelConfig(width=5, layers=1, heads=3, kv_heads=1, head_dim=2, ffn=7, vocab_size=11)
    with jax.set_mesh(make_mesh(1, 4, 2)):
        placed = nnx.state(shard_params(Decoder(odd, rngs=nnx.Rngs(0))))
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(placed))
