"""A run that starts from checkpoints and ends in one, through the command line."""

import contextlib
import dataclasses
import io
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from tiny_run import TINY

from cat import tokenizers
from cat.config import Config, DataConfig, from_dict
from cat.mesh import make_mesh
from cat.models import huggingface
from cat.models.config import ModelConfig
from cat.models.decoder import Decoder
from cat.tasks import generated
from experiments.cli import main
from experiments.pipeline import Pipeline, on_mesh
from experiments.rundir import RunDirectory, read_json
from routers.records import read

SIZE = ModelConfig(width=16, layers=1, heads=2, kv_heads=1, head_dim=8, ffn=24)
TRAINING = ("large", "base", "arm")


def tokenizer() -> tokenizers.Tokenizer:
    examples = generated.examples(DataConfig(train_size=200), "train")
    return tokenizers.train("characters", [e.prompt + e.target for e in examples])


def checkpoint(folder: Path, seed: int, **changes) -> Path:
    """A random model and its tokenizer as a Hugging Face folder."""
    words = tokenizer()
    size = dataclasses.replace(SIZE, vocab_size=words.vocab_size + 3, **changes)  # padded
    with jax.set_mesh(make_mesh(data=1)):
        huggingface.save(Decoder(size, rngs=nnx.Rngs(seed)), folder)
    words.save(folder / "tokenizer.json")
    named = {
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "add_bos_token": True,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    return folder


def cascade(*arguments) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(a) for a in arguments])
    return code, out.getvalue(), err.getvalue()


def arguments(runs: Path, small: Path, large: Path) -> list[str]:
    """A tiny run of one arm on these checkpoints, the large one as it is."""
    given = ["--small-checkpoint", small, "--large-checkpoint", large, "--large-train.steps", 0]
    given += ["--base-train.steps", 0, "--arms", "cat_xent", "--seeds", 0]
    given += ["--evaluation.routers", "chow_average", "--name", "run", "--runs", runs]
    return ["demo", *TINY, *map(str, given)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with both checkpoints and a finished run: adapters small, eight bits large."""
    folder = tmp_path_factory.mktemp("checkpoints")
    small = checkpoint(folder / "small", 0)
    large = checkpoint(folder / "large", 1, layers=2)
    extra = ["--lora.rank", 2, "--large-int8"]
    code, _, error = cascade("run", *arguments(folder, small, large), *extra)
    assert (code, error.count("error")) == (0, 0), error
    return folder


def pipeline(folder: Path) -> Pipeline:
    config = from_dict(Config, read_json(folder / "config.json"))
    return Pipeline(config, RunDirectory(folder))


def leaves(model: Decoder) -> dict[str, np.ndarray]:
    flat = nnx.to_flat_state(nnx.state(model))
    return {".".join(map(str, path)): np.asarray(param.get_value()) for path, param in flat}


def test_only_the_arm_is_trained_and_both_tiers_answer(trained):
    run = trained / "run"
    assert {p.name for p in (run / "stages").glob("*.json")} == {
        "teacher.json",
        "arms-cat_xent-seed0.json",
        "records-large.json",
        "records-cat_xent-seed0.json",
        "evaluation-cat_xent-seed0.json",
    }
    records = read([run / "records" / f"{name}.parquet" for name in ("large", "cat_xent-seed0")])
    assert set(records.table["model"].to_pylist()) == {"large", "cat_xent"}


def test_the_export_is_the_arm_with_its_adapters_merged(trained, tmp_path):
    code, printed, error = cascade("export", trained / "run", "-o", tmp_path / "out")
    assert (code, printed.strip()) == (0, str(tmp_path / "out")), error
    run = pipeline(trained / "run")
    with on_mesh():
        arm = leaves(run.load("arms/cat_xent/seed0", run.small))
        exported = leaves(huggingface.load(tmp_path / "out"))
        started = leaves(run.small.load())
    assert arm.keys() == exported.keys() == started.keys()
    for name, value in arm.items():
        np.testing.assert_array_equal(exported[name], value)
        touched = ".attention." in name or ".ffn." in name
        assert touched == (np.abs(value - started[name]).max() > 0), name
    kept = {path.name for path in (tmp_path / "out").iterdir()}
    assert kept >= {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}


def test_a_second_run_does_nothing_and_another_checkpoint_everything(trained, tmp_path):
    """Weights are part of the fingerprints, not only the path."""
    for name in ("small", "large", "run"):
        shutil.copytree(trained / name, tmp_path / name)
    run, changed = tmp_path / "run", tmp_path / "small"
    config = read_json(run / "config.json")
    config["small_checkpoint"], config["large_checkpoint"] = str(changed), str(tmp_path / "large")
    (run / "config.json").write_text(json.dumps(config))
    before = pipeline(run).base_key(0), pipeline(run).large_key
    assert before == (pipeline(trained / "run").base_key(0), pipeline(trained / "run").large_key)
    shutil.rmtree(changed)
    checkpoint(changed, 7)
    assert pipeline(run).base_key(0) != before[0]
    assert pipeline(run).large_key == before[1]


def test_a_model_trained_here_from_nothing_is_exported_with_the_tokenizer(run_copy, tmp_path):
    out = tmp_path / "out"
    code, _, error = cascade("export", run_copy, "--arm", "xent", "--seed", 1, "-o", out)
    assert code == 0, error
    run = pipeline(run_copy)
    words = tokenizers.from_checkpoint(out)
    text = "copy abc"
    assert words.frame([text]) == run.tokenizer.frame([text])
    assert words.close([text], ["abc"]) == run.tokenizer.close([text], ["abc"])
    assert words.eos == run.tokenizer.eos
    with on_mesh():
        exported = leaves(huggingface.load(out))
        arm = leaves(run.load("arms/xent/seed1", run.small))
    for name, value in arm.items():
        np.testing.assert_array_equal(exported[name], value)


BAD = {
    "no such folder": (["--small-checkpoint", "nowhere"], "nowhere"),
    "no checkpoint to leave as it is": (["--large-checkpoint", ""], "large_train.steps=0"),
    "adapters of nothing": (
        ["--small-checkpoint", "", "--base-train.steps", "2", "--lora.rank", "2"],
        "lora.rank=2",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_nothing_is_written(trained, tmp_path, case):
    extra, said = BAD[case]
    given = arguments(tmp_path / "runs", trained / "small", trained / "large")
    code, _, error = cascade("run", *given, *extra)
    assert code == 2
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_models_without_a_shared_vocabulary_are_refused(trained, tmp_path):
    other = Path(shutil.copytree(trained / "large", tmp_path / "other"))
    tokenizers.train("characters", ["zyx"]).save(other / "tokenizer.json")
    given = arguments(tmp_path / "runs", trained / "small", other)
    code, _, error = cascade("run", *given)
    assert (code, error.count("\n")) == (2, 1), error
    assert "vocabular" in error
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["--arm", "cat_xnet"], "did you mean 'cat_xent'"),
        (["--seed", "3"], "seed 3"),
        (["-o", "{taken}"], "not an empty folder"),
    ],
)
def test_exports_that_cannot_be(trained, tmp_path, extra, said):
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "file").write_text("mine")
    given = [word.format(taken=taken) for word in extra]
    out = [] if "-o" in given else ["-o", tmp_path / "out"]
    code, _, error = cascade("export", trained / "run", *given, *out)
    assert (code, error.count("\n")) == (2, 1), error
    assert said in error
    assert not (tmp_path / "out").exists()
    assert [path.name for path in taken.iterdir()] == ["file"]


def test_an_arm_must_be_named_where_there_are_several(run_copy, tmp_path):
    code, _, error = cascade("export", run_copy, "-o", tmp_path / "out")
    assert code == 2
    assert "--arm is needed" in error
