"""Which dispatches are traced, and that a trace is a file."""

import dataclasses

import jax
import pytest
from kill_driver import MODEL, OPTIMIZER, rows

from cat import train
from cat.config import ArmConfig
from cat.mesh import make_mesh
from cat.profiling import Trace, window
from routers.errors import InputError


@pytest.mark.parametrize("steps", ["10", "10:", "0:3", "5:4", "a:b", "1:2:3", "-1:4"])
def test_what_is_no_window_is_refused(steps):
    with pytest.raises(InputError, match=r"give the first and last step, e\.g\. 10:15"):
        window(steps)


@pytest.mark.parametrize(
    ("steps", "size", "traced"),
    [
        ("10:15", 4, [(9, 12), (13, 16)]),
        ("9:12", 4, [(9, 12)]),
        ("1:1", 4, [(1, 4)]),
        ("10:15", 1, [(i, i) for i in range(10, 16)]),
        ("19:40", 4, [(17, 20)]),
        ("30:40", 4, []),
        ("", 4, []),
    ],
)
def test_whole_dispatches_with_a_chosen_step_are_traced(steps, size, traced, tmp_path, monkeypatch):
    on, found, said = [], [], []
    monkeypatch.setattr("jax.profiler.start_trace", lambda place: on.append(place))
    monkeypatch.setattr("jax.profiler.stop_trace", lambda: on.pop())
    trace = Trace(steps, tmp_path, lambda count, note: said.append((count, note)))
    for first in range(1, 21, size):
        last = first + size - 1
        trace.before(first, last)
        if on:
            assert on == [tmp_path / "profile"]
            found.append((first, last))
        trace.after(last)
    trace.close(20)
    assert (found, on) == (traced, [])
    expected = (
        []
        if not traced
        else [f"steps {traced[0][0]} to {traced[-1][1]} traced in {tmp_path / 'profile'}"]
    )
    assert [note for _, note in said] == expected
    assert all(count == 0 for count, _ in said)


def test_a_run_s_trace_is_on_disk(tmp_path):
    optimizer = dataclasses.replace(OPTIMIZER, steps=16, validate_every=0, select="last")
    notes = []
    with jax.set_mesh(make_mesh(data=1)):
        train.train(
            MODEL, optimizer, ArmConfig(), rows(64, 0), folder=tmp_path, profile="6:7",
            progress=lambda count, note: notes.append(note),
        )  # fmt: skip
    assert [p.stat().st_size > 1000 for p in (tmp_path / "profile").rglob("*.xplane.pb")] == [True]
    assert f"steps 5 to 8 traced in {tmp_path / 'profile'}" in notes
