"""Generation against recomputing every prefix, and a model rigged to stop on time."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rigged
from flax import nnx

from cat import mesh as meshes
from cat.config import ModelConfig
from cat.decode import forced_all, generate, generate_all
from cat.models.cache import empty_cache
from cat.models.decoder import Decoder
from cat.sampling import Sampling, truncate
from cat.statistics import statistics
from routers.errors import InputError

EOS, V, K, N = 2, 13, 4, 6
CONFIG = ModelConfig(
    width=16, layers=1, heads=4, kv_heads=2, head_dim=4, ffn=24, vocab_size=V, tied_embeddings=False
)
RNG = np.random.default_rng(3)
PROMPTS = [RNG.integers(3, V, n).tolist() for n in (5, 11, 1, 8, 3, 9, 2)]
HOW = dict(max_new=N, eos_id=EOS, topk=K)
DRAWN = dict(sampling=Sampling(1.2, top_k=9, top_p=0.9), key=jax.random.key(4), samples=2)


@pytest.fixture(autouse=True)
def one_device():
    with jax.set_mesh(meshes.make_mesh(data=1)):
        yield


@pytest.fixture(scope="module")
def model():
    """Random, with a head large enough that argmaxes are not near-ties."""
    model = Decoder(CONFIG, rngs=nnx.Rngs(11))
    model.head.kernel.set_value(model.head.kernel[...] * 3)
    return model


@pytest.fixture(scope="module")
def countdown():
    return rigged.countdown()


@jax.jit
def forward(model, tokens):
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    hidden = model.hidden(tokens, positions, jnp.ones_like(tokens)).hidden
    return hidden, model.unembed(hidden)


def whole(model, ids):
    """Hidden states and logits of one sequence, float64, without cache or batch.

    Pads after it cannot be seen, and save a compilation per length.
    """
    padded = np.array([[*ids] + [0] * (20 - len(ids))], np.int32)
    return [np.asarray(a, np.float64)[0, : len(ids)] for a in forward(model, padded)]


def naive(model, prompt, choose=lambda logits, n: int(np.argmax(logits))):
    """One prompt, no cache, no batch: recompute the prefix for every token, in float64."""
    prefix, rows = list(prompt), []
    for n in range(N):
        hidden, logits = (a[-1] for a in whole(model, prefix))
        logp = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
        token = choose(logits, n)
        rows.append(
            (token, logp[token], -(np.exp(logp) * logp).sum(), np.sort(logp)[::-1][:K], hidden)
        )
        prefix.append(token)
        if token == EOS:
            break
    tokens, logprob, entropy, topk, hidden = map(np.array, zip(*rows, strict=True))
    prompt_hidden = whole(model, prompt)[0]
    return tokens, logprob, entropy, topk, prompt_hidden.mean(0), hidden.mean(0)


def close(got, expected, atol=2e-5):
    np.testing.assert_allclose(got, expected, rtol=0, atol=atol)


def check_row(out, row, expected):
    tokens, logprob, entropy, topk, prompt_mean, response_mean = expected
    n = int(out.lengths[row])
    assert n == len(tokens)
    np.testing.assert_array_equal(out.tokens[row], np.pad(tokens, (0, N - n)))
    close(out.statistics.logprob[row], np.pad(logprob, (0, N - n)))
    close(out.statistics.entropy[row], np.pad(entropy, (0, N - n)))
    close(out.statistics.topk_logprob[row], np.pad(topk, ((0, N - n), (0, 0))))
    close(out.prompt_embedding[row], prompt_mean)
    close(out.response_embedding[row], response_mean)


@pytest.fixture(scope="module")
def expected(model):
    return [naive(model, prompt) for prompt in PROMPTS]


def test_equals_recomputing_every_prefix_in_the_given_order(model, expected):
    calls = []
    out = generate_all(model, PROMPTS, batch_size=3, progress=lambda *c: calls.append(c), **HOW)
    assert out.tokens.shape == (len(PROMPTS), N)
    for row, want in enumerate(expected):
        check_row(out, row, want)
    assert calls == [(3, 7), (6, 7), (7, 7)]


def test_a_batch_of_one(model, expected):
    check_row(generate_all(model, PROMPTS[:1], batch_size=1, **HOW), 0, expected[0])


def test_some_rows_end_and_some_are_cut(expected):
    """Otherwise the test above would not see either case."""
    lengths = [len(want[0]) for want in expected]
    assert any(want[0][-1] == EOS for want in expected)
    assert any(n == N and want[0][-1] != EOS for n, want in zip(lengths, expected, strict=True))


def test_eight_devices_equal_one(model, expected):
    with jax.set_mesh(meshes.make_mesh(4, 2)):
        out = generate_all(meshes.shard_params(model), PROMPTS, batch_size=8, **HOW)
        batch = meshes.shard_batch((np.ones((8, 8), np.int32), np.full(8, 3, np.int32)))
        typed = generate(meshes.shard_params(model), *batch, **HOW)
        for array in jax.tree.leaves(typed):
            assert jax.typeof(array).sharding.spec[0] == ("data", "fsdp")
    for row, want in enumerate(expected):
        check_row(out, row, want)


def chooser(query, sample):
    """Draw number n of a sample of a query, by its own key."""

    def choose(logits, n):
        key = DRAWN["key"]
        for number in (query, sample, n):
            key = jax.random.fold_in(key, number)
        kept = truncate(jnp.asarray(logits, jnp.float32)[None], DRAWN["sampling"])[0]
        return int(jax.random.categorical(key, kept))

    return choose


@pytest.fixture(scope="module")
def drawn(model):
    return [naive(model, prompt, chooser(i, j)) for i, prompt in enumerate(PROMPTS) for j in (0, 1)]


def test_draws_equal_recomputing_every_prefix(model, drawn):
    """Two samples of each prompt, side by side; statistics are of the untruncated law."""
    out = generate_all(model, PROMPTS, batch_size=6, **HOW, **DRAWN)
    assert out.tokens.shape == (2 * len(PROMPTS), N)
    for row, want in enumerate(drawn):
        check_row(out, row, want)
    assert any((out.tokens[i] != out.tokens[i + 1]).any() for i in range(0, 14, 2))


def test_draws_do_not_depend_on_the_batch(model, drawn):
    """Not on its size, nor on how many samples there are: one sample is the first of two."""
    out = generate_all(model, PROMPTS, batch_size=7, **HOW, **{**DRAWN, "samples": 1})
    for row, want in enumerate(drawn[::2]):
        check_row(out, row, want)


def test_forced_on_draws_gives_their_statistics(model):
    out = generate_all(model, PROMPTS, batch_size=7, **HOW, **{**DRAWN, "samples": 1})
    responses = [row[:n].tolist() for row, n in zip(out.tokens, out.lengths, strict=True)]
    given = forced_all(model, PROMPTS, responses, topk=K, batch_size=7)
    for got, want in zip(given.statistics, out.statistics, strict=True):
        close(got[:, :N], want)
    assert not given.hit[:, :N][np.arange(N) < out.lengths[:, None]].all(), (
        "draws are not all argmaxes"
    )


def test_eight_devices_draw_as_one(model, drawn):
    with jax.set_mesh(meshes.make_mesh(4, 2)):
        out = generate_all(meshes.shard_params(model), PROMPTS, batch_size=16, **HOW, **DRAWN)
    for row, want in enumerate(drawn):
        check_row(out, row, want)


def test_one_copy_of_the_cache_in_the_loop():
    """A layer more adds its slots to the temporaries once: they are written in place."""
    rows, new, temporaries = 8, 2000, []
    arguments = jnp.zeros((rows, 8), jnp.int32), jnp.zeros(rows, jnp.int32)
    for layers in (1, 2):
        config = dataclasses.replace(CONFIG, layers=layers)
        model = nnx.eval_shape(lambda config=config: Decoder(config, rngs=nnx.Rngs(0)))
        made = generate.lower(model, *arguments, max_new=new, eos_id=EOS, topk=1).compile()
        temporaries.append(made.memory_analysis().temp_size_in_bytes)
    slots = jax.eval_shape(lambda: empty_cache(CONFIG, rows, 8 + new - 1)).layers
    layer = sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(slots))
    assert 0.9 * layer < temporaries[1] - temporaries[0] < 1.5 * layer


@pytest.mark.parametrize(("start", "length"), [(3, 1), (4, 2), (7, 5), (8, 6), (9, 6), (15, 6)])
def test_counts_down_to_end_of_sequence(countdown, start, length):
    """Ends at the known step; end-of-sequence is part of the response; longer rows are cut."""
    out = generate_all(countdown, [[5, start], [3]], batch_size=2, **HOW)
    answer = [*range(start - 1, start - 1 - length, -1)]
    assert out.tokens[0].tolist() == answer + [0] * (N - length)
    assert out.lengths.tolist() == [length, 1]
    assert (out.tokens[0, length - 1] == EOS) == (start <= 8)
    assert (out.statistics.logprob[0, :length] < 0).all()
    assert (out.statistics.logprob[0, length:] == 0).all()


def test_loop_stops_when_every_row_has_ended(countdown):
    """Steps are counted by the slots written: fillers and ended rows must not keep it going."""
    steps = []

    class Counting(Decoder):
        def hidden(self, tokens, positions, segments, cache=None):
            jax.debug.callback(lambda: steps.append(tokens.shape[1]))
            return super().hidden(tokens, positions, segments, cache)

    counting = Counting(countdown.config, rngs=nnx.Rngs(0))
    nnx.update(counting, nnx.state(countdown))
    prompts = np.array([[5, 6], [4, 0], [0, 0]], np.int32)  # 5 more tokens, 2 tokens, filler
    out = generate(counting, prompts, np.array([2, 1, 0], np.int32), max_new=40, eos_id=EOS, topk=1)
    jax.effects_barrier()
    assert out.lengths.tolist() == [4, 2, 0]
    assert steps == [2, 1, 1, 1], "N tokens need one prefill and N - 1 steps"


def test_forced_on_its_own_response_gives_the_same_statistics(model):
    out = generate_all(model, PROMPTS, batch_size=3, **HOW)
    responses = [row[:n].tolist() for row, n in zip(out.tokens, out.lengths, strict=True)]
    given = forced_all(model, PROMPTS, responses, topk=K, batch_size=3)
    for row, n in enumerate(out.lengths):
        assert given.hit[row, :n].all()
        assert not given.hit[row, n:].any()
    for got, want in zip(given.statistics, out.statistics, strict=True):
        close(got[:, :N], want)
        assert (got[:, N:] == 0).all()


def test_forced_on_other_responses_equals_whole_rows(model):
    responses = [RNG.integers(0, V, n).tolist() for n in (3, 1, 8, 2, 4, 6, 5)]
    given = forced_all(model, PROMPTS, responses, topk=K, batch_size=3)
    hits = 0
    for row, (prompt, response) in enumerate(zip(PROMPTS, responses, strict=True)):
        logits = whole(model, prompt + response)[1]
        for n, token in enumerate(response):
            z = logits[len(prompt) + n - 1]
            logp = z - np.log(np.exp(z).sum())
            close(given.statistics.logprob[row, n], logp[token])
            close(given.statistics.topk_logprob[row, n], np.sort(logp)[::-1][:K])
            assert given.hit[row, n] == (np.argmax(z) == token)
            hits += given.hit[row, n]
    assert 0 < hits < sum(map(len, responses))


def test_statistics_at_the_extremes():
    """A certain token has entropy 0, not NaN; a uniform one log V; -inf logits are allowed."""
    logits = jnp.array([[1000.0, 0.0, 0.0], [2.0, 2.0, 2.0], [0.0, 0.0, -jnp.inf]])
    got = statistics(logits, jnp.array([0, 1, 0]), 3)
    close(got.entropy, [0, np.log(3), np.log(2)], 1e-6)
    close(got.logprob, [0, -np.log(3), -np.log(2)], 1e-6)
    assert got.topk_logprob[2, 2] == -np.inf


def test_statistics_are_float32_for_lower_precision_logits():
    got = statistics(jnp.zeros((1, 7), jnp.bfloat16), jnp.array([3]), 1)
    assert got.logprob.dtype == got.entropy.dtype == jnp.float32
    close(got.logprob, [-np.log(7)], 1e-6)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"topk": V + 1}, "topk=14"),
        ({"max_new": 0}, "max response tokens is 0"),
        ({"prompts": []}, "0 prompts"),
        ({"prompts": [[3], []]}, "shortest 0 tokens"),
        ({"batch_size": 0}, "batch size 0"),
        ({"samples": 3}, "3 greedy responses would all be equal"),
        ({"sampling": Sampling(1.0)}, "has no key"),
        ({**DRAWN, "samples": 5}, "no room for 5 samples .* use at least 5"),
    ],
)
def test_sizes_that_cannot_be(model, changes, says):
    arguments = {"prompts": PROMPTS, "batch_size": 4, **HOW, **changes}
    with pytest.raises(InputError, match=says) as error:
        generate_all(model, **arguments)
    assert "\n" not in str(error.value)


def test_batch_that_does_not_divide_over_the_mesh(model):
    with (
        jax.set_mesh(meshes.make_mesh()),
        pytest.raises(InputError, match="12 rows does not divide over 8"),
    ):
        generate_all(model, PROMPTS, batch_size=12, **HOW)


@pytest.mark.parametrize("responses", [[[3]], [[3]] * 6 + [[]]])
def test_forced_needs_one_response_each(model, responses):
    with pytest.raises(InputError, match="one response of at least one token"):
        forced_all(model, PROMPTS, responses, topk=K, batch_size=4)


def test_any_of_several_ids_ends_a_response(countdown):
    """7 counts down to 2; with 4 among the ends it stops there, and 4 belongs to it."""
    how = dict(max_new=8, topk=2, batch_size=2)
    out = generate_all(meshes.shard_params(countdown), [[7], [4]], eos_id=(2, 4), **how)
    answers = [row[:n].tolist() for row, n in zip(out.tokens, out.lengths, strict=True)]
    assert answers == [[6, 5, 4], [3, 2]]
