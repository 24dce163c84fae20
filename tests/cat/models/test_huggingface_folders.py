"""Checkpoint folders against the golden files that transformers wrote, and against bad input."""

import contextlib
import dataclasses
import errno
import json
import resource
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from golden import weights
from safetensors.numpy import load_file, save_file

from cat import mesh as meshes
from cat.decode import generate_all
from cat.models import huggingface, tensors
from cat.models.config import RopeScaling
from cat.models.decoder import Decoder
from routers.errors import InputError

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
        place(first, 1) + [(0, 0, 0)] * b,
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


def parameters(model):
    return {path: np.asarray(leaf) for path, leaf in nnx.to_flat_state(nnx.state(model))}


def same(first, second):
    a, b = parameters(first), parameters(second)
    assert a.keys() == b.keys()
    for path, value in a.items():
        assert value.dtype == b[path].dtype
        np.testing.assert_array_equal(value, b[path], err_msg=str(path))


def test_export_and_reload_are_identical(golden, tmp_path):
    name, folder, model = golden
    huggingface.save(model, tmp_path / "out", like=folder)
    again = huggingface.load(tmp_path / "out")
    assert again.config == model.config
    same(again, model)
    stored, source = load_file(tmp_path / "out/model.safetensors"), weights.tensors(name)
    assert stored.keys() == source.keys()
    for tensor, value in source.items():
        np.testing.assert_array_equal(stored[tensor], value)


def test_a_loaded_decoder_is_built_as_any_other(golden):
    """Nothing but the numbers tells it from one that was initialised."""
    _, _, model = golden
    born = nnx.eval_shape(lambda: Decoder(model.config, rngs=nnx.Rngs(0)))
    assert nnx.graphdef(model) == nnx.graphdef(born)
    assert jax.tree.structure(nnx.state(model)) == jax.tree.structure(nnx.state(born))


# -- one checkpoint in other clothes --------------------------------------------------------


@pytest.fixture
def llama(tmp_path):
    return weights.write_checkpoint("llama", tmp_path / "llama")


@pytest.fixture
def tied(tmp_path):
    return weights.write_checkpoint("qwen2", tmp_path / "qwen2")


def rewrite(folder, change):
    """The folder with other tensors; ``change`` edits the dictionary in place."""
    tensors_by_name = load_file(folder / "model.safetensors")
    change(tensors_by_name)
    save_file(tensors_by_name, folder / "model.safetensors")


def cast(folder, dtype):
    rewrite(folder, lambda t: t.update({k: v.astype(dtype) for k, v in t.items()}))


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float64])
def test_every_float_type_is_read_exactly_and_stored_again_as_asked(llama, tmp_path, dtype):
    cast(llama, dtype)
    source = load_file(llama / "model.safetensors")
    model = huggingface.load(llama)
    assert {value.dtype for value in parameters(model).values()} == {np.dtype("float32")}
    kept = "float32" if dtype is np.float64 else np.dtype(dtype).name
    huggingface.save(model, tmp_path / "out", like=llama, dtype=kept)
    for name, value in load_file(tmp_path / "out/model.safetensors").items():
        assert value.dtype == kept
        np.testing.assert_array_equal(value, source[name].astype(kept))
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["dtype"] == config["torch_dtype"] == kept


def test_the_type_of_the_checkpoint_is_kept_when_none_is_asked_for(llama, tmp_path):
    config = json.loads((llama / "config.json").read_text()) | {"torch_dtype": "bfloat16"}
    (llama / "config.json").write_text(json.dumps(config))
    huggingface.save(huggingface.load(llama), tmp_path / "out", like=llama)
    stored = load_file(tmp_path / "out/model.safetensors")
    assert {value.dtype for value in stored.values()} == {np.dtype(ml_dtypes.bfloat16)}


def test_bfloat16_is_loaded_as_bfloat16_and_exported_all_the_same(llama, tmp_path):
    model = huggingface.load(llama, dtype="bfloat16")
    assert model.config.dtype == "bfloat16"
    assert {v.dtype for v in parameters(model).values()} == {np.dtype(ml_dtypes.bfloat16)}
    huggingface.save(model, tmp_path / "out", like=llama)
    same(huggingface.load(tmp_path / "out", dtype="bfloat16"), model)


def test_shards_are_one_model(llama, tmp_path):
    whole = huggingface.load(llama)
    shutil.copytree(llama, tmp_path / "shards", ignore=shutil.ignore_patterns("*.safetensors"))
    source = load_file(llama / "model.safetensors")
    tensors.write(tmp_path / "shards", iter(source.items()), limit=4000)
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    same(huggingface.load(tmp_path / "shards"), whole)


def test_eight_devices_hold_what_one_holds(llama):
    one = huggingface.load(llama)
    with jax.set_mesh(meshes.make_mesh(4, 2)):
        eight = huggingface.load(llama)
        embedding = eight.embed.embedding[...]
        assert len(embedding.sharding.device_set) == 8
    same(eight, one)


def test_loaded_parameters_can_be_donated_twice(llama):
    """They stand in memory that NumPy took; the compiler may still reuse them."""
    expected = {path: 4 * value for path, value in parameters(huggingface.load(llama)).items()}
    graph, params = nnx.split(huggingface.load(llama))
    double = jax.jit(lambda tree: jax.tree.map(lambda p: 2 * p, tree), donate_argnums=0)
    got = nnx.merge(graph, double(double(params)))
    for path, value in parameters(got).items():
        np.testing.assert_array_equal(value, expected[path])


def twice(values):
    values["lm_head.weight"] = values["model.embed_tokens.weight"].copy()


def renamed(values):
    values["lm_head.weight"] = values.pop("model.embed_tokens.weight")


def buffers(values):
    values["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(3, np.float32)


@pytest.mark.parametrize("change", [twice, renamed, buffers])
def test_what_some_writers_do_to_a_tied_model_changes_nothing(tied, change):
    expected = huggingface.load(tied)
    rewrite(tied, change)
    same(huggingface.load(tied), expected)


def test_without_a_checkpoint_of_its_own_a_model_is_written_as_a_llama(tmp_path):
    """Sizes and RoPE scaling are kept; how it computes here is not its configuration."""
    model = huggingface.load(weights.write_checkpoint("llama_linear_mha", tmp_path / "llama"))
    assert model.config.rope_scaling == RopeScaling("linear", 4.0)
    born = nnx.merge(nnx.graphdef(model), nnx.state(model))
    born.config = dataclasses.replace(model.config, attention="blockwise")
    files = {"tokenizer.json": b"{}"}
    huggingface.save(born, tmp_path / "out", files=files)
    again = huggingface.load(tmp_path / "out")
    assert again.config == model.config
    same(again, model)
    assert (tmp_path / "out/tokenizer.json").read_bytes() == b"{}"
    assert huggingface.beside(tmp_path / "out") == files


def test_what_is_beside_a_checkpoint_goes_along_and_nothing_else(llama, tmp_path):
    beside = {"generation_config.json": b'{"eos_token_id": 2}', "tokenizer.model": b"\x00\xff"}
    for name, content in {**beside, "README.md": b"no", "pytorch_model.bin": b"no"}.items():
        (llama / name).write_bytes(content)
    (tmp_path / "out").mkdir()  # an empty folder is as good as none
    huggingface.save(huggingface.load(llama), tmp_path / "out", like=llama)
    found = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert found.keys() == {"config.json", "model.safetensors", *beside}
    assert {name: found[name] for name in beside} == beside
    assert sorted(p.name for p in tmp_path.iterdir()) == ["llama", "out"]


# -- bad input ------------------------------------------------------------------------------


def refused(said, call, *args, **kwargs):
    with pytest.raises(InputError) as error:
        call(*args, **kwargs)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_all_tensors_that_do_not_fit_are_listed_in_one_line(llama):
    def spoil(values):
        values.pop("lm_head.weight")
        values.pop("model.norm.weight")
        values["model.layers.2.mlp.up_proj.weight"] = np.zeros((2, 2), np.float32)
        values["model.layers.0.mlp.up_proj.weight"] = np.zeros((16, 24), np.float32)
        values["model.layers.1.mlp.up_proj.weight"] = np.zeros((24, 16), np.int8)

    rewrite(llama, spoil)
    said = refused("tensors do not fit config.json", huggingface.load, llama)
    for part in (
        "missing lm_head.weight; missing model.norm.weight",
        "unexpected model.layers.2.mlp.up_proj.weight",
        "model.layers.0.mlp.up_proj.weight is [16, 24], not [24, 16]",
        "model.layers.1.mlp.up_proj.weight is of type I8, not of floats",
    ):
        assert part in said


def test_a_head_that_differs_is_not_tied(tied):
    def differ(values):
        twice(values)
        values["lm_head.weight"][-1, -1] += 1e-3

    rewrite(tied, differ)
    refused("lm_head.weight differs from model.embed_tokens.weight", huggingface.load, tied)


UNREADABLE = {
    "no folder": (lambda f: shutil.rmtree(f), "does not exist"),
    "no configuration": (lambda f: (f / "config.json").unlink(), "no config.json"),
    "no JSON": (lambda f: (f / "config.json").write_text("{"), "config.json: not JSON"),
    "not UTF-8": (lambda f: (f / "config.json").write_bytes(b'{"a": "\xff"}'), "not JSON"),
    "a list": (lambda f: (f / "config.json").write_text("[]"), "not a JSON object"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no model.safetensors"),
    "weights cut short": (
        lambda f: (f / "model.safetensors").write_bytes(b"\x08" + bytes(20)),
        "model.safetensors: not whole",
    ),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_folder_that_cannot_be_read_is_one_line(llama, case):
    spoil, said = UNREADABLE[case]
    spoil(llama)
    refused(said, huggingface.load, llama)


def leftovers(tmp_path):
    return sorted(path.name for path in tmp_path.iterdir() if path.name != "llama")


@pytest.mark.parametrize("taken", ["file", "folder"])
def test_a_target_that_exists_is_left_alone(llama, tmp_path, taken):
    target = tmp_path / "out"
    kept = target / "mine" if taken == "folder" else target
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("precious")
    refused("export to a new one", huggingface.save, huggingface.load(llama), target, like=llama)
    assert kept.read_text() == "precious"
    assert leftovers(tmp_path) == ["out"]


def test_an_export_beside_another_model_or_in_no_known_type_is_refused(llama, tied, tmp_path):
    model, out = huggingface.load(llama), tmp_path / "out"
    refused("describes another model", huggingface.save, model, out, like=tied)
    refused("cannot store 'int8'", huggingface.save, model, out, like=llama, dtype="int8")
    refused("no config.json", huggingface.save, model, out, like=tmp_path)
    assert not out.exists()


def test_numbers_beyond_float16_are_refused_by_name(llama, tmp_path):
    model = huggingface.load(llama)
    model.norm.scale[...] = model.norm.scale[...].at[3].set(1e5)
    said = "model.norm.weight: a number is too large for float16; export as bfloat16"
    refused(said, huggingface.save, model, tmp_path / "out", like=llama, dtype="float16")
    assert leftovers(tmp_path) == []
    huggingface.save(model, tmp_path / "out", like=llama, dtype="bfloat16")


@contextlib.contextmanager
def files_of_at_most(size):
    """The kernel refuses to write more into any file, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [10, 4096])
def test_a_disk_that_takes_no_more_leaves_nothing_behind(llama, tmp_path, size):
    """At 10 bytes ``config.json`` fails, in Python; at 4096 the tensors do, in the library."""
    model = huggingface.load(llama)
    with files_of_at_most(size):
        refused(
            "out: nothing was exported: ", huggingface.save, model, tmp_path / "out", like=llama
        )
    assert leftovers(tmp_path) == []


def test_a_full_disk_is_named(llama, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tensors, "save_file", full)
    call = huggingface.save, huggingface.load(llama), tmp_path / "out"
    refused("out: nothing was exported: [Errno 28] No space left on device", *call, like=llama)
    assert leftovers(tmp_path) == []


@pytest.mark.shared
def test_the_real_tiny_model_is_read_and_written_bit_for_bit(shared_data, tmp_path):
    folder = shared_data / "weights" / "tinystories656K"
    model = huggingface.load(folder)
    assert sum(value.size for value in parameters(model).values()) == 656_000
    huggingface.save(model, tmp_path / "out", like=folder, dtype="float32")
    source, stored = (load_file(f / "model.safetensors") for f in (folder, tmp_path / "out"))
    source["model.embed_tokens.weight"] = source.pop("lm_head.weight")  # tied, by its other name
    assert stored.keys() == source.keys()
    for name, value in source.items():
        np.testing.assert_array_equal(stored[name], value)
    assert (tmp_path / "out/tokenizer.json").read_bytes() == (
        folder / "tokenizer.json"
    ).read_bytes()
