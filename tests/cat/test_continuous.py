"""Refilled batches against fixed ones, stop strings, and what is compiled."""

import jax
import numpy as np
import pytest
import rigged
from flax import nnx

from cat import continuous
from cat import mesh as meshes
from cat.config import ModelConfig
from cat.continuous import generate_continuous, sampled_answers
from cat.decode import generate_all
from cat.inflight import admit, advance
from cat.models.decoder import Decoder
from cat.sampling import Sampling
from cat.stop import Stop
from routers.errors import InputError

EOS, V, K, N = 2, 13, 4, 7
CONFIG = ModelConfig(
    width=16, layers=1, heads=4, kv_heads=2, head_dim=4, ffn=24, vocab_size=V, tied_embeddings=False
)
RNG = np.random.default_rng(3)
PROMPTS = [RNG.integers(3, V, n).tolist() for n in (5, 11, 1, 8, 3, 9, 2, 6, 13, 4, 1)]
HOW = dict(max_new=N, eos_id=EOS, topk=K)
DRAWN = dict(sampling=Sampling(1.3, top_k=9, top_p=0.95), key=jax.random.key(4), samples=2)


@pytest.fixture(autouse=True)
def one_device():
    with jax.set_mesh(meshes.make_mesh(data=1)):
        yield


@pytest.fixture(scope="module")
def model():
    model = Decoder(CONFIG, rngs=nnx.Rngs(16))
    model.head.kernel.set_value(model.head.kernel[...] * 3)
    return model


@pytest.fixture(scope="module")
def countdown():
    return rigged.countdown()


@pytest.fixture(scope="module")
def drawn(model):
    with jax.set_mesh(meshes.make_mesh(data=1)):
        return generate_all(model, PROMPTS, batch_size=22, **HOW, **DRAWN)


def same(got, want, atol=2e-5):
    np.testing.assert_array_equal(got.tokens, want.tokens)
    np.testing.assert_array_equal(got.lengths, want.lengths)
    for mine, theirs in zip(jax.tree.leaves(got[2:]), jax.tree.leaves(want[2:]), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=atol)


def test_equals_fixed_batches(model):
    how = HOW | {"eos_id": (EOS, 5)}  # any of several ids ends a row
    got = generate_continuous(model, PROMPTS, batch_size=4, **how)
    want = generate_all(model, PROMPTS, batch_size=4, **how)
    assert len(set(want.lengths.tolist())) > 2, "rows end at different times"
    same(got, want)


def test_draws_equal_those_of_fixed_batches(model, drawn, monkeypatch):
    """Whatever batch a query is in, and however the steps fall into dispatches."""
    monkeypatch.setattr(continuous, "STEPS", 3)
    calls = []
    got = generate_continuous(
        model, PROMPTS, batch_size=4, **HOW, **DRAWN, progress=lambda *c: calls.append(c)
    )
    same(got, drawn)
    assert calls[-1] == (11, 11)
    assert calls == sorted(calls)


def test_eight_devices_equal_one(model, drawn):
    """16 rows take the 8 short prompts, 2 samples each; the longer ones come when 6 are free."""
    with jax.set_mesh(meshes.make_mesh(4, 2)):
        shared = meshes.shard_params(model)
        same(generate_continuous(shared, PROMPTS, batch_size=16, **HOW, **DRAWN), drawn)


def test_compiles_once_per_power_of_two(model):
    """Widths 8 and 16, any number of prompts in any order, another floor and another key."""
    for compiled in (advance, admit):
        compiled.clear_cache()
    for prompts in (PROMPTS, PROMPTS[::-1] + PROMPTS[:5], PROMPTS[:2]):
        generate_continuous(model, prompts, batch_size=4, **HOW)
    assert advance._cache_size() == 2
    assert admit._cache_size() == 2


def test_rows_that_end_make_room(countdown, monkeypatch):
    """Answers of 1 and of 9 tokens in turn: fixed batches of two pay 9 steps for each pair."""
    steps = []

    def counted(*args, **kwargs):
        out = advance(*args, **kwargs)
        steps.append(int(np.max(out[2].counts)))
        return out

    monkeypatch.setattr(continuous, "advance", counted)
    prompts = [[3], [11]] * 6
    out = generate_continuous(countdown, prompts, max_new=12, eos_id=EOS, topk=1, batch_size=2)
    assert out.lengths.tolist() == [1, 9] * 6
    assert all(row[:9].tolist() == [10, 9, 8, 7, 6, 5, 4, 3, 2] for row in out.tokens[1::2])
    tokens = sum(out.lengths)
    assert tokens == 60
    # two rows always at work, but for the last answer's end
    assert tokens / 2 <= sum(steps) <= tokens / 2 + 9 < 6 * 9


def letters(ids):
    """Tokens as one, two or three letters, so that strings cross their borders."""
    return "".join(chr(ord("a") + int(i)) * (1 + int(i) % 3) for i in ids if i != EOS)


@pytest.mark.parametrize("steps", [1, 8])
def test_stop_strings_end_rows(countdown, steps, monkeypatch):
    """12 is answered 11 10 9 8 ..., that is lll kk j iii; the token that completes one is in."""
    monkeypatch.setattr(continuous, "STEPS_WITH_STOP", steps)
    prompts = [[12], [9], [5], [5, 11], [15]]
    stop = Stop(("ji", "hhg", "never"), letters)
    sizes = dict(max_new=8, eos_id=EOS, topk=2, batch_size=2)
    got = generate_continuous(countdown, prompts, stop=stop, **sizes)
    answers = [row[:n].tolist() for row, n in zip(got.tokens, got.lengths, strict=True)]
    assert answers == [
        [11, 10, 9, 8], [8, 7, 6], [4, 3, 2], [10, 9, 8], [14, 13, 12, 11, 10, 9, 8],
    ]  # fmt: skip
    texts = [stop.before(letters(ids)) for ids in answers]
    assert texts == ["lllkk", "iii", "eed", "kk", "ooonnmlllkk"]

    whole = generate_all(countdown, prompts, **sizes)
    kept = np.arange(8) < got.lengths[:, None]
    np.testing.assert_array_equal(got.tokens, np.where(kept, whole.tokens, 0))
    for mine, theirs in zip(got.statistics, whole.statistics, strict=True):
        real = kept.reshape(*kept.shape, *[1] * (mine.ndim - 2))
        np.testing.assert_allclose(mine, np.where(real, theirs, 0), rtol=0, atol=2e-6)
    # this model's hidden state is its last token, one-hot of 16, normed
    for row, (prompt, n) in enumerate(zip(prompts, got.lengths, strict=True)):
        want = np.zeros(16)
        want[prompt[-1] - n + 1 : prompt[-1] + 1] = (1 / 16 + 1e-6) ** -0.5 / n
        np.testing.assert_allclose(got.response_embedding[row], want, rtol=0, atol=2e-6)


def test_sampled_answers_are_texts_by_prompt(model, drawn):
    texts = [letters(row[:n]) for row, n in zip(drawn.tokens, drawn.lengths, strict=True)]
    how = dict(max_new=N, eos_id=EOS, batch_size=4, **DRAWN)
    got = sampled_answers(model, PROMPTS, letters, **how)
    assert got == [texts[i : i + 2] for i in range(0, 22, 2)]
    cut = sampled_answers(model, PROMPTS, letters, stop=("ii", "l"), **how)
    ends = [min(t.find(s) if s in t else len(t) for s in ("ii", "l")) for t in texts]
    want = [text[:end] for text, end in zip(texts, ends, strict=True)]
    assert [text for texts in cut for text in texts] == want != texts


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"prompts": []}, "0 prompts"),
        ({"max_new": 0}, "max response tokens is 0"),
        ({"topk": V + 1}, "topk=14"),
        ({"samples": 3}, "3 greedy responses would all be equal"),
        ({"sampling": Sampling(1.0)}, "has no key"),
        ({**DRAWN, "samples": 5}, "no room for 5 samples"),
    ],
)
def test_sizes_that_cannot_be(model, changes, says):
    arguments = {"prompts": PROMPTS, "batch_size": 4, **HOW, **changes}
    with pytest.raises(InputError, match=says):
        generate_continuous(model, **arguments)


def test_batch_that_does_not_divide_over_the_mesh(model):
    with (
        jax.set_mesh(meshes.make_mesh()),
        pytest.raises(InputError, match="12 rows does not divide over 8"),
    ):
        generate_continuous(model, PROMPTS, batch_size=12, **HOW)
