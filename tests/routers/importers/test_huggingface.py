"""Batches saved from generate(): ends of sequence in, padding out, raw logits only."""

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
from foreign import END, batch, grades, save_batch
from safetensors.numpy import save_file

from routers.errors import InputError
from routers.importers.huggingface import lengths, read
from routers.importers.options import Options

TOKENS = np.array([[1, 2, END, END, END], [3, END, 5, END, 0], [1, 2, 3, 4, 5], [END, 0, 0, 0, 0]])
LENGTHS = [3, 2, 5, 1]  # by eye
IDS = ["q1", "q2", "q3", "q4"]
COST = {"query_cost": {"small": 1.0}}
DOCS = Path(__file__).resolve().parents[3] / "docs" / "importing.md"


@pytest.fixture
def graded(tmp_path):
    return grades(tmp_path / "grades.csv", [(query, 1) for query in IDS])


def refused(path, graded) -> str:
    with pytest.raises(InputError) as caught:
        read([path], Options(quality=graded, **COST))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_tokens_up_to_the_end_count_and_padding_does_not(tmp_path, graded):
    arrays = batch(TOKENS)
    path = save_batch(tmp_path / "b.safetensors", arrays, IDS)
    rows = read([path], Options(quality=graded, parameters={"small": 10})).table.to_pylist()
    for i, row in enumerate(rows):
        n = LENGTHS[i]
        assert (row["query_id"], row["model"]) == (IDS[i], "small")
        assert row["response_tokens"] == n
        assert row["prompt_tokens"] == 3 + i
        assert row["flops"] == 20 * (3 + i + n)
        for name in ("token_logprob", "token_entropy", "topk_logprob"):
            np.testing.assert_array_equal(np.array(row[name], "f4"), arrays[name][i, :n])


@pytest.mark.parametrize("seed", range(5))
def test_lengths_against_a_loop(seed):
    rng = np.random.default_rng(seed)
    tokens, ends = rng.integers(0, 6, (20, 7)), [2, 5]
    wanted = []
    for row in tokens.tolist():
        n = 0
        for token in row:
            n += 1
            if token in ends:
                break
        wanted.append(n)
    assert lengths(tokens, ends).tolist() == wanted


def test_batches_of_several_lengths_models_and_ends(tmp_path):
    one = save_batch(tmp_path / "1.safetensors", batch(TOKENS), IDS)
    other = save_batch(
        tmp_path / "2.safetensors", batch(TOKENS[:2, :2]), [1, 2], "large", eos_token_id="[9, 2]"
    )
    rows = [(q, 1, "small") for q in IDS] + [(1, 0, "large"), (2, 0, "large")]
    graded = grades(tmp_path / "g.csv", rows, "query_id,quality,model")
    found = read(
        [one, other], Options(quality=graded, query_cost={"small": 1.0, "large": 2.0})
    ).table.to_pylist()
    assert [row["response_tokens"] for row in found] == [*LENGTHS, 2, 2]
    assert [row["query_id"] for row in found[-2:]] == ["1", "2"]
    assert (
        len(read([tmp_path], Options(quality=graded, query_cost={"small": 1.0, "large": 2.0}))) == 6
    )


def test_half_precision_and_the_model_from_the_command_line(tmp_path, graded):
    arrays = {k: v.astype("f2") if v.dtype == np.float32 else v for k, v in batch(TOKENS).items()}
    path = tmp_path / "b.safetensors"
    save_file(arrays, path, metadata={"query_id": json.dumps(IDS), "eos_token_id": "9"})
    found = read([path], Options(quality=graded, model="mine", query_cost={"mine": 1.0}))
    assert found.models == ["mine"]
    assert found.table["token_logprob"][0].as_py() == arrays["token_logprob"][0, :3].tolist()


def test_infinities_in_the_padding_do_no_harm(tmp_path, graded):
    arrays = batch(TOKENS)
    arrays["token_entropy"][0, 3:] = np.nan
    path = save_batch(tmp_path / "b.safetensors", arrays, IDS)
    assert len(read([path], Options(quality=graded, **COST))) == 4


def scores_not_logits(arrays):
    arrays["topk_logprob"][2, 1, -1] = -np.inf


def ascending(arrays):
    arrays["topk_logprob"] = np.ascontiguousarray(arrays["topk_logprob"][:, :, ::-1])


def other_batch(arrays):
    arrays["token_logprob"][0] = 0.0


def entropy_of_another_batch(arrays):
    arrays["token_entropy"] = arrays["token_entropy"][:2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (scores_not_logits, "'topk_logprob' holds infinities .*not scores"),
        (ascending, "does not descend"),
        (other_batch, "likelier than the likeliest"),
        (entropy_of_another_batch, r"'token_entropy' is \[2, 5\] beside 4 query ids"),
        (lambda a: a.pop("token_entropy"), "no tensor 'token_entropy'"),
        (lambda a: a.update(tokens=a["tokens"].astype("f4")), "'tokens' is float32"),
        (lambda a: a.update(token_logprob=a["tokens"]), "'token_logprob' is int64"),
        (lambda a: a.update(topk_logprob=a["topk_logprob"][:, :, :0]), "holds no values"),
    ],
)
def test_tensors_that_do_not_fit(tmp_path, graded, change, message):
    arrays = batch(TOKENS)
    change(arrays)
    path = save_batch(tmp_path / "b.safetensors", arrays, IDS)
    assert re.search(message, refused(path, graded))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"query_id": "q1"}, "metadata 'query_id' is missing or not JSON"),
        ({"query_id": '["q1"]'}, "beside 1 query ids"),
        ({"query_id": '[1.5, "a", "b", "c"]'}, "query_id is not texts"),
        ({"eos_token_id": '["</s>"]'}, "eos_token_id is not integers"),
        ({"eos_token_id": "[" * 5000}, "metadata 'eos_token_id' is missing or not JSON"),
    ],
)
def test_headers_that_do_not_fit(tmp_path, graded, header, message):
    path = save_batch(tmp_path / "b.safetensors", batch(TOKENS), IDS, **header)
    assert message in refused(path, graded)


@pytest.mark.parametrize("size", [4, 100, 400])
def test_truncated_files(tmp_path, graded, size):
    path = save_batch(tmp_path / "b.safetensors", batch(TOKENS), IDS)
    path.write_bytes(path.read_bytes()[:size])
    assert "not a whole safetensors file" in refused(path, graded)


def test_a_checkpoint_is_not_opened(tmp_path, graded):
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(b"PK\x03\x04...")
    assert "a pickle" in refused(path, graded)


def snippet() -> str:
    found = re.search(r"```python\n(# generate.*?)```", DOCS.read_text(encoding="utf-8"), re.S)
    assert found, "docs/importing.md has no snippet"
    return found[1]


def test_the_documented_snippet_compiles_and_saves_what_is_read():
    code = snippet()
    compile(code, "importing.md", "exec")
    assert "output_logits=True" in code
    assert "output_scores" not in code
    for name in ("tokens", "prompt_tokens", "token_logprob", "token_entropy", "topk_logprob"):
        assert f'"{name}"' in code


@pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="transformers is not installed"
)
def test_the_documented_snippet_runs(tmp_path, monkeypatch):
    import torch  # pyright: ignore[reportMissingImports]
    from transformers import GPT2Config, GPT2LMHeadModel  # pyright: ignore[reportMissingImports]

    monkeypatch.chdir(tmp_path)
    config = GPT2Config(
        vocab_size=16, n_embd=8, n_layer=1, n_head=1, n_positions=32,
        eos_token_id=END, bos_token_id=END, pad_token_id=END,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    prompt = torch.tensor([[1, 2, 3], [4, 5, 6]])
    inputs = {"input_ids": prompt, "attention_mask": torch.ones_like(prompt)}
    exec(snippet(), {"model": model, "inputs": inputs, "ids": ["q1", "q2"]})
    graded = grades(tmp_path / "g.csv", [("q1", 1), ("q2", 0)])
    path = next(tmp_path.glob("*.safetensors"))
    found = read([path], Options(quality=graded, model="", query_cost={"small": 1.0}))
    assert len(found) == 2
