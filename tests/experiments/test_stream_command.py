"""`cascade evaluate --stream`: the same output as without, and what it refuses."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments.cli import main

ASKED = ["--router", "chow_average", "--router", "length", "--bootstrap", "20"]


@pytest.fixture
def log(tmp_path) -> str:
    """Two models, 30 queries in each of two splits, token log-probabilities of the small one."""
    rng = np.random.default_rng(0)
    ids = [f"{split}-{i:02d}" for split in ("validation", "test") for i in range(30)]
    lengths = rng.integers(1, 6, 60)
    tokens = [(-rng.exponential(1.0, n)).tolist() for n in lengths]
    table = pa.table(
        {
            "query_id": ids * 2,
            "split": [name.partition("-")[0] for name in ids] * 2,
            "model": ["tiny"] * 60 + ["huge"] * 60,
            "quality": rng.integers(0, 2, 120).astype(float),
            "flops": [1e6] * 60 + [1e7] * 60,
            "response_tokens": np.tile(lengths, 2),
            "token_logprob": pa.array([*tokens, *[None] * 60], pa.list_(pa.float32())),
        }
    )
    pq.write_table(table, tmp_path / "log.parquet", row_group_size=25)
    return str(tmp_path / "log.parquet")


def printed(capsys, *arguments: str) -> str:
    assert main(["evaluate", *arguments]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("extra", [["--json"], [], ["--by-task", "--json", "--seed", "4"]])
def test_prints_what_it_prints_without(log, capsys, extra):
    whole = printed(capsys, log, *ASKED, *extra)
    assert printed(capsys, log, *ASKED, *extra, "--stream") == whole
    assert "chow_average" in whole


def test_writes_the_same_files(log, tmp_path, capsys):
    for name, extra in (("whole", []), ("streamed", ["--stream"])):
        printed(capsys, log, *ASKED, *extra, "-o", str(tmp_path / name))
    curves = ["chow_average.csv", "length.csv", "reference_oracle.csv", "reference_random.csv"]
    for name in curves:
        pair = [(tmp_path / folder / name).read_text() for folder in ("whole", "streamed")]
        assert pair[0] == pair[1]
    kept = [
        json.loads((tmp_path / f / "evaluation.json").read_text()) for f in ("whole", "streamed")
    ]
    for summary in kept:
        for entry in summary["routers"].values():
            assert entry.pop("curve_csv")
    assert kept[0] == kept[1]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--router", "post_hoc"], "router 'post_hoc' learns, which a stream"),
        ([*ASKED, "--convention", "all"], "convention 'all' compares all curves at once"),
        ([*ASKED, "--tiers", "tiny,huge"], "--stream does not go with --tiers"),
        (["--router", "entropy"], "records lack token_entropy"),
    ],
)
def test_refuses_in_one_line_and_writes_nothing(log, tmp_path, capsys, extra, message):
    out = tmp_path / "out"
    assert main(["evaluate", log, "--stream", *extra, "-o", str(out)]) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""
    assert not out.exists()
