"""``kill -9`` at random moments, checkpoints half written among them: the run ends the same."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np

from cat.watch import TIMES

KILLS = int(os.environ.get("CASCADE_KILLS", "5"))
"""Each costs the start of a process; a release is worth ``CASCADE_KILLS=20``."""

STEPS = 16 * (KILLS + 1)
"""Of 4 a dispatch: more than the killed processes get to."""


def outcome(folder: Path):
    with np.load(folder / "params.npz") as params:
        found = dict(params)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return found, [{k: v for k, v in line.items() if k not in TIMES} for line in lines]


def test_killed_at_random_a_run_ends_with_the_bits_of_one_that_was_not(tmp_path):
    driver, rng = Path(__file__).with_name("kill_driver.py"), np.random.default_rng()

    def launch(name: str, dispatch: int, delay: float) -> int:
        given = [
            str(tmp_path / name),
            str(tmp_path / "cache"),
            str(STEPS),
            str(dispatch),
            str(delay),
        ]
        run = subprocess.run(
            [sys.executable, "-W", "error", driver, *given],
            capture_output=True,
            text=True,
            timeout=300,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, driver.parents[1:3]))},
        )
        assert run.returncode in (0, -signal.SIGKILL), run.stderr
        return run.returncode

    assert launch("whole", 0, 0.0) == 0
    moments = [(int(rng.integers(1, 5)), float(rng.uniform(0, 0.1))) for _ in range(KILLS)]
    for dispatch, delay in moments:
        assert launch("killed", dispatch, delay) == -signal.SIGKILL, moments
    assert launch("killed", 0, 0.0) == 0
    (whole, lines), (killed, others) = outcome(tmp_path / "whole"), outcome(tmp_path / "killed")
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert lines == others, moments
    assert whole.keys() == killed.keys()
    for name, value in whole.items():
        np.testing.assert_array_equal(killed[name], value, err_msg=f"{name} {moments}")
