"""Routers on a run's records: against the Parquet files themselves, and figures where possible."""

import dataclasses
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from tiny_run import ARMS, SEEDS, TEST, VALIDATION

from cat.config import Config, from_dict
from experiments import evaluation
from experiments.cli import main
from experiments.rundir import RunDirectory, read_json
from routers.build import build
from routers.errors import InputError

FIGURES = {
    f"{name}.{end}" for name in ("quality_flops", "per_task", "keep_rate") for end in ("png", "svg")
}


def bound(folder) -> tuple[Config, RunDirectory]:
    return from_dict(Config, read_json(folder / "config.json")), RunDirectory(folder)


def rows(folder, model: str, split: str = "test") -> list[dict]:
    """One model's records of a split, by query, as plain dicts."""
    table = pq.read_table(folder / "records" / f"{model}.parquet").to_pylist()
    return sorted((r for r in table if r["split"] == split), key=lambda r: r["query_id"])


def area(score, small, large) -> float:
    """Area under the deferral curve: queries one by one, ties shared out evenly."""
    levels = sorted(set(score), reverse=True)
    total, quality = 0.0, float(np.mean(small))
    for level in levels:
        here = [i for i, s in enumerate(score) if s == level]
        gain = sum(large[i] - small[i] for i in here) / len(score)
        total += len(here) / len(score) * (quality + gain / 2)
        quality += gain
    return total


def test_the_files_it_reads(finished):
    config, run = bound(finished.folder)
    paths = evaluation.record_paths(config, run)
    assert [p.stem for p in paths] == ["large"] + [f"{a}-seed{s}" for a in ARMS for s in SEEDS]
    assert all(path.is_file() for path in paths)


@pytest.mark.parametrize("arm", ARMS)
def test_areas_are_those_of_the_records(finished, arm):
    config, run = bound(finished.folder)
    found = evaluation.load(run, arm, 1)
    small, large = rows(finished.folder, f"{arm}-seed1"), rows(finished.folder, "large")
    assert [r["query_id"] for r in small] == [r["query_id"] for r in large]
    qualities = [r["quality"] for r in small], [r["quality"] for r in large]
    doubt = [-float(np.mean(r["token_logprob"])) for r in small]
    entry = found["routers"]["chow_average"]
    assert entry["audc"] == pytest.approx(area(doubt, *qualities), abs=1e-6)
    assert entry["audc_random"] == pytest.approx(np.mean(qualities), abs=1e-6)
    gain = [b - a for a, b in zip(*qualities, strict=True)]
    assert entry["audc_oracle"] == pytest.approx(area(gain, *qualities), abs=1e-6)
    assert (found["n_fit"], found["n_test"]) == (VALIDATION, TEST)
    ranked = evaluation.load_ranked(config, run, arm, 1)
    for name, r in ranked.items():
        curve = r.curve()
        area_again = np.trapezoid(curve.quality, curve.deferral_rate)
        assert area_again == pytest.approx(found["routers"][name]["audc"], abs=1e-12)


def test_per_task_areas_are_those_of_the_task_alone(finished):
    found = evaluation.load(RunDirectory(finished.folder), "xent", 0)
    small, large = rows(finished.folder, "xent-seed0"), rows(finished.folder, "large")
    for task, entry in found["tasks"].items():
        here = [i for i, r in enumerate(small) if r["task"] == task]
        assert entry["n_test"] == len(here) > 0
        doubt = [-float(np.mean(small[i]["token_logprob"])) for i in here]
        qualities = [small[i]["quality"] for i in here], [large[i]["quality"] for i in here]
        expected = area(doubt, *qualities)
        assert entry["routers"]["chow_average"]["audc"] == pytest.approx(expected, abs=1e-6)


def test_a_prompt_router_pays_for_its_embedding(finished):
    _, run = bound(finished.folder)
    parameters = read_json(run.folder / "data.json")["parameters"]["small_layers"]
    with np.load(run.folder / "evaluations" / "xent-seed0.npz") as stored:
        charged, free = stored["flops/prompt"], stored["flops/chow_average"]
    by_id = {r["query_id"]: r["prompt_tokens"] for r in rows(run.folder, "xent-seed0")}
    line = 2 * len(rows(run.folder, "xent-seed0")[0]["prompt_embedding"])
    prefill = 2 * parameters * np.array(list(by_id.values()))
    assert (charged >= prefill).all()
    assert (charged <= prefill + 4 * line + 10).all()
    assert (free < 1000).all()


@pytest.mark.parametrize(
    ("spec", "want"),
    [
        ("knn", "knn:embedding_flops=2468"),
        ("knn:embedding_flops=3", "knn:embedding_flops=3"),
        ("chow_average", "chow_average"),
        ("stack:members=margin+knn:k=5", "stack:members=margin+knn:k=5;embedding_flops=2468"),
        ("stack:members=margin+length", "stack:members=margin+length"),
    ],
)
def test_what_reads_the_prompt_embedding_is_charged_the_prefill(tmp_path, spec, want):
    """Also inside a stack; two FLOPs per parameter and prompt token."""
    (tmp_path / "data.json").write_text(json.dumps({"parameters": {"small_layers": 1234}}))
    found, expected = evaluation._charged(build(spec), RunDirectory(tmp_path)), build(want)
    fields = dataclasses.fields(expected)
    assert type(found) is type(expected)
    assert [getattr(found, f.name) for f in fields] == [getattr(expected, f.name) for f in fields]


def test_evaluating_again_gives_the_same_scores(finished, run_copy):
    (run_copy / "stages" / "evaluation-xent-seed0.json").unlink()
    config, run = bound(run_copy)
    evaluation.evaluate_run(config, run)
    names = [f"score/{name}" for name in config.evaluation.routers]
    path = "evaluations/xent-seed0.npz"
    with np.load(finished.folder / path) as old, np.load(run_copy / path) as new:
        assert all(np.array_equal(old[name], new[name]) for name in names)


def test_a_report_without_chow_average_logs_or_resamples(run_copy, capsys):
    assert {path.name for path in (run_copy / "plots").iterdir()} == FIGURES
    for arm in ARMS:
        for log in (run_copy / "arms" / arm).rglob("metrics.jsonl"):
            log.unlink()
    options = ["--evaluation.routers", "random", "length", "--evaluation.bootstrap", "0", "--redo"]
    assert main(["report", str(run_copy), *options]) == 0
    drawn = {path.name for path in (run_copy / "plots").iterdir()}
    assert drawn == {"quality_flops.png", "quality_flops.svg"}
    made = json.loads((run_copy / "summary.json").read_text())
    for arm in ARMS:
        assert made["arms"][arm]["keep_rate"] is None
        assert made["arms"][arm]["routers"]["length"]["audc"]["ci"] is None
    assert made["findings"] == []
    assert (run_copy / "report.html").stat().st_size > 100_000
    assert "length" in capsys.readouterr().out


@pytest.mark.parametrize("gone", ["records/cat_xent-seed1.parquet", "stages/records-large.json"])
def test_a_report_before_scoring_is_finished(finished, tmp_path, capsys, gone):
    folder = tmp_path / "half"
    kept = [finished.folder / name for name in ("config.json", "data.json")]
    for part in ("records", "stages"):
        shutil.copytree(finished.folder / part, folder / part)
    for path in kept:
        shutil.copy(path, folder)
    (folder / gone).unlink()
    assert main(["report", str(folder)]) == 2
    error = capsys.readouterr().err.strip()
    assert gone in error
    assert "cascade run" in error
    assert not (folder / "summary.json").exists()


def test_negative_resamples_are_refused(tmp_path, capsys):
    options = ["--runs", str(tmp_path), "--evaluation.bootstrap", "-1"]
    assert main(["run", "demo", *options]) == 2
    assert "evaluation.bootstrap=-1" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_joined_by_query_and_not_by_row(finished):
    config, run = bound(finished.folder)
    inputs, outcomes = evaluation.load_pair(config, run, "xent", 0, "test")
    large = {r["query_id"]: r["quality"] for r in rows(run.folder, "large")}
    small = {r["query_id"]: r["quality"] for r in rows(run.folder, "xent-seed0")}
    for i, query in enumerate(inputs.query_id.tolist()):
        assert outcomes.quality_large[i] == pytest.approx(large[query], abs=1e-6)
        assert outcomes.quality_small[i] == pytest.approx(small[query], abs=1e-6)
    with pytest.raises(InputError, match="train"):
        evaluation.load_pair(config, run, "xent", 0, "train")
