"""`cascade evaluate --tiers`: the tables, the JSON, the file, and what is refused."""

import json

import numpy as np
import pyarrow as pa
import pytest

from experiments.cli import main
from routers.compare_tiers import compare_tiers
from routers.records import Records, read, write
from routers.schema import normalise

MODELS = ("s", "m", "l")
KINDS = ["alone"] * 3 + ["static", "routing", "cascade"] + ["pair"] * 3 + ["cascade_routing"]


@pytest.fixture(scope="module")
def log(tmp_path_factory) -> str:
    """Three models, 40 queries a split; confidence falls with difficulty."""
    tables = []
    for split in ("validation", "test"):
        for k, model in enumerate(MODELS):
            rng = np.random.default_rng([k, len(split)])
            hard = np.random.default_rng(len(split)).random(40)
            columns = {
                "query_id": [f"{split}{i}" for i in range(40)],
                "split": [split] * 40,
                "model": [model] * 40,
                "quality": (hard < (0.3, 0.6, 0.9)[k]).astype(np.float32),
                "flops": (1e6, 4e6, 2e7)[k] * (1 + rng.random(40)),
                "token_logprob": [[-float(h), -0.1] for h in hard],
            }
            tables.append(normalise(pa.table(columns), "log"))
    path = tmp_path_factory.mktemp("log") / "log.parquet"
    write(path, Records(pa.concat_tables(tables)))
    return str(path)


def asked(log, *more):
    return ["evaluate", log, "--tiers", "s,m,l", "--router", "chow_average", *more]


def test_the_json_is_that_of_the_comparison(log, capsys):
    from pathlib import Path

    from routers.build import build

    assert main(asked(log, "--bootstrap", "20", "--json")) == 0
    printed = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    routers = {"chow_average": build("chow_average")}
    assert printed == json.loads(
        json.dumps(compare_tiers(read([Path(log)]), MODELS, routers, bootstrap=20))
    )
    assert [row["policy"] for row in printed["policies"]] == KINDS


def test_the_tables_show_every_policy_and_budget(log, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(asked(log, "--bootstrap", "20", "-o", str(out))) == 0
    text = capsys.readouterr().out
    found = json.loads((out / "tiers.json").read_text())
    for name in ("static mixture", "routing", "cascade of two", "cascade routing", "chow_average"):
        assert name in text
    cascade = next(row for row in found["policies"] if row["policy"] == "cascade")
    at = found["budget_shares"].index(0.6)
    point, budget = cascade["points"][at], found["budgets"][at]
    assert f"{point['quality']:.4f} @ {point['cost'] / budget:.0%}" in text
    assert f"{budget:.4g} flops" in text
    pair = next(row for row in found["policies"] if row["models"] == ["s", "l"])
    low, high = pair["mean_minus_cascade"]["ci"]
    assert f"{pair['mean_minus_cascade']['value']:+.3f} [{low:+.3f}, {high:+.3f}]" in text
    assert str(out) in text


def test_without_resamples_the_table_has_no_intervals(log, capsys):
    assert main(asked(log, "--bootstrap", "0")) == 0
    table = capsys.readouterr().out.split("minus that of the cascade")[1]
    assert "[" not in table
    assert "–" in table


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--small", "s"], "--small does not go with --tiers"),
        (["--large", "l"], "--large does not go with --tiers"),
        (["--by-task"], "--by-task does not go with --tiers"),
        (["--convention", "all"], "--convention does not go with --tiers"),
        (["--stream"], "--stream does not go with --tiers"),
        (["--report", "page.html"], "--report does not go with --tiers"),
        (["--tiers", "s,,l"], "a tier without a name"),
        (["--tiers", ""], "a tier without a name"),
        (["--tiers", "s"], "name at least two models"),
        (["--tiers", "l,s"], "cheapest first: s,l"),
        (["--tiers", "s,x"], "no model 'x'"),
        (["--router", "oracle"], "Oracle sees the outcomes"),
        (["--test-split", "train"], "no rows in split 'train'"),
    ],
)
def test_what_is_refused_in_one_line(log, tmp_path, capsys, more, message):
    out = tmp_path / "out"
    assert main(asked(log, "-o", str(out), *more)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not out.exists()
