"""Scoring: one complete, consistent row of Records per example."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from cat import mesh as meshes
from cat.config import ModelConfig
from cat.decode import forced_all, generate_all
from cat.example import Example
from cat.flops import forward_flops
from cat.models.decoder import Decoder
from cat.score import score
from cat.tokenizers import train
from routers.errors import InputError
from routers.records import Records, read, write
from routers.schema import COLUMNS

EXAMPLES = [
    Example("c", "copy", "copy abc", "abc"),
    Example("a", "copy", "copy b", "b"),
    Example("r", "reverse", "reverse abca", "acba", references=("acba", "ab")),
    Example("e", "copy", "copy", ""),
]
TOKENIZER = train("characters", [e.prompt + e.target for e in EXAMPLES])
CONFIG = ModelConfig(
    width=16, layers=1, heads=2, kv_heads=2, head_dim=8, ffn=24, vocab_size=TOKENIZER.vocab_size
)
HOW = dict(
    model_name="small", split="test", metric="exact_match", max_response_tokens=5, topk=3,
    batch_size=2,
)  # fmt: skip


@pytest.fixture(autouse=True)
def one_device():
    with jax.set_mesh(meshes.make_mesh(data=1)):
        yield


@pytest.fixture(scope="module")
def model():
    return Decoder(CONFIG, rngs=nnx.Rngs(5))


@pytest.fixture(scope="module")
def table(model):
    with jax.set_mesh(meshes.make_mesh(data=1)):
        return score(model, CONFIG, EXAMPLES, TOKENIZER, **HOW)


def prompts_and_references():
    bos, sep, eos = TOKENIZER.bos, TOKENIZER.sep, TOKENIZER.eos
    prompts = [[bos, *TOKENIZER.encode(e.prompt), sep] for e in EXAMPLES]
    return prompts, [[*TOKENIZER.encode(e.target), eos] for e in EXAMPLES]


def test_columns_and_types_are_those_of_records(table):
    unknown = {"latency_s", "dollars", "sampled_responses"}  # a model does not tell these
    told = {name: kind for name, kind in COLUMNS.items() if name not in unknown}
    assert dict(zip(table.schema.names, table.schema.types, strict=True)) == told
    assert table["query_id"].to_pylist() == ["c", "a", "r", "e"]
    assert set(table["model"].to_pylist()) == {"small"}
    assert set(table["split"].to_pylist()) == {"test"}
    assert not any(column.null_count for column in table.columns)


def test_survives_the_checks_of_records_and_a_round_trip(table, tmp_path):
    write(tmp_path / "small.parquet", Records(table))
    assert read([tmp_path / "small.parquet"]).table.equals(table)


def test_own_columns_equal_generation(model, table):
    prompts = prompts_and_references()[0]
    out = generate_all(model, prompts, max_new=5, eos_id=TOKENIZER.eos, topk=3, batch_size=2)
    for row, prompt in enumerate(prompts):
        n = int(out.lengths[row])
        got = {name: table[name][row].as_py() for name in table.column_names}
        assert got["response"] == TOKENIZER.decode(out.tokens[row, :n])
        assert (got["prompt_tokens"], got["response_tokens"]) == (len(prompt), n)
        assert got["flops"] == float(forward_flops(CONFIG, len(prompt), n))
        for name, values in (
            ("token_logprob", out.statistics.logprob),
            ("token_entropy", out.statistics.entropy),
            ("topk_logprob", out.statistics.topk_logprob),
        ):
            np.testing.assert_allclose(got[name], values[row, :n], rtol=0, atol=1e-5, err_msg=name)
        for name in ("prompt_embedding", "response_embedding"):
            np.testing.assert_allclose(got[name], getattr(out, name)[row], rtol=0, atol=1e-5)


def test_forced_columns_cover_the_reference_and_its_end(model, table):
    prompts, references = prompts_and_references()
    given = forced_all(model, prompts, references, topk=3, batch_size=2)
    for row, reference in enumerate(references):
        n = len(reference)
        assert table["forced_hit"][row].as_py() == given.hit[row, :n].tolist()
        for name, values in (
            ("forced_logprob", given.statistics.logprob),
            ("forced_topk_logprob", given.statistics.topk_logprob),
        ):
            got = table[name][row].as_py()
            np.testing.assert_allclose(got, values[row, :n], rtol=0, atol=1e-5, err_msg=name)


def test_quality_is_that_of_the_decoded_response(model, table):
    """Whatever the model answers becomes the reference: quality 1; with more text: 0."""
    answers = table["response"].to_pylist()
    targets = [answers[0], answers[1] + " b", answers[2], answers[3] + " b"]
    easy = [
        dataclasses.replace(e, target=t, references=())
        for e, t in zip(EXAMPLES, targets, strict=True)
    ]
    again = score(model, CONFIG, easy, TOKENIZER, **HOW)
    assert again["quality"].to_pylist() == [1.0, 0.0, 1.0, 0.0]
    assert again["response"].to_pylist() == answers


def test_progress_counts_examples(model):
    calls = []
    score(model, CONFIG, EXAMPLES, TOKENIZER, progress=lambda *c: calls.append(c), **HOW)
    assert calls == [(2, 4), (4, 4)]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"examples": [EXAMPLES[0]] * 2}, "share an id"),
        ({"examples": []}, "0 prompts"),
        ({"model_config": dataclasses.replace(CONFIG, vocab_size=7)}, "tokenizer has"),
        ({"topk": 99}, "topk=99"),
        ({"metric": "exactmatch"}, "exactmatch"),
    ],
)
def test_bad_input_is_one_line(model, changes, says):
    arguments = {
        "model": model, "model_config": CONFIG, "examples": EXAMPLES, "tokenizer": TOKENIZER,
        **HOW, **changes,
    }  # fmt: skip
    with pytest.raises(InputError, match=says) as error:
        score(**arguments)
    assert "\n" not in str(error.value)
