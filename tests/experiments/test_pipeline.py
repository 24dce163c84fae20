"""A tiny run from end to end: what it leaves behind, and that it resumes, repairs and skips."""

import dataclasses
import json
import math
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest
from flax import nnx
from tiny_run import ARMS, ROUTERS, SEEDS, TEST, TINY, VALIDATION

from cat import hosts
from cat.checkpoints import load_params
from cat.config import ARMS as ARMS_BY_NAME
from cat.config import Config, fingerprint, from_dict
from experiments import configs, pipeline
from experiments.cli import main
from experiments.pipeline import Pipeline, on_mesh
from experiments.rundir import RunDirectory, read_json
from routers.schema import COLUMNS

MODELS = ("large", *(f"{arm}-seed{seed}" for arm in ARMS for seed in SEEDS))


def summary(folder) -> dict:
    """The numbers of a run, without when and how long."""
    made = read_json(folder / "summary.json")
    made.pop("provenance")
    return made


def stamps(folder) -> dict[str, int]:
    """When each stage was last finished."""
    return {path.stem: path.stat().st_mtime_ns for path in (folder / "stages").iterdir()}


def redone(folder, before: dict[str, int]) -> set[str]:
    """The stages finished since ``before``."""
    return {name for name, at in stamps(folder).items() if before.get(name) != at}


def parameters(folder, name: str, size: str = "small") -> dict[str, np.ndarray]:
    """The trained arrays of a stage, by path."""
    config = from_dict(Config, read_json(folder / "config.json"))
    run = Pipeline(config, RunDirectory(folder))
    with on_mesh():
        model = load_params(folder / name, run.model_config(getattr(run, size)))
    flat, _ = jax.tree_util.tree_flatten_with_path(nnx.state(model))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in flat}


def test_every_file_of_the_run_directory_is_there(finished):
    assert finished.code == 0
    folder = finished.folder
    expected = {"config.json", "data.json", "tokenizer.json", "summary.json", "report.html"}
    expected |= {f"records/{model}.parquet" for model in MODELS}
    expected |= {f"evaluations/{m}.{end}" for m in MODELS[1:] for end in ("json", "npz")}
    expected |= {
        f"curves/{arm}/{router.replace(':', '-')}.csv"
        for arm in ARMS
        for router in (*ROUTERS, "oracle")
    }
    trained = ["large", *(f"base/seed{s}" for s in SEEDS)]
    trained += [f"arms/{arm}/seed{s}" for arm in ARMS for s in SEEDS]
    expected |= {f"{name}/metrics.jsonl" for name in trained}
    figures = ("quality_flops", "per_task", "keep_rate")
    expected |= {f"plots/{name}.{end}" for name in figures for end in ("png", "svg")}
    missing = {name for name in expected if not (folder / name).stat().st_size}
    assert missing == set()
    assert not list(folder.rglob("*.begun"))
    stages = {"teacher", *(name.replace("/", "-") for name in trained)}
    stages |= {f"records-{m}" for m in MODELS} | {f"evaluation-{m}" for m in MODELS[1:]}
    assert set(stamps(folder)) == stages


def test_the_summary_is_finite_for_every_arm_and_router(finished):
    made = summary(finished.folder)
    assert list(made["arms"]) == list(ARMS)
    for arm, row in made["arms"].items():
        assert list(row["routers"]) == list(ROUTERS), arm
        assert 0 < row["keep_rate"] <= 1
        for entry in row["routers"].values():
            low, high = entry["audc"]["ci"]
            assert 0 <= low <= high <= 1
            assert low <= entry["audc"]["mean"] <= high
            assert len(entry["audc"]["per_seed"]) == len(SEEDS)
            assert entry["audc"]["mean"] <= entry["audc_oracle"] + 1e-12
            assert all(math.isfinite(entry[key]) for key in ("audc_normalised", "aucfc"))
    assert made["arms"]["xent"]["keep_rate"] == 1
    assert made["arms"]["cat_xent"]["keep_rate"] < 1
    assert (made["n_fit"], made["n_test"]) == (VALIDATION, TEST)


def test_transfer_points_of_every_arm_and_router(finished):
    for row in summary(finished.folder)["arms"].values():
        for entry in row["routers"].values():
            assert [point["target_rate"] for point in entry["transfer"]] == [0.2, 0.5, 0.8]
            for point in entry["transfer"]:
                assert 0 <= point["deferral_rate"] <= 1
                assert 0 <= point["quality"] <= 1
                assert point["flops"] > 0


@pytest.mark.parametrize("model", MODELS)
def test_records_have_the_columns_of_the_schema(finished, model):
    file = pq.ParquetFile(finished.folder / "records" / f"{model}.parquet")
    names = set(file.schema_arrow.names)
    assert names <= set(COLUMNS)
    assert set(COLUMNS) - names == {"latency_s", "dollars", "sampled_responses"}
    table = file.read()
    assert set(table["model"].to_pylist()) == {model.partition("-")[0]}
    assert table["split"].to_pylist() == ["validation"] * VALIDATION + ["test"] * TEST
    assert all(len(row[0]) == 3 for row in table["topk_logprob"].to_pylist())
    about = {key.decode(): value.decode() for key, value in file.schema_arrow.metadata.items()}
    assert any("greedy" in value for value in about.values())


def test_the_table_and_the_report_are_printed(finished):
    lines = finished.printed.splitlines()
    for name in (*ARMS, *ROUTERS):
        assert any(name in line.split() for line in lines), name
    assert lines[-1] == f"report: {finished.folder / 'report.html'}"


def test_data_json_says_what_was_found(finished):
    found = read_json(finished.folder / "data.json")
    assert found["examples"] == {"train": 64, "validation": VALIDATION, "test": TEST}
    for size in ("small", "large"):
        name = "base/seed0" if size == "small" else "large"
        counted = sum(a.size for a in parameters(finished.folder, name, size).values())
        assert found["parameters"][size] == counted
    width = read_json(finished.folder / "config.json")["small"]["width"]
    tables = found["parameters"]["small"] - found["parameters"]["small_layers"]
    assert tables == found["vocabulary"] * width  # tied: one table
    hits = read_json(finished.folder / "teacher" / "hit_rate.json")["train"]
    assert 0 < hits < 1


def test_a_second_run_redoes_no_stage(run_copy, no_figures):
    before, numbers = stamps(run_copy), summary(run_copy)
    assert main(["run", str(run_copy)]) == 0
    assert redone(run_copy, before) == set()
    assert summary(run_copy) == numbers


def test_other_routers_redo_evaluations_and_nothing_else(run_copy, no_figures, capsys):
    before = stamps(run_copy)
    arguments = [str(run_copy), "--evaluation.routers", "length", "chow_average"]
    assert main(["run", *arguments]) == 2
    assert "evaluation.routers" in capsys.readouterr().err
    assert main(["run", *arguments, "--redo"]) == 0
    assert redone(run_copy, before) == {f"evaluation-{model}" for model in MODELS[1:]}
    drawn = {path.stem for path in (run_copy / "curves").rglob("*.csv")}
    assert drawn == {"length", "chow_average", "random", "oracle"}  # none of a router that is gone
    assert "booster" not in (run_copy / "report.html").read_text()


def test_another_metric_or_test_size_trains_nothing_again(run_copy, no_figures):
    before = stamps(run_copy)
    changed = ["--data.metric", "f1", "--data.test-size", str(TEST - 8), "--redo"]
    assert main(["run", str(run_copy), *changed]) == 0
    judged = {f"records-{m}" for m in MODELS} | {f"evaluation-{m}" for m in MODELS[1:]}
    assert redone(run_copy, before) == judged


def test_what_was_deleted_is_made_again(run_copy, no_figures):
    before, numbers = stamps(run_copy), summary(run_copy)
    (run_copy / "records" / "xent-seed0.parquet").unlink()
    (run_copy / "teacher" / "teacher.json").unlink()
    (run_copy / "evaluations" / "xent-seed1.json").unlink()
    (run_copy / "evaluations" / "cat_xent-seed1.npz").unlink()
    shutil.rmtree(run_copy / "arms" / "cat_xent" / "seed1")
    shutil.rmtree(run_copy / "base" / "seed1" / "checkpoints")
    assert main(["run", str(run_copy)]) == 0
    repaired = {"records-xent-seed0", "teacher", "arms-cat_xent-seed1", "base-seed1"}
    assert redone(run_copy, before) == repaired | {
        "evaluation-xent-seed1",
        "evaluation-cat_xent-seed1",
    }
    assert summary(run_copy) == numbers


def test_an_interrupted_arm_continues_and_ends_the_same(run_copy, no_figures, monkeypatch, capsys):
    name = "arms/cat_xent/seed1"
    before, numbers, wanted = stamps(run_copy), summary(run_copy), parameters(run_copy, name)
    shutil.rmtree(run_copy / name)
    (run_copy / "records" / "cat_xent-seed1.parquet").unlink()
    heard, bar = [], pipeline.bar

    def interrupting(label, total, unit):
        def advance(count, note=""):
            heard.append((label, count, note.partition(" ")[0]))
            if label == name:
                raise KeyboardInterrupt

        return dataclasses.replace(Silent(), advance=advance)

    monkeypatch.setattr(pipeline, "bar", interrupting)
    assert main(["run", str(run_copy)]) == 130
    assert "run the same command again to continue" in capsys.readouterr().err
    assert heard == [(name, 4, "loss")]
    assert not (run_copy / "stages" / "arms-cat_xent-seed1.json").exists()

    monkeypatch.setattr(pipeline, "bar", bar)
    assert main(["run", str(run_copy)]) == 0
    log = (run_copy / name / "metrics.jsonl").read_text()
    steps = [json.loads(line)["step"] for line in log.splitlines()]
    assert steps == list(range(1, 9))
    assert redone(run_copy, before) == {"arms-cat_xent-seed1", "records-cat_xent-seed1"}
    found = parameters(run_copy, name)
    assert all(np.array_equal(found[key], wanted[key]) for key in wanted)
    assert summary(run_copy) == numbers


@dataclasses.dataclass(frozen=True)
class Silent:
    """A progress bar that shows nothing."""

    advance: object = None

    def __enter__(self):
        return self.advance

    def __exit__(self, *error):
        return None


def test_a_live_teacher_trains_what_a_stored_one_does(run_copy):
    before = stamps(run_copy)
    arms = ["--arms", "cat_xent", "cat_xent:teacher=live", "--seeds", "0"]
    assert main(["train", str(run_copy), *arms, "--redo"]) == 0
    assert redone(run_copy, before) == {"arms-cat_xent:teacher=live-seed0"}
    stored = parameters(run_copy, "arms/cat_xent/seed0")
    live = parameters(run_copy, "arms/cat_xent:teacher=live/seed0")
    start = parameters(run_copy, "base/seed0")
    other = parameters(run_copy, "arms/xent/seed0")
    for key, array in stored.items():
        np.testing.assert_allclose(live[key], array, rtol=0, atol=1e-5, err_msg=key)
    assert max(np.abs(stored[key] - start[key]).max() for key in stored) > 1e-2
    assert max(np.abs(stored[key] - other[key]).max() for key in stored) > 1e-3


def test_your_own_json_lines(tmp_path, no_figures):
    rng = np.random.default_rng(0)
    splits = ["train"] * 48 + ["validation"] * 24 + ["test"] * 24
    rows = []
    for i, split in enumerate(splits):
        word = "".join(rng.choice(list("abc"), 4))
        rows.append({"task": ("echo", "flip")[i % 2], "split": split, "inputs": f"{i} {word}"})
        rows[-1]["targets"] = word[:: 1 - 2 * (i % 2)]
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["text2text", "--data", str(path), "--runs", str(tmp_path), "--name", "mine", *TINY]
    arguments += ["--data.tokenizer", "characters", "--arms", "xent", "--seeds", "0"]
    arguments += ["--evaluation.routers", "length", "chow_average"]
    # models of one size and one schedule are compiled once
    arguments += ["--large.width", "8", "--large.ffn", "16", "--large-train.steps", "8"]
    assert main(["run", *arguments]) == 0
    made = summary(tmp_path / "mine")
    assert (made["n_fit"], made["n_test"]) == (24, 24)
    assert set(made["tasks"]) == {"echo", "flip"}
    table = pq.read_table(tmp_path / "mine" / "records" / "large.parquet")
    references = dict(zip(table["prompt"].to_pylist(), table["reference"].to_pylist(), strict=True))
    judged = [row for row in rows if row["split"] != "train"]
    assert references == {row["inputs"]: row["targets"] for row in judged}


def test_what_each_stage_depends_on(tmp_path):
    config = dataclasses.replace(
        configs.load("demo"),
        data=dataclasses.replace(
            configs.load("demo").data, train_size=16, validation_size=8, test_size=8
        ),
    )
    plain = keys(config, tmp_path)
    arm_train = dataclasses.replace(config.arm_train, steps=7)
    assert changed(plain, dataclasses.replace(config, arm_train=arm_train), tmp_path) == {"arm"}
    topk = dataclasses.replace(config, teacher_topk=4)
    assert changed(plain, topk, tmp_path) == {"teacher", "arm"}
    small = dataclasses.replace(config, small=dataclasses.replace(config.small, ffn=8))
    assert changed(plain, small, tmp_path) == {"base", "arm"}
    base = dataclasses.replace(config, base_train=dataclasses.replace(config.base_train, steps=9))
    assert changed(plain, base, tmp_path) == {"base", "arm"}
    large = dataclasses.replace(config, large=dataclasses.replace(config.large, ffn=8))
    assert changed(plain, large, tmp_path) == {"large", "teacher", "arm"}
    data = dataclasses.replace(config, data=dataclasses.replace(config.data, seed=1))
    assert changed(plain, data, tmp_path) == set(plain)
    judged = dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, topk=2))
    assert changed(plain, judged, tmp_path) == set()
    seeds = {Pipeline(config, RunDirectory(tmp_path)).arm_key("xent", k) for k in range(3)}
    assert len(seeds) == 3
    made = Pipeline(config, RunDirectory(tmp_path))
    told = fingerprint(made.served_key, config.teacher_topk)
    parts = (made.base_key(0), told, ARMS_BY_NAME["cat_xent"], config.arm_train)
    assert plain["arm"] == fingerprint(*parts)  # what finished runs have on disk
    soft = dataclasses.replace(config, arms=("cat_xent", "cat_xent:mask_temperature=0.5"))
    assert changed(plain, soft, tmp_path) == {"teacher"}


def test_a_process_that_is_not_the_first_writes_nothing_that_is_written_once(tmp_path, monkeypatch):
    monkeypatch.setattr(hosts, "first", lambda: False)
    monkeypatch.setattr(hosts, "any_says", lambda mine: True)
    waits, given = [], {}
    monkeypatch.setattr(hosts, "wait", waits.append)
    config = configs.load("demo")
    data = dataclasses.replace(config.data, train_size=16, validation_size=8, test_size=8)
    config = dataclasses.replace(config, data=data, track=("wandb",))
    monkeypatch.setattr(pipeline.sinks, "check", lambda names: None)
    monkeypatch.setattr(pipeline.train, "train", lambda *_, **kwargs: given.update(kwargs))
    made = Pipeline(config, RunDirectory(tmp_path))
    made.prepare()
    assert waits == ["prepared"]
    made.fit("large", made.large_key, made.large, made.large.optimizer)
    assert given["sinks"] == []
    signals = SimpleNamespace(folder=tmp_path / "teacher", hit_rate=lambda: 0.5)
    vars(made)["teacher"] = signals
    made._teach()
    assert list(tmp_path.rglob("*")) == []
    monkeypatch.setattr(hosts, "first", lambda: True)
    made._teach()
    made.prepare()
    names = {path.name for path in tmp_path.rglob("*.json")}
    assert names == {"hit_rate.json", "config.json", "tokenizer.json", "data.json"}


def keys(config, folder) -> dict[str, str]:
    made = Pipeline(config, RunDirectory(folder))
    arm = made.arm_key("cat_xent", 0)
    return {
        "large": made.large_key,
        "teacher": made.teacher_key,
        "base": made.base_key(0),
        "arm": arm,
    }


def changed(plain, config, folder) -> set[str]:
    return {name for name, key in keys(config, folder).items() if key != plain[name]}
