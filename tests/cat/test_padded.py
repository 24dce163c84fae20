"""Right-padded rows against loops over their real tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cat.padded import last_and_mean, places, repeat

RNG = np.random.default_rng(2)
LENGTHS = np.array([3, 1, 5, 0], np.int32)
HIDDEN = RNG.normal(size=(4, 5, 6)).astype(np.float32)


def test_places_number_the_tokens_and_mark_the_real_ones():
    positions, segments = places(jnp.zeros((4, 5), jnp.int32), jnp.asarray(LENGTHS))
    for row, length in enumerate(LENGTHS):
        assert positions[row].tolist() == [0, 1, 2, 3, 4]
        assert segments[row].tolist() == [1] * length + [0] * (5 - length)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_last_and_mean_equal_the_loop(dtype):
    """Pads hold NaN here: nothing of them may be read. The mean is float32 for any dtype."""
    hidden = np.array(jnp.asarray(HIDDEN, dtype).astype(jnp.float32))
    poisoned = hidden.copy()
    for row, length in enumerate(LENGTHS):
        poisoned[row, length:] = np.nan
    last, mean = last_and_mean(jnp.asarray(poisoned, dtype), jnp.asarray(LENGTHS))
    assert (last.dtype, mean.dtype) == (dtype, jnp.float32)
    for row, length in enumerate(LENGTHS[:3]):
        np.testing.assert_array_equal(np.asarray(last[row], np.float32), hidden[row, length - 1])
        np.testing.assert_allclose(mean[row], hidden[row, :length].mean(0), rtol=0, atol=1e-6)
    assert not np.asarray(last[3], np.float32).any()
    assert not mean[3].any(), "a filler row has no tokens"


def test_repeat_puts_copies_side_by_side_and_leaves_scalars():
    tree = {"rows": jnp.asarray(HIDDEN), "index": jnp.int32(4)}
    wide = jax.jit(repeat, static_argnums=1)(tree, 3)
    np.testing.assert_array_equal(wide["rows"], np.repeat(HIDDEN, 3, axis=0))
    assert wide["index"] == 4
    assert repeat(tree, 1)["rows"] is tree["rows"]
