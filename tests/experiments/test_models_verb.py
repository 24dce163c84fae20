"""`cascade models`: what it says of checkpoints, that it reads no weights, and what it refuses."""

import dataclasses
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cat import mesh as meshes
from cat.flops import forward_flops
from cat.memory import MeshSizes, serving, training
from cat.models import families, huggingface, tensors
from cat.models.config import ModelConfig
from cat.models.decoder import Decoder
from experiments.cli import main

SIZES = ModelConfig(
    width=16, layers=3, heads=4, kv_heads=2, head_dim=4, ffn=24, vocab_size=13, norm_eps=1e-5
)


def zeros(config):
    """The model without drawing weights."""
    graph, params = nnx.split(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0))))
    return nnx.merge(graph, jax.tree.map(lambda p: jnp.zeros(p.shape, p.dtype), params))


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny-llama"
    with jax.set_mesh(meshes.make_mesh(data=1)):
        huggingface.save(zeros(SIZES), folder)
    return folder


@pytest.fixture(scope="module")
def mistral(llama):
    """The same tensors under a configuration with windows, untied and in bfloat16."""
    folder = llama.with_name("tiny-mistral")
    config = dataclasses.replace(SIZES, tied_embeddings=False)
    with jax.set_mesh(meshes.make_mesh(data=1)):
        huggingface.save(zeros(config), folder, dtype="bfloat16")
    values = json.loads((folder / "config.json").read_text())
    values |= {"architectures": ["MistralForCausalLM"], "sliding_window": 5}
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def printed(capsys, *arguments):
    assert main(["models", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_without_a_folder_it_lists_the_families(capsys):
    rows = json.loads(printed(capsys, "--json"))
    assert set(rows) == set(families.families())
    assert "Llama 1 to 3" in rows["LlamaForCausalLM"]
    lines = printed(capsys).splitlines()
    assert [line.split(maxsplit=1) for line in lines] == [[k, v] for k, v in rows.items()]


def test_listing_needs_no_jax():
    code = "import sys; from experiments.cli import main; main(['models']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "LlamaForCausalLM" in done.stdout
    assert not {"jax", "flax", "scipy"} & set(done.stdout.splitlines()[-1].split())


def test_figures_of_two_checkpoints(llama, mistral, capsys, monkeypatch):
    """Parameters and bytes are counted again from the files; FLOPs and memory must be wired."""
    monkeypatch.setattr(tensors, "read", pytest.fail)  # weights stay on the disk
    asked = ["--mesh", "fsdp=2,data=2", "--batch-size", "8", "--context", "12", "--json"]
    asked += ["--prompt-tokens", "9", "--response-tokens", "4"]
    found = json.loads(printed(capsys, llama, mistral, *asked), parse_constant=pytest.fail)
    small, windowed = found.pop("models")
    assert found == {
        "mesh": {"data": 2, "fsdp": 2, "tensor": 1},
        "batch_size": 8,
        "context": 12,
        "prompt_tokens": 9,
        "response_tokens": 4,
        "dtype": "float32",
    }
    other = dataclasses.replace(SIZES, tied_embeddings=False, windows=(5, 5, 5))
    mesh = MeshSizes(2, 2)
    for folder, row, config in ((llama, small, SIZES), (mistral, windowed, other)):
        stored = tensors.listing(folder)
        numbers = {name: int(np.prod(tensor.shape)) for name, tensor in stored.items()}
        tables = sum(n for name, n in numbers.items() if "embed" in name or "lm_head" in name)
        total = sum(numbers.values())
        assert row["parameters"] == {
            "total": total, "embedding": tables, "other": total - tables
        }  # fmt: skip
        assert row["stored"]["bytes"] == (folder / "model.safetensors").stat().st_size
        assert (row["checkpoint"], row["stored"]["files"]) == (str(folder), 1)
        matrices = sum(n for name, n in numbers.items() if "proj" in name) + 13 * 16
        assert row["flops"]["next_token_2n"] == 2 * matrices
        assert row["flops"]["query_2n"] == 2 * matrices * 12
        assert row["flops"]["query"] == forward_flops(config, 9, 4)
        keys = sum(min(12, window or 12) for window in config.windows or (0, 0, 0))
        assert row["flops"]["next_token"] == 2 * matrices + 4 * 4 * 4 * keys
        train = training(config, mesh, rows=8, tokens=12, response_tokens=4)
        serve = serving(config, mesh, rows=8, context=12)
        assert row["training_bytes"] == {**dataclasses.asdict(train), "total": train.total}
        assert row["serving_bytes"] == {**dataclasses.asdict(serve), "total": serve.total}
    assert (small["family"], small["architecture"]) == ("llama", "LlamaForCausalLM")
    assert (windowed["family"], windowed["architecture"]) == ("mistral", "MistralForCausalLM")
    assert (small["stored"]["types"], windowed["stored"]["types"]) == (["F32"], ["BF16"])
    assert windowed["sizes"] == {**small["sizes"], "tied_embeddings": False, "windows": [5] * 3}
    assert small["sizes"]["kv_heads"] == 2


def test_the_table(llama, mistral, capsys):
    """A row a device is the default; in bfloat16 a parameter takes 2 bytes and its moments 4."""
    shown = ["--context", "16", "--response-tokens", "8"]
    text = printed(capsys, llama, mistral, *shown, "--dtype", "bfloat16")
    lines = {line[:30].strip(): line[30:].split() for line in text.splitlines()}
    assert "tiny-llama" in text
    assert lines["family"] == ["llama", "mistral"]
    assert lines["vocab size"] == ["13", "13"]
    assert lines["windows"] == ["–", "3", "x", "5"]
    assert lines["parameters, total"] == ["6,080", "6,288"]
    assert lines["to serve: parameters"] == ["12.2", "kB", "12.6", "kB"]
    assert lines["to train: moments"] == ["24.3", "kB", "25.2", "kB"]
    assert "data 1 × fsdp 1 × tensor 1, in bfloat16, for 1 rows of 16 tokens" in text


def test_a_llama2c_file_is_a_checkpoint_too(tmp_path, capsys):
    """Tied, 1 layer, width 4, 2 heads, vocabulary 3, one position of sines and cosines."""
    numbers = 3 * 4 + 4 + 4 * 16 + 4 + 3 * 4 * 6 + 4
    header = np.array([4, 6, 1, 2, 2, 3, 1], "<i4").tobytes()
    path = tmp_path / "stories.bin"
    path.write_bytes(header + bytes(4 * (numbers + 2)))
    found = json.loads(printed(capsys, path, "--json", "--context", "8"))["models"][0]
    assert found["parameters"] == {"total": numbers, "embedding": 12, "other": numbers - 12}
    assert found["stored"] == {"files": 1, "bytes": 28 + 4 * (numbers + 2), "types": ["F32"]}
    assert (found["family"], found["sizes"]["norm_eps"]) == ("llama2c", 1e-5)


def changed(folder, tmp_path, **fields):
    """A copy of the checkpoint's config.json with other fields, and its tensors."""
    values = {**json.loads((folder / "config.json").read_text()), **fields}
    (tmp_path / "config.json").write_text(json.dumps(values))
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    return tmp_path


BAD_OPTIONS = {
    ("--mesh", "data=0"): "--mesh 'data=0' is not a mesh; write data=8",
    ("--mesh", "data=2,data=2"): "--mesh 'data=2,data=2' is not a mesh",
    ("--mesh", "8x4"): "--mesh '8x4' is not a mesh",
    ("--mesh", ""): "--mesh '' is not a mesh",
    ("--mesh", "data=8", "--batch-size", "12"): "batch of 12 rows does not divide over 8",
    ("--batch-size", "0"): "batch of 0 rows",
    ("--context", "0"): "context of 0 tokens",
    ("--prompt-tokens", "0"): "token counts must be at least 1",
    ("--response-tokens", "-2"): "token counts must be at least 1",
    ("--dtype", "int8"): "--dtype",
}


@pytest.mark.parametrize("options", BAD_OPTIONS, ids=" ".join)
def test_bad_options_are_one_line(options, llama, capsys):
    assert main(["models", str(llama), *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("cascade: ")
    assert err.count("\n") == 1
    assert BAD_OPTIONS[options] in err


def test_broken_checkpoints_are_one_line(llama, tmp_path, capsys):
    def refused(folder):
        assert main(["models", str(folder)]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        return err

    assert "does not exist" in refused(tmp_path / "gone")
    assert "no config.json" in refused(tmp_path)
    folder = changed(llama, tmp_path, architectures=["GPT2LMHeadModel"])
    assert "architecture 'GPT2LMHeadModel' is not supported" in refused(folder)
    folder = changed(llama, tmp_path, hidden_act="relu")
    assert "hidden_act='relu' is not supported" in refused(folder)
    folder = changed(llama, tmp_path)
    (folder / "model.safetensors").write_bytes(b"12345678")
    assert "model.safetensors: not whole" in refused(folder)
    (folder / "model.safetensors").unlink()
    assert "no model.safetensors" in refused(folder)
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    assert "only pickled weights" in refused(folder)
    assert "is it a llama2.c checkpoint" in refused(folder / "config.json")
