"""Speculative responses: their exact law, the greedy limit, cache roll-back, one row or many.

The law of a response is enumerated: pi at every prefix, from whole forward passes and the
rules' plain loops (``token_oracle``). A run passes if chi-square against it has p > 1e-4 (an
honest sampler would fail one of these tests with one seed in some 300; the seeds are fixed),
and the negative controls show that a wrong acceptance or residual does not.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import token_oracle
from flax import nnx

from cat import mesh as meshes
from cat import token_rules, verify
from cat.batching import pad
from cat.config import ModelConfig
from cat.decode import generate_all
from cat.models.decoder import Decoder
from cat.speculative import speculate, speculate_all
from cat.speculative_cost import round_starts, speculative_cost
from routers.errors import InputError

V, N, EOS, NEVER = 4, 4, 2, 4
PROMPTS = [[3], [1, 0, 3, 2, 1]]
SAMPLES = 2_500  # of each prompt
LEAST = 1e-4

RULES = {
    "lossless": (),
    "lossy": (0.4,),
    "chow": (0.45,),
    "diff": (0.05,),
    "opt": (0.5,),
    "token_v1": (0.25,),
    "token_v2": (0.2,),
    "token_v3": (0.4,),
    "bild": (0.45, 1.2),
    "co_llm": (0.5,),
    "citer": (0.5,),
}


def any_rule(pair, number, thresholds):
    """The rule of this number in ``RULES``: one compilation serves them all."""

    def call(name, width):
        return lambda pair, given: getattr(token_rules, name)(pair, *given[:width])

    rules = [call(name, len(usual)) for name, usual in RULES.items()]
    return jax.lax.switch(number, rules, pair, thresholds)


def chosen(name, thresholds):
    """``rule`` and ``thresholds`` of a run, through ``any_rule``."""
    padded = (*thresholds, 0.0, 0.0)[:2]
    return dict(rule=any_rule, thresholds=([*RULES].index(name), padded))


@pytest.fixture(autouse=True)
def one_device():
    with jax.set_mesh(meshes.make_mesh(data=1)):
        yield


def random_model(width, layers, seed, vocabulary=V, sharp=2.0):
    config = ModelConfig(
        width=width, layers=layers, heads=2, kv_heads=1, head_dim=4, ffn=16,
        vocab_size=vocabulary, tied_embeddings=False,
    )  # fmt: skip
    model = Decoder(config, rngs=nnx.Rngs(seed))
    model.head.kernel.set_value(model.head.kernel[...] * sharp)
    return model


@pytest.fixture(scope="module")
def small():
    return random_model(8, 1, 0)


@pytest.fixture(scope="module")
def large():
    return random_model(12, 2, 1)


@pytest.fixture(scope="module")
def gate():
    return nnx.Linear(8, 1, rngs=nnx.Rngs(2))


@jax.jit
def forward(model, tokens):
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    hidden = model.hidden(tokens, positions, jnp.ones_like(tokens)).hidden
    return hidden, model.unembed(hidden)


@pytest.fixture(scope="module")
def everything(small, large, gate):
    """Per prompt: small logits, large logits and gate at every prefix of every response."""
    responses = token_oracle.every_response(V, N)
    out = []
    with jax.set_mesh(meshes.make_mesh(data=1)):
        for prompt in PROMPTS:
            rows = np.concatenate([np.tile(prompt, (len(responses), 1)), responses], axis=1)
            at = slice(len(prompt) - 1, len(prompt) + N - 1)
            rows = np.pad(rows, ((0, 0), (0, 9 - rows.shape[1]))).astype(np.int32)  # one width
            hidden, q = forward(small, rows)
            _, p = forward(large, rows)
            out.append([np.asarray(x)[:, at] for x in (q, p, gate(hidden)[..., 0])])
    return out


def law(logits, rule, thresholds, temperature):
    """Probability of each of the V^N responses: the product of pi along it."""
    q, p, gates = logits
    responses = token_oracle.every_response(V, N)

    @functools.cache
    def target(prefix):
        row = sum(v * V ** (N - 1 - n) for n, v in enumerate(prefix))
        at = row, len(prefix)
        return token_oracle.target(rule, q[at], p[at], temperature, thresholds, float(gates[at]))

    chances = [np.prod([target(tuple(r[:n]))[r[n]] for n in range(N)]) for r in responses.tolist()]
    assert abs(sum(chances) - 1) < 1e-9
    return np.array(chances)


def draw(small, large, gate, rule, thresholds, gamma, temperature, fresh=False):
    """[prompt, sample, N] responses that never end early; ``fresh``: compiled anew."""
    tokens = np.zeros((2 * SAMPLES, 8), np.int32)
    for row, prompt in enumerate(PROMPTS * SAMPLES):
        tokens[row, : len(prompt)] = prompt
    lengths = np.tile([len(p) for p in PROMPTS], SAMPLES).astype(np.int32)
    arrays = (small, large, tokens, lengths, np.arange(2 * SAMPLES, dtype=np.int32))
    sizes = dict(gamma=gamma, max_new=N, eos_id=NEVER, temperature=temperature)
    how = dict(rule=getattr(token_rules, rule), thresholds=thresholds)
    if gamma == 3 and not fresh:
        how = chosen(rule, thresholds)
    run = functools.partial(speculate, **sizes, rule=how["rule"])
    if fresh:
        run = jax.jit(functools.partial(speculate.__wrapped__, **sizes, rule=how["rule"]))
    out = run(*arrays, jax.random.key(0), thresholds=how["thresholds"], gate=gate)
    assert (np.asarray(out.lengths) == N).all()
    return np.asarray(out.tokens).reshape(SAMPLES, 2, N).swapaxes(0, 1), out


def p_value(responses, chances):
    """Chi-square with the responses that are expected fewer than 5 times as one cell."""
    counts = np.bincount(responses @ V ** np.arange(N)[::-1], minlength=V**N)
    expected = chances * len(responses)
    if counts[chances == 0].any():
        return 0.0
    often = expected >= 5
    cells = [np.append(x[often], x[~often].sum()) for x in (counts, expected)]
    cells = [x[cells[1] > 0] for x in cells]
    return scipy.stats.chisquare(*cells).pvalue if len(cells[0]) > 1 else 1.0


def p_values(everything, drawn, rule, thresholds, temperature):
    pairs = zip(drawn, everything, strict=True)
    return [p_value(r, law(logits, rule, thresholds, temperature)) for r, logits in pairs]


LAWS = [
    *((name, thresholds, 3, 1.0) for name, thresholds in RULES.items()),
    ("token_v1", (0.25,), 2, 0.6),
    *(("token_v3", (0.4,), gamma, 1.0) for gamma in (1, 2, 5)),
]


@pytest.mark.parametrize(("rule", "thresholds", "gamma", "temperature"), LAWS)
def test_responses_have_exactly_the_rules_law(
    small, large, gate, everything, rule, thresholds, gamma, temperature
):
    drawn, _ = draw(small, large, gate, rule, thresholds, gamma, temperature)
    values = p_values(everything, drawn, rule, thresholds, temperature)
    assert min(values) > LEAST, values


@pytest.mark.parametrize("other", [("lossless", ()), ("lossy", (1.0,)), ("chow", (0.45,))])
def test_the_test_tells_laws_apart(small, large, gate, everything, other):
    """What was drawn from token_v3 at .4 is neither p nor q nor what chow gives."""
    drawn, _ = draw(small, large, gate, "token_v3", (0.4,), 3, 1.0)
    assert min(p_values(everything, drawn, *other, 1.0)) < 1e-6


WRONG = {
    "accepted": lambda chance, q, target: chance * q < target**2,
    "residual": lambda q, target: target,
}


@pytest.mark.parametrize("part", WRONG)
def test_a_wrong_acceptance_or_residual_fails(monkeypatch, small, large, gate, everything, part):
    monkeypatch.setattr(verify, part, WRONG[part])
    drawn, _ = draw(small, large, gate, "token_v3", (0.4,), 3, 1.0, fresh=True)
    assert min(p_values(everything, drawn, "token_v3", (0.4,), 1.0)) < 1e-9


def test_new_thresholds_compile_nothing(small, large, gate):
    draw(small, large, gate, "token_v3", (0.4,), 3, 1.0)
    before = speculate._cache_size()
    draw(small, large, gate, "token_v3", (0.1,), 3, 1.0)
    assert speculate._cache_size() == before


def test_drafts_stay_as_often_as_total_variation_says(small, large, gate, everything):
    """The first draft of a response: frequency within 5 standard errors of sum min(q, pi)."""
    _, out = draw(small, large, gate, "lossy", (0.4,), 3, 1.0)
    first = np.asarray(out.drafted)[:, 0].reshape(SAMPLES, 2).mean(axis=0)
    for prompt, (q, p, _) in enumerate(everything):
        pair = token_rules.make_pair(jnp.array(q[0, 0]), jnp.array(p[0, 0]), 1.0)
        rate = float(verify.acceptance_rate(pair.q, token_rules.lossy(pair, 0.4)))
        assert 0.05 < rate < 0.95
        assert abs(first[prompt] - rate) < 5 * np.sqrt(rate * (1 - rate) / SAMPLES)


# -- greedy, token for token ---------------------------------------------------------------

WIDE, LONG = 13, 10
RNG = np.random.default_rng(3)
QUESTIONS = [RNG.integers(3, WIDE, n).tolist() for n in (5, 8, 1, 7, 3, 6, 2)]
GREEDY = dict(gamma=3, max_new=LONG, eos_id=EOS, temperature=0.0, batch_size=8)


@pytest.fixture(scope="module")
def wide_small():
    return random_model(8, 1, 5, WIDE, 4.0)


@pytest.fixture(scope="module")
def wide_large():
    model = random_model(8, 2, 5, WIDE, 4.0)  # the same table and head: they often agree
    bias = jnp.where(jnp.arange(WIDE) == EOS, 1.25, 1.0)  # and end now and then
    model.head.kernel.set_value(model.head.kernel[...] * bias[None, :])
    return model


def naive(small, large, prompt, rule, thresholds):
    """No cache, no batch, no drafts: both models on the whole prefix for every token."""
    prefix = list(prompt)
    while len(prefix) < len(prompt) + LONG:
        padded = np.array([prefix + [0] * (24 - len(prefix))], np.int32)
        at = 0, len(prefix) - 1
        q, p = (np.asarray(forward(model, padded)[1])[at] for model in (small, large))
        prefix.append(int(np.argmax(token_oracle.target(rule, q, p, 0.0, thresholds))))
        if prefix[-1] == EOS:
            break
    return prefix[len(prompt) :]


def greedy(small, large, rule, thresholds):
    key, how = jax.random.key(0), chosen(rule, thresholds)
    gate = nnx.Linear(8, 1, rngs=nnx.Rngs(2))
    return speculate_all(small, large, QUESTIONS, key, gate=gate, **how, **GREEDY)


def test_greedy_lossless_is_greedy_large(wide_small, wide_large):
    out = greedy(wide_small, wide_large, "lossless", ())
    alone = generate_all(wide_large, QUESTIONS, max_new=LONG, eos_id=EOS, topk=1, batch_size=8)
    np.testing.assert_array_equal(out.tokens, alone.tokens)
    np.testing.assert_array_equal(out.lengths, alone.lengths)
    assert len(set(out.lengths.tolist())) > 1, "some rows end, some are cut"
    assert 0 < out.drafted.sum() < out.lengths.sum(), "some drafts stay, some do not"


@pytest.mark.parametrize(
    ("rule", "thresholds"),
    [("diff", (0.0,)), ("bild", (0.5, 2.0)), ("bild", (0.1, 4.0)), ("token_v1", (0.3,))],
)
def test_greedy_rules_equal_recomputing_every_prefix(wide_small, wide_large, rule, thresholds):
    """Token for token: any slip in positions or in what the caches forget would show."""
    out = greedy(wide_small, wide_large, rule, thresholds)
    for row, prompt in enumerate(QUESTIONS):
        expected = naive(wide_small, wide_large, prompt, rule, thresholds)
        assert out.tokens[row, : out.lengths[row]].tolist() == expected
        assert (out.tokens[row, out.lengths[row] :] == 0).all()


# -- bookkeeping ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def countdown():
    """Emits the token before the last one: 7 is answered 6 5 4 3 2, and 2 ends."""
    model = random_model(16, 1, 0, 16)
    for silent in (model.layers[0].attention.out, model.layers[0].ffn.down):
        silent.kernel.set_value(jnp.zeros_like(silent.kernel[...]))
    model.embed.embedding.set_value(jnp.eye(16))
    model.head.kernel.set_value(jnp.eye(16, k=-1) * 2)
    return model


class Counting(Decoder):
    """Notes the width of every pass."""

    def hidden(self, tokens, positions, segments, cache=None):
        note, width = self.note, tokens.shape[1]
        jax.debug.callback(lambda: note(width))
        return super().hidden(tokens, positions, segments, cache)


def test_passes_rounds_and_origins_are_what_they_say(countdown):
    """Equal models: every draft stays, so rounds of 3 drafts and one more; 2 ends in the middle."""
    calls = {"small": [], "large": []}
    models = {}
    for name, seen in calls.items():
        models[name] = Counting(countdown.config, rngs=nnx.Rngs(0))
        nnx.update(models[name], nnx.state(countdown))
        models[name].note = seen.append
    prompts = np.array([[5, 8], [4, 0], [0, 0]], np.int32)  # 6 more tokens, 2 tokens, filler
    out = speculate(
        *models.values(), prompts, np.array([2, 1, 0], np.int32), np.arange(3, dtype=np.int32),
        jax.random.key(0), rule=token_rules.lossless, thresholds=(), gamma=3, max_new=9,
        eos_id=EOS, temperature=0.0,
    )  # fmt: skip
    jax.effects_barrier()
    assert out.tokens[:, :6].tolist() == [[7, 6, 5, 4, 3, 2], [3, 2, 0, 0, 0, 0], [0] * 6]
    assert out.lengths.tolist() == [6, 2, 0]
    assert np.flatnonzero(~out.drafted[0, :6]).tolist() == [3]
    assert np.flatnonzero(out.drafted[1]).tolist() == [0, 1]
    assert not np.asarray(out.drafted[2]).any()
    assert [np.flatnonzero(row).tolist() for row in round_starts(out)] == [[0, 4], [0], []]
    assert calls["large"] == [2, 4, 4], "one prefill, one pass a round"
    assert calls["small"] == [2, *[1] * 8], "one prefill, gamma + 1 passes a round"
    queries = jax.tree.map(lambda x: np.asarray(x)[:1], out)
    spent = speculative_cost(countdown.config, countdown.config, [2], queries, 3)
    assert [int(s.passes[0]) for s in spent] == [len(calls["small"]), len(calls["large"])]


SAMPLED = dict(
    rule=token_rules.token_v3, thresholds=(0.4,), gamma=3, max_new=LONG, eos_id=EOS, temperature=2.0
)


@pytest.fixture(scope="module")
def sampled(wide_small, wide_large):
    with jax.set_mesh(meshes.make_mesh(data=1)):
        key = jax.random.key(1)
        return speculate_all(wide_small, wide_large, QUESTIONS, key, batch_size=8, **SAMPLED)


def test_a_rows_response_is_its_own(wide_small, wide_large, sampled):
    """The key and the row's number decide, not its neighbours: alone it is the same."""
    key = jax.random.key(1)
    single = speculate_all(wide_small, wide_large, QUESTIONS, key, batch_size=1, **SAMPLED)
    for got, want in zip(single, sampled, strict=True):
        np.testing.assert_array_equal(got, want)


def test_the_key_and_the_number_make_the_response(wide_small, wide_large, sampled):
    run = functools.partial(speculate_all, wide_small, wide_large, batch_size=8, **SAMPLED)
    other = run(QUESTIONS, jax.random.key(2))
    assert not np.array_equal(other.tokens, sampled.tokens)
    repeated = run([QUESTIONS[1]] * 7, jax.random.key(1))
    assert len({tuple(row) for row in repeated.tokens.tolist()}) > 3


def test_eight_devices_equal_one(wide_small, wide_large, sampled):
    with jax.set_mesh(meshes.make_mesh(4, 2)):
        models = [meshes.shard_params(model) for model in (wide_small, wide_large)]
        batch = meshes.shard_batch((*pad(QUESTIONS, 8), np.arange(8, dtype=np.int32)))
        out = speculate(*models, *batch, jax.random.key(1), **SAMPLED)
        for array in out:
            assert jax.typeof(array).sharding.spec[0] == ("data", "fsdp")
    for got, want in zip(out, sampled, strict=True):
        np.testing.assert_array_equal(np.asarray(got)[:7], want)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"gamma": 0}, "gamma=0"),
        ({"max_new": 0}, "max_new=0"),
        ({"temperature": -0.5}, "temperature=-0.5"),
        ({"prompts": []}, "0 prompts"),
        ({"prompts": [[3], []]}, "shortest 0 tokens"),
        ({"rule": token_rules.citer, "thresholds": (0.5,)}, "gate"),
    ],
)
def test_settings_that_cannot_be(small, large, changes, says):
    arguments = {"prompts": PROMPTS, "batch_size": 2, **SAMPLED, **changes}
    with pytest.raises(InputError, match=says) as error:
        speculate_all(small, large, key=jax.random.key(0), **arguments)
    assert "\n" not in str(error.value)


def test_models_with_different_vocabularies(small, wide_large):
    with pytest.raises(InputError, match="4 tokens and the large one 13") as error:
        speculate_all(small, wide_large, PROMPTS, jax.random.key(0), batch_size=2, **SAMPLED)
    assert "\n" not in str(error.value)
