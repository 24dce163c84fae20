"""One device, eight, and two processes of four: the same losses, parameters and checkpoints."""

import functools
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import spmd_worker as worker

from cat.config import ARMS

ONE = (1, 1, 1)


@functools.cache
def alone(arm):
    return worker.trajectory(arm, ONE)


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    np.testing.assert_allclose(found["loss"], wanted["loss"], rtol=1e-5, atol=1e-5)
    for name in wanted:
        np.testing.assert_allclose(found[name], wanted[name], rtol=0, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("mesh", [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 4, 2)], ids=str)
def test_eight_devices_train_as_one(mesh):
    """Distillation on a mask: the arm that reads most."""
    assert_same(worker.trajectory("cat_dist", mesh), alone("cat_dist"))


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    """What two processes of four devices left: found.npz, and a run stopped half way."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, worker.__file__, json.dumps([2, 2, 2]), "4", str(folder)]
    kept = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    root = str(Path(__file__).resolve().parents[2])
    if jax.__version_info__[:2] == (0, 10):  # later XLA has no such flag; here it halves compiling
        kept["XLA_FLAGS"] = "--xla_cpu_use_fusion_emitters=false"
    kept |= {"PYTHONPATH": root, "JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    both = [
        subprocess.Popen(
            command,
            env=kept | {"JAX_PROCESS_ID": str(i)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(2)
    ]
    try:
        said = [process.communicate(timeout=300)[0] for process in both]
    finally:
        for process in both:
            process.kill()
    for process, text in zip(both, said, strict=True):
        assert process.returncode == 0, text[-3000:]
    return folder


@pytest.mark.parametrize("arm", ARMS)
def test_two_processes_train_as_one_device(arm, two):
    with np.load(two / "found.npz") as file:
        found = {k.removeprefix(f"{arm}/"): file[k] for k in file if k.startswith(f"{arm}/")}
    assert_same(found, alone(arm))


@pytest.mark.parametrize("mesh", [ONE, (1, 4, 2)], ids=str)
def test_a_run_of_two_processes_goes_on_in_one(mesh, two, tmp_path):
    """Stopped by a signal to one of them, with one log and one place in the data."""
    half = worker.RUN.steps // 2
    lines = (two / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, half + 1))
    shutil.copytree(two / "run", tmp_path / "run")
    notes = []
    found = worker.trained(tmp_path / "run", mesh, lambda *note: notes.append(note))
    assert notes[0] == (half, "resumed")
    whole = worker.trained(tmp_path / "whole", ONE)
    for name in whole:
        np.testing.assert_allclose(found[name], whole[name], rtol=0, atol=1e-5, err_msg=name)
