"""The product of activations with a parameter: the one place where split parameters are used.

A parameter split over ``fsdp`` is gathered for the product and forgotten after it; the backward
pass gathers it again, and the gradient leaves each product split as the parameter is. So only
one layer's parameters are whole at a time. What ``tensor`` splits stays split: a product over a
split axis sums over the devices.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from cat.mesh import gathered


class Projection(nnx.Module):
    """``einsum(letters, x, kernel) + bias``, computed in ``dtype`` from float32 parameters.

    Args:
        letters: of x, kernel and result; the kernel's that stay end the result.
        shape: of the kernel.
        bias: shape of a bias, which starts at 0: the axes that end the result.
        kernel_init: how the kernel starts.
        dtype: of the product.
        rngs: seeds the kernel.
    """

    def __init__(
        self,
        letters: str,
        shape: tuple[int, ...],
        bias: tuple[int, ...] | None = None,
        *,
        kernel_init: jax.nn.initializers.Initializer,
        dtype: Any,
        rngs: nnx.Rngs,
    ):
        self.letters, self.dtype = letters, dtype
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape, jnp.float32))
        self.bias = nnx.data(None)
        if bias is not None:
            self.bias = nnx.Param(nnx.initializers.zeros_init()(rngs.params(), bias, jnp.float32))

    def __call__(self, x: Float[Array, ...]) -> Float[Array, ...]:
        """The product, laid out by ``layout``."""
        out = product(self.letters, x.astype(self.dtype), self.kernel[...]).astype(self.dtype)
        if self.bias is None:
            return out
        bias = self.bias[...].astype(self.dtype)
        return out + lax.expand_dims(bias, range(out.ndim - bias.ndim))


def product(letters: str, x: Float[Array, ...], kernel: Float[Array, ...]) -> Float[Array, ...]:
    """``einsum(letters, x, kernel)`` in the type of x; the kernel's gradient is in its own type.

    The gradient of the kernel is one product of x with the cotangent, added up in float32, over
    devices too. (Left to itself, JAX transposes the product it differentiates, and XLA on a CPU
    copies what comes out: a sixth of a small model's step.)

    >>> product("BD,DF->BF", jnp.ones((1, 2)), jnp.array([[1.0, 2.0], [3.0, 4.0]])).tolist()
    [[4.0, 6.0]]
    """
    return _product(letters, x, kernel)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(letters: str, x: Array, kernel: Array) -> Array:
    return _forward(letters, x, kernel)[0]


def layout(letters: str, x: Array, kernel: Array) -> PartitionSpec | None:
    """How the product lies: its axes as those of x, else as the gathered kernel's."""
    of_x, of_kernel, of_out = letters.replace("->", ",").split(",")
    axes = dict(zip(of_kernel, _axes(kernel), strict=True))
    axes = {letter: None if axis == "fsdp" else axis for letter, axis in axes.items()}
    axes |= {k: axis or axes.get(k) for k, axis in zip(of_x, _axes(x), strict=True)}
    return _placed([axes[letter] for letter in of_out], x, kernel)


def _forward(letters: str, x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    """Keeps the kernel as it lies, not as it was gathered."""
    whole = gathered(kernel.astype(x.dtype))
    return jnp.einsum(letters, x, whole, out_sharding=layout(letters, x, kernel)), (x, kernel)


def _backward(letters: str, kept: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    """Each gradient lies as its primal does."""
    x, kernel = kept
    of_x, of_kernel, of_out = letters.replace("->", ",").split(",")
    whole = gathered(kernel.astype(x.dtype))
    by_x = jnp.einsum(
        f"{of_out},{of_kernel}->{of_x}",
        cotangent,
        whole,
        out_sharding=_placed(_axes(x), x, cotangent),
    )
    by_kernel = jnp.einsum(
        f"{of_x},{of_out}->{of_kernel}",
        x,
        cotangent,
        out_sharding=_placed(_axes(kernel), kernel, cotangent),
        preferred_element_type=jnp.float32,
    )
    return by_x, by_kernel.astype(kernel.dtype)


_product.defvjp(_forward, _backward)


def _axes(array: Array) -> list[Any]:
    """The mesh axes that split each axis of an array; None where none does."""
    spec = jax.typeof(array).sharding.spec
    return [*spec, *[None] * (array.ndim - len(spec))]


def _placed(axes: list[Any], *arrays: Array) -> PartitionSpec | None:
    """These axes, where one of the arrays lies on a mesh."""
    alone = all(jax.typeof(array).sharding.mesh.empty for array in arrays)
    return None if alone else PartitionSpec(*axes)
