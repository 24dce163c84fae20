"""Bits per character by hand."""

import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cat.config import Config, DataConfig
from experiments.bits import bits_per_character, of_test
from experiments.rundir import RunDirectory


def test_bits_by_hand():
    """' b' after 'a' (a space, one letter) and 'cd' after a line's end; eos is not counted."""
    table = pa.table({
        "prompt": ["a", "x\n"],
        "reference": ["b", "cd"],
        "forced_logprob": [
            [math.log(1 / 2), math.log(1 / 4), math.log(1e-9)],
            [math.log(1 / 8), math.log(1e-9)],
        ],
    })  # fmt: skip
    assert bits_per_character(table) == pytest.approx((1 + 2 + 3) / (2 + 2), rel=1e-6)


def test_a_model_that_knows_the_text_needs_no_bits():
    table = pa.table({"prompt": ["a"], "reference": ["b"], "forced_logprob": [[0.0, 0.0, -5.0]]})
    assert bits_per_character(table) == 0


def test_of_a_run_the_mean_over_its_seeds_of_test_alone(tmp_path):
    (tmp_path / "records").mkdir()
    for seed, bits in enumerate((2.0, 6.0)):
        known = [[-bits * math.log(2), -1.0], [-50.0, -1.0]]
        columns = {"prompt": ["a\n", "a\n"], "reference": ["b", "c"], "forced_logprob": known}
        table = pa.table({**columns, "split": ["test", "validation"]})
        pq.write_table(table, tmp_path / "records" / f"xent-seed{seed}.parquet")
    run, names = RunDirectory(tmp_path), ["xent-seed0", "xent-seed1"]
    running = Config(name="lm", data=DataConfig(task="text", running_text=True))
    assert of_test(running, run, names)["bits_per_character"] == pytest.approx(4.0, rel=1e-6)
    assert of_test(Config(name="other"), run, names) == {}
