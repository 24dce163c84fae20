"""Bad input through the command: exit code 2, one line that names the culprit, nothing written."""

import dataclasses
import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments import configs
from experiments.cli import main
from experiments.pipeline import Pipeline
from experiments.rundir import RunDirectory

LOGS = "logs.parquet"
NAN = float("nan")


def columns(queries: int = 8) -> dict[str, list]:
    """A sound log: two models, the same queries in validation and test."""
    names = [f"{split}-{i}" for split in ("validation", "test") for i in range(queries)]
    rows = 2 * len(names)
    return {
        "query_id": names * 2,
        "split": [name.partition("-")[0] for name in names] * 2,
        "model": ["tiny"] * len(names) + ["huge"] * len(names),
        "quality": [float(i % 3 > 0) for i in range(rows)],
        "response_tokens": [3 + i % 5 for i in range(rows)],
        "prompt_tokens": [7] * rows,
        "flops": [1e6] * len(names) + [1e7] * len(names),
    }


def log(change: Callable[[dict[str, list]], object] = lambda c: None) -> Callable[[Path], None]:
    """Writes the sound log after ``change`` has spoiled it."""

    def write(folder: Path) -> None:
        data = columns()
        change(data)
        pq.write_table(pa.table(data), folder / LOGS)

    return write


def keep(data: dict[str, list], wanted: Callable[[int], bool]) -> None:
    """Only the rows for which ``wanted(row)``."""
    rows = [i for i in range(len(data["query_id"])) if wanted(i)]
    data.update({name: [values[i] for i in rows] for name, values in data.items()})


def third_model(data: dict[str, list]) -> None:
    more = columns()
    more["model"] = ["medium" if model == "huge" else "tiny" for model in more["model"]]
    half = len(more["model"]) // 2
    for name, values in more.items():
        data[name] += values[half:]


def truncated(folder: Path) -> None:
    log()(folder)
    whole = (folder / LOGS).read_bytes()
    (folder / LOGS).write_bytes(whole[: len(whole) // 2])


def not_parquet(folder: Path) -> None:
    (folder / LOGS).write_text("query_id,model\n1,a\n")


EVALUATE = ["evaluate", LOGS]
CHOW = [*EVALUATE, "--router", "length"]
RECORDS = {
    "missing_file": (None, ["evaluate", "gone.parquet", "--router", "length"], "gone.parquet"),
    "missing_among_several": (log(), [*CHOW[:2], "b.parquet", *CHOW[2:]], "b.parquet: no such"),
    "text_as_parquet": (not_parquet, CHOW, "logs.parquet: not a readable Parquet"),
    "truncated_parquet": (truncated, CHOW, "logs.parquet: not a readable Parquet"),
    "no_quality": (log(lambda c: c.pop("quality")), CHOW, "logs.parquet: no column 'quality'"),
    "no_cost": (log(lambda c: c.pop("flops")), CHOW, "no column 'flops' or 'dollars'"),
    "nan_quality": (
        log(lambda c: c["quality"].__setitem__(5, NAN)),
        CHOW,
        r"logs.parquet: row 5 \(query_id 'validation-5'\): 'quality' is NaN",
    ),
    "quality_of_percents": (
        log(lambda c: c["quality"].__setitem__(3, 87.0)),
        CHOW,
        r"row 3 \(query_id 'validation-3'\): 'quality' is outside \[0, 1\] \(87.0\)",
    ),
    "quality_as_text": (
        log(lambda c: c.update(quality=["good"] * len(c["quality"]))),
        CHOW,
        "logs.parquet: column 'quality' is string",
    ),
    "negative_flops": (log(lambda c: c["flops"].__setitem__(2, -1.0)), CHOW, "row 2 .*'flops'"),
    "duplicate_query": (
        log(lambda c: c["query_id"].__setitem__(1, "validation-0")),
        CHOW,
        "query_id 'validation-0' of model 'tiny'",
    ),
    "unknown_split": (
        log(lambda c: c["split"].__setitem__(0, "dev")),
        CHOW,
        r"row 0 .*'split' is unknown \('dev'\)",
    ),
    "other_queries": (
        log(lambda c: keep(c, lambda i: not (c["query_id"][i] == "test-7" and i < 16))),
        CHOW,
        "test-7",
    ),
    "empty_file": (log(lambda c: keep(c, lambda i: False)), CHOW, "logs.parquet: no rows"),
    "small_unknown": (log(), [*CHOW, "--small", "tinny"], "'tinny'.*did you mean 'tiny'"),
    "large_unknown": (log(), [*CHOW, "--large", "hugge"], "'hugge'.*did you mean 'huge'"),
    "same_model_twice": (log(), [*CHOW, "--small", "tiny", "--large", "tiny"], "both 'tiny'"),
    "three_models": (log(third_model), CHOW, r"3 models \(huge, medium, tiny\)"),
    "one_model": (log(lambda c: keep(c, lambda i: i < 16)), CHOW, r"1 models \(tiny\)"),
    "split_without_rows": (log(), [*CHOW, "--test-split", "train"], "'train'"),
    "split_misspelt": (log(), [*CHOW, "--test-split", "tset"], "'tset'"),
    "fit_split_misspelt": (log(), [*CHOW, "--fit-split", "validaton"], "'validaton'"),
    "one_split_for_both": (log(), [*CHOW, "--fit-split", "test"], "both 'test'"),
    "negative_seed": (log(), [*CHOW, "--seed", "-1"], "seed=-1"),
    "no_router": (log(), EVALUATE, "router"),
    "token_router_without_tokens": (
        log(),
        [*EVALUATE, "--router", "chow_average"],
        "records lack token_logprob",
    ),
    "learned_without_fit_split": (
        log(lambda c: keep(c, lambda i: c["split"][i] == "test")),
        [*EVALUATE, "--router", "post_hoc"],
        "'validation'",
    ),
    "router_misspelt": (log(), [*EVALUATE, "--router", "lenght"], "'lenght'.*mean 'length'"),
    "router_field_misspelt": (
        log(),
        [*EVALUATE, "--router", "chow_quantile:alhpa=0.1"],
        "'alhpa'.*did you mean 'alpha'",
    ),
    "router_value": (log(), [*EVALUATE, "--router", "chow_quantile:alpha=low"], "alpha=low"),
    "router_value_range": (log(), [*EVALUATE, "--router", "chow_quantile:alpha=2"], "alpha.*2"),
    "option_misspelt": (log(), [*CHOW, "--boostrap", "9"], "--boostrap.*mean --bootstrap"),
    "option_value": (log(), [*CHOW, "--bootstrap", "many"], "--bootstrap.*'many'"),
    "option_range": (log(), [*CHOW, "--bootstrap", "-5"], "bootstrap.*-5"),
    "no_records": (None, ["evaluate", "--router", "length"], "records|RECORDS|file"),
    "out_is_a_file": (log(), [*CHOW, "--bootstrap", "0", "-o", LOGS], "logs.parquet"),
    "rate_above_one": (
        log(),
        ["calibrate", LOGS, "--router", "length", "--deferral-rate", "1.5", "-o", "p.json"],
        r"1\.5",
    ),
    "policy_suffix": (
        log(),
        ["calibrate", LOGS, "--router", "length", "--deferral-rate", "0.5", "-o", "p.txt"],
        "p.txt: a policy file ends in .json",
    ),
    "policy_of_an_oracle": (
        log(),
        ["calibrate", LOGS, "--router", "oracle", "--deferral-rate", "0.5", "-o", "p.json"],
        "'oracle' sees outcomes",
    ),
    "calibrate_without_rate": (
        log(),
        ["calibrate", LOGS, "--router", "length", "-o", "p.json"],
        "--deferral-rate",
    ),
    "plot_of_nothing": (None, ["plot", "runs/none"], "runs/none"),
    "plot_of_records": (log(), ["plot", LOGS], "logs.parquet"),
}


def row(number: int, **changes) -> dict:
    split = "train" if number < 20 else "validation" if number < 25 else "test"
    whole = {"task": "t", "split": split, "inputs": f"say {number}", "targets": f"yes {number}"}
    return {k: v for k, v in (whole | changes).items() if v is not ...}


def data(spoilt: str | dict, line: int = 7) -> Callable[[Path], None]:
    """Writes my.jsonl, 30 sound rows but for that line."""

    def write(folder: Path) -> None:
        lines = [json.dumps(row(number)) for number in range(30)]
        lines[line - 1] = spoilt if isinstance(spoilt, str) else json.dumps(spoilt)
        (folder / "my.jsonl").write_text("\n".join(lines) + "\n")

    return write


def only(split: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        rows = [json.dumps(row(number, split=split)) for number in range(30)]
        (folder / "my.jsonl").write_text("\n".join(rows))

    return write


def half_gzip(folder: Path) -> None:
    text = "\n".join(json.dumps(row(number)) for number in range(300))
    (folder / "my.jsonl.gz").write_bytes(gzip.compress(text.encode())[:-40])


SOUND = data(row(6))
MINE = ["run", "text2text", "--data", "my.jsonl"]
EXAMPLES = {
    "not_json": (data('{"task": "t", '), MINE, "my.jsonl:7: invalid JSON"),
    "not_an_object": (data("[1, 2]"), MINE, "my.jsonl:7: a list where an object belongs"),
    "key_missing": (data(row(6, targets=...)), MINE, "my.jsonl:7: key 'targets' is missing"),
    "wrong_type": (data(row(6, inputs=3)), MINE, "my.jsonl:7: 'inputs' is a number"),
    "choices_as_text": (data(row(6, choices="a b")), MINE, "my.jsonl:7: 'choices' is a string"),
    "empty_target": (data(row(6, targets=" ")), MINE, "my.jsonl:7: 'targets' is empty"),
    "unknown_split": (data(row(6, split="dev")), MINE, "my.jsonl:7: split 'dev' is unknown"),
    "duplicate_id": (
        lambda f: (f / "my.jsonl").write_text(
            "\n".join(json.dumps(row(i, id="x")) for i in (1, 2))
        ),
        MINE,
        "my.jsonl:2: id 'x' occurs already at my.jsonl:1",
    ),
    "no_file": (None, MINE, "'my.jsonl' does not exist"),
    "no_jsonl_inside": (lambda f: (f / "d").mkdir(), [*MINE[:3], "d"], "'d' holds no .jsonl"),
    "empty_data": (lambda f: (f / "my.jsonl").write_text("\n"), MINE, "no .* examples"),
    "no_train_rows": (only("test"), MINE, "no train"),
    "not_utf8": (
        lambda f: (f / "my.jsonl").write_bytes(b'{"task": "\xff"}'),
        MINE,
        "my.jsonl: not",
    ),
    "half_a_gzip": (half_gzip, [*MINE[:3], "my.jsonl.gz"], "my.jsonl.gz: cannot be read after"),
    "too_long_for_the_limits": (
        SOUND,
        [*MINE, "--data.max-prompt-tokens", "1"],
        "data.max_prompt_tokens",
    ),
    "tokenizer_unknown": (SOUND, [*MINE, "--data.tokenizer", "sentences"], "'sentences'.*bpe:N"),
    "tokenizer_too_small": (SOUND, [*MINE, "--data.tokenizer", "bpe:9"], "'bpe:9'.*261"),
    "tokenizer_file": (SOUND, [*MINE, "--data.tokenizer", "no.json"], "'no.json' does not exist"),
    "metric_misspelt": (SOUND, [*MINE, "--data.metric", "chfr"], "'chfr'.*mean 'chrf'"),
    "size_of_zero": (SOUND, [*MINE, "--data.test-size", "0"], "data.test_size"),
}


def claimed(folder: Path) -> None:
    config = dataclasses.replace(configs.load("demo"), seeds=(7,))
    RunDirectory(folder / "runs" / "demo").claim(config)


def broken_run(folder: Path) -> None:
    claimed(folder)
    path = folder / "runs" / "demo" / "config.json"
    path.write_text(path.read_text()[:80])


def other_folder(folder: Path) -> None:
    (folder / "runs" / "demo").mkdir(parents=True)
    (folder / "runs" / "demo" / "thesis.tex").write_text("x")


def run(*more: str) -> list[str]:
    return ["run", "demo", *more]


EXPERIMENTS = {
    "verb_misspelt": (None, ["evalute", LOGS], "'evalute'; did you mean 'evaluate'"),
    "no_config": (None, ["run"], "needs CONFIG or RUN"),
    "config_misspelt": (None, ["run", "dmo"], "'dmo'; did you mean 'demo'"),
    "config_file_missing": (None, ["run", "my.py"], "my.py: no such file"),
    "config_file_broken": (
        lambda f: (f / "my.py").write_text("def config(:\n"),
        ["run", "my.py"],
        "my.py: SyntaxError",
    ),
    "option_misspelt": (None, run("--small.wdth", "3"), "--small.wdth.*mean --small.width"),
    "option_value": (None, run("--small.width", "wide"), "--small.width.*'wide'"),
    "flag_value": (None, run("--redo", "maybe"), "maybe"),
    "task_misspelt": (None, run("--data.task", "genrated"), "'genrated'.*mean 'generated'"),
    "mix_unknown": (None, run("--data.mix", "half"), "data.mix 'half'"),
    "arm_misspelt": (None, run("--arms", "cat_xnt"), "'cat_xnt'; did you mean 'cat_xent'"),
    "arm_field": (None, run("--arms", "dist:teachr=live"), "'teachr'; did you mean 'teacher'"),
    "mask_misspelt": (None, run("--arms", "xent:mask=either_hti"), "either_hti.*mean 'either_hit'"),
    "arm_twice": (None, run("--arms", "xent", "xent"), "arms="),
    "seeds_repeated": (None, run("--seeds", "0", "1", "0"), r"seeds=\[0, 1, 0\]"),
    "no_seeds": (None, run("--seeds"), r"seeds=\[\]"),
    "distil_without_probabilities": (None, run("--arms", "dist"), "'dist'.*--teacher-topk"),
    "steps_of_zero": (None, run("--arm-train.steps", "0"), "arm_train.steps=0"),
    "heads": (None, run("--large.kv-heads", "3"), "large.kv_heads=3 does not divide large.heads=4"),
    "odd_head_dim": (None, run("--small.head-dim", "7"), "small.head_dim=7"),
    "router_misspelt": (None, run("--evaluation.routers", "margn"), "'margn'.*mean 'margin'"),
    "name_with_slash": (None, run("--name", "a/b"), "name='a/b'"),
    "another_configuration": (
        claimed,
        run(),
        r"runs/demo: made with another .*seeds \[7\] → \[0\]",
    ),
    "folder_of_something_else": (other_folder, run(), "runs/demo: not a run directory"),
    "folder_that_is_no_run": (other_folder, ["report", "runs/demo"], "runs/demo: not a run"),
    "config_json_cut": (broken_run, ["run", "runs/demo"], "runs/demo/config.json: not JSON"),
    "report_before_score": (claimed, ["report", "runs/demo"], "parquet: not scored yet"),
    "report_of_nothing": (None, ["report", "demo"], "parquet: not scored yet"),
    "listing_option": (None, ["routers", "--jsn"], "--jsn; did you mean --json"),
}


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder, with the bytes of files."""
    paths = sorted(folder.rglob("*"))
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() if p.is_file() else None for p in paths
    }


def not_refused(*_: object) -> None:
    raise AssertionError("bad input reached training")


CASES = {
    f"{part}-{name}": case
    for part, cases in (("records", RECORDS), ("data", EXAMPLES), ("run", EXPERIMENTS))
    for name, case in cases.items()
}


@pytest.mark.parametrize("case", CASES)
def test_one_line_exit_code_2_and_nothing_written(case, tmp_path, monkeypatch, capsys):
    prepare, arguments, culprit = CASES[case]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Pipeline, "fit", not_refused)
    if prepare:
        prepare(tmp_path)
    before = tree(tmp_path)
    code = main(arguments)
    out, err = capsys.readouterr()
    assert code == 2, err
    assert len(err.splitlines()) == 1, err
    assert err.startswith("cascade: ")
    assert re.search(culprit, err), err
    assert out == ""
    assert tree(tmp_path) == before


def test_the_sound_log_is_sound(tmp_path, monkeypatch, capsys):
    """Otherwise the cases above could fail for another reason than theirs."""
    monkeypatch.chdir(tmp_path)
    log()(tmp_path)
    assert main([*CHOW, "--bootstrap", "0", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["n_test"] == 8
    assert err == ""
