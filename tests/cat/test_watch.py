"""The log: a line per step, JSON without NaN, times that add up; the note beside the bar."""

import dataclasses
import json
import time

import jax
import numpy as np
import pytest
from kill_driver import MODEL, OPTIMIZER, rows

from cat import train, watch
from cat.config import ArmConfig
from cat.mesh import make_mesh
from cat.types import Batch
from cat.watch import Spent


def batch(real: int = 5) -> Batch:
    """Two steps of three rows of eight tokens, ``real`` of them not pad."""
    segments = np.broadcast_to((np.arange(8) < real).astype(np.int32), (2, 3, 8))
    return Batch(segments, segments, segments.astype(np.float32), segments, segments)


METRICS = {
    "loss": np.array([1.5, np.nan], np.float32),
    "grad_norm": np.array([2.0, np.inf], np.float32),
    "n11": np.array([3, 4], np.int32),
}


@pytest.fixture(autouse=True)
def mesh():
    with jax.set_mesh(make_mesh(data=1)):
        yield


def test_a_line_per_step_with_the_dispatch_s_times():
    first, second = watch.lines(6, METRICS, batch(), Spent(seconds=0.5, waited=0.2, flops=1e9))
    assert (first["step"], second["step"]) == (7, 8)
    assert (first["loss"], first["grad_norm"], first["n11"]) == (1.5, 2.0, 3)
    assert (second["loss"], second["grad_norm"], second["n11"]) == (None, None, 4)
    assert [first[name] for name in ("n10", "n01", "n00")] == [None] * 3
    for line in (first, second):
        assert line["tokens_per_s"] == 2 * 3 * 5 / 0.5
        assert (line["step_s"], line["data_wait_s"]) == (0.25, 0.1)
        assert line["mfu"] is None  # a CPU has no published peak


def test_the_log_is_json_that_any_reader_takes(tmp_path):
    log = tmp_path / "log.jsonl"
    watch.append(log, watch.lines(0, METRICS, batch(), Spent(1.0, 0.0, 0.0)))
    watch.settle(log)

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    found = [json.loads(line, parse_constant=refuse) for line in log.read_text().splitlines()]
    assert [line["loss"] for line in found] == [1.5, None]


def test_lines_after_a_checkpoint_are_cut_half_a_line_too(tmp_path):
    log = tmp_path / "log.jsonl"
    watch.cut(log, 3)
    assert not log.exists()
    watch.append(log, [{"step": i + 1} for i in range(5)])
    with log.open("a") as file:
        file.write('{"step": 6, "lo')
    watch.cut(log, 3)
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [1, 2, 3]
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "loss 2.346 keep 0.68 312 tokens/s"),
        ({"tokens_per_s": 3_204_000, "mfu": 0.412}, "loss 2.346 keep 0.68 3.2M tokens/s MFU 41%"),
        ({"loss": None}, "loss none keep 0.68 312 tokens/s"),
        ({"loss": None, "keep_rate": None}, "loss none keep none 312 tokens/s"),
    ],
)
def test_the_note_says_what_is_known(changes, said):
    line = {"loss": 2.3456, "keep_rate": 0.678, "tokens_per_s": 312, "mfu": None}
    assert watch.note(line | changes) == said


def test_waiting_for_rows_is_seen(tmp_path):
    """A slow source: the wait is in the log, and within the time of the step."""

    class Slow:
        """Rows of which a dispatch takes 200 ms to fetch."""

        def __init__(self, source):
            self._source = source

        def __getattr__(self, name):
            return getattr(self._source, name)

        def __len__(self):
            return len(self._source)

        def batch(self, index):
            time.sleep(0.2)
            return self._source.batch(index)

    optimizer = dataclasses.replace(
        OPTIMIZER, steps=32, validate_every=0, select="last", checkpoint_every=1000
    )
    waits = {}
    for name, source in (("fast", rows(64, 0)), ("slow", Slow(rows(64, 0)))):
        train.train(MODEL, optimizer, ArmConfig(), source, folder=tmp_path / name)
        lines = [json.loads(x) for x in (tmp_path / name / watch.LOG).read_text().splitlines()]
        for line in lines:
            assert 0 <= line["data_wait_s"] <= line["step_s"]
        waits[name] = [line["data_wait_s"] for line in lines[8:]]  # the first were prefetched
    assert np.median(waits["slow"]) > 3 * np.median(waits["fast"])
    assert 0.01 < np.median(waits["slow"]) <= 0.2 / 4 + 0.01  # a dispatch has four steps
