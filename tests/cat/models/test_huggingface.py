"""Checkpoint folders against the golden files that transformers wrote, and against bad input."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden import weights

from cat import mesh as meshes
from cat.decode import generate_all
from cat.models import huggingface

CLOSE = 2e-5  # maximum absolute difference of float32 logits
NAMES = weights.names()


@pytest.fixture(autouse=True)
def one_device():
    with jax.set_mesh(meshes.make_mesh(data=1)):
        yield


@pytest.fixture(scope="module", params=NAMES)
def golden(request, tmp_path_factory):
    """A golden file's name, its checkpoint folder and the decoder loaded from it."""
    folder = weights.write_checkpoint(request.param, tmp_path_factory.mktemp(request.param))
    with jax.set_mesh(meshes.make_mesh(data=1)):
        return request.param, folder, huggingface.load(folder)


@jax.jit
def logits(model, tokens, positions, segments):
    return model.unembed(model.hidden(tokens, positions, segments).hidden)


def rows(first, second):
    """Tokens, positions, segments: right-padded, left-padded, left-padded, packed."""
    a, b = len(first), len(second)
    width = a + b
    table = [
        [(0, 0)] * 0 + place(first, 1) + [(0, 0, 0)] * b,
        [(0, 0, 0)] * b + place(first, 1),
        [(0, 0, 0)] * a + place(second, 1),
        place(first, 1) + place(second, 2),
    ]
    array = np.asarray(table, np.int32)
    assert array.shape == (4, width, 3)
    return tuple(jnp.asarray(array[:, :, i]) for i in range(3))


def place(text, segment):
    return [(token, position, segment) for position, token in enumerate(text)]


def test_logits_of_plain_padded_and_packed_rows_equal_transformers(golden):
    name, _, model = golden
    first, second = weights.about(name)["texts"]
    expected = weights.logits(name)
    a = len(first)
    plain, left_a, left_b, packed = np.asarray(logits(model, *rows(first, second)))
    pads = len(first) - len(second)
    for got, wanted in [
        (plain[:a], expected["text0"]),
        (left_a[-a:], expected["padded"][0]),
        (left_b[a:], expected["padded"][1, pads:]),
        (packed[:a], expected["text0"]),
        (packed[a:], expected["text1"]),
    ]:
        np.testing.assert_allclose(got, wanted, rtol=0, atol=CLOSE)
    assert np.abs(expected["text0"]).max() > 1  # a model that answers 0 would not be close


def test_greedy_tokens_equal_transformers(golden):
    name, _, model = golden
    about = weights.about(name)
    new, never = len(about["greedy"][0]), model.config.vocab_size
    out = generate_all(model, about["texts"], max_new=new, eos_id=never, topk=1, batch_size=2)
    assert out.tokens.tolist() == about["greedy"]


def test_export_and_reload_are_identical(golden, tmp_path):
    _, folder, model = golden
    huggingface.save(model, tmp_path / "out", like=folder)
    again = huggingface.load(tmp_path / "out")
    assert again.config == model.config
    for path, value in nnx.to_flat_state(nnx.state(model)):
        np.testing.assert_array_equal(value[...], dict(nnx.to_flat_state(nnx.state(again)))[path][...])
