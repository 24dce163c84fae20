"""What training reads in an experiment: stored signals made again, packed rows, running text."""

import json

import numpy as np
import pyarrow.parquet as pq
from tiny_run import TINY

from cat.config import Config, DataConfig, from_dict, to_dict
from experiments.cli import main
from experiments.pipeline import Pipeline
from experiments.rundir import RunDirectory, read_json


def test_fields_that_are_off_are_written_nowhere():
    assert not {"pack", "running_text"} & set(to_dict(DataConfig()))


def test_a_row_too_narrow_to_pack_is_refused_before_anything_is_written(tmp_path, capsys):
    arguments = ["demo", "--runs", str(tmp_path), "--name", "narrow", *TINY, "--data.pack"]
    assert main(["train", *arguments, "8"]) == 2
    assert "data.pack=8 is less than the longest row's" in capsys.readouterr().err
    assert main(["train", *arguments, "-1"]) == 2
    assert "data.pack=-1; must be >= 0" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_shard_is_made_again_when_an_arm_needs_it(run_copy):
    """And the small model's own hits are stored for an arm that reads them."""
    shard = run_copy / "teacher" / "shard-00000.arrow"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-30])
    arguments = ["--arms", "cat_frozen", "--seeds", "0", "--redo"]
    assert main(["train", str(run_copy), *arguments]) == 0
    assert shard.read_bytes() == whole
    run = Pipeline(from_dict(Config, read_json(run_copy / "config.json")), RunDirectory(run_copy))
    before = run.before(0)
    assert before.recipe["small"] == run.base_key(0)
    batch = run.training_rows(run.teacher, before).batch(np.arange(5))
    assert batch.before.hit.shape == batch.teacher.hit.shape == batch.tokens.shape
    lines = (run_copy / "arms" / "cat_frozen" / "seed0" / "metrics.jsonl").read_text().splitlines()
    assert all(0 < json.loads(line)["keep_rate"] <= 1 for line in lines)


def documents(folder):
    """Sentences of few words, 30 to a document; a file of each split but test."""
    rng = np.random.default_rng(0)
    words = ["the", "cat", "dog", "sat", "ran", "on", "to", "a", "mat", "hill"]
    lines = []
    for i in range(40):
        text = " ".join(rng.choice(words, 60))
        lines.append({"task": "lm", "split": "train" if i < 34 else "validation", "inputs": "",
                      "targets": text})  # fmt: skip
    path = folder / "text.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_pre_training_on_packed_running_text(tmp_path, no_figures, capsys):
    path = documents(tmp_path)
    arguments = ["text2text", "--data", str(path), "--runs", str(tmp_path), "--name", "lm", *TINY]
    arguments += ["--data.task", "text", "--data.running-text", "--data.pack", "32"]
    arguments += ["--data.tokenizer", "characters", "--data.train-size", "30"]
    arguments += ["--arms", "xent", "cat_xent", "--seeds", "0", "--teacher-topk", "0"]
    arguments += ["--evaluation.routers", "length", "chow_average"]
    arguments += ["--large.width", "8", "--large.ffn", "16", "--large-train.steps", "8"]
    assert main(["run", *arguments]) == 0
    folder = tmp_path / "lm"
    printed, summary = capsys.readouterr().out, read_json(folder / "summary.json")
    for name, row in {**summary["arms"], "large": summary["large"]}.items():
        assert f"{name} {row['bits_per_character']:.3f}" in printed.partition("bits per")[2]
    notes = read_json(folder / "data.json")["notes"]
    assert any("packed into" in note and "of 32 tokens" in note for note in notes)
    run = Pipeline(from_dict(Config, read_json(folder / "config.json")), RunDirectory(folder))
    rows = run.rows["train"]
    np.testing.assert_array_equal(rows.counted, rows.lengths)  # every token counts
    characters = sum(len(e.prompt) + 1 + len(e.target) + 1 for e in run.splits.train)
    assert rows.lengths.sum() == characters  # their space and their eos
    # what is judged: passages of the text, framed as the text goes on
    judged = run.rows["validation"]
    first = judged.examples[0]
    framed = judged.tokens[0, : judged.prompt_lengths[0]]
    assert framed.tolist() == [run.tokenizer.bos, *run.tokenizer.encode(first.prompt)]
    table = pq.read_table(folder / "records" / "xent-seed0.parquet")
    assert set(table["split"].to_pylist()) == {"validation", "test"}
    for row in table.to_pylist()[:5]:
        assert len(row["forced_logprob"]) == len(row["reference"]) + 2  # a space, eos
