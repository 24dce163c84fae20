"""TensorBoard and W&B: what they are sent, by fakes; and the packages themselves where present."""

import json
import os
import struct
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import pytest

from cat import sinks
from routers.errors import InputError

LINES = [
    {"step": 1, "loss": 2.5, "keep_rate": 0.5, "n11": None, "mfu": None},
    {"step": 2, "loss": None, "keep_rate": 0.25, "n11": None, "mfu": None},
]


def send(names, folder, lines=LINES):
    with sinks.opened(names, folder, "demo arms/xent/seed0") as opened:
        for line in lines:
            for sink in opened:
                sink(line)


class FakeWriter:
    """``tensorboardX.SummaryWriter``, remembering."""

    made: list = []  # noqa: RUF012

    def __init__(self, place, purge_step):
        self.place, self.purge_step, self.scalars, self.closed = place, purge_step, [], False
        self.made.append(self)

    def add_scalar(self, name, value, step):
        assert not self.closed
        self.scalars.append((name, value, step))

    def close(self):
        self.closed = True


def test_tensorboard_gets_every_number_at_its_step(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", SimpleNamespace(SummaryWriter=FakeWriter))
    monkeypatch.setattr(FakeWriter, "made", [])
    send(["tensorboard"], tmp_path)
    send(["tensorboard"], tmp_path, [])  # nothing left to do: nothing is written
    (writer,) = FakeWriter.made
    assert writer.scalars == [("loss", 2.5, 1), ("keep_rate", 0.5, 1), ("keep_rate", 0.25, 2)]
    assert (writer.place, writer.purge_step, writer.closed) == (
        str(tmp_path / "tensorboard"),
        1,
        True,
    )


@pytest.fixture
def fake_wandb(monkeypatch):
    """Every call in order."""
    calls = []
    run = SimpleNamespace(
        log=lambda line, step: calls.append(("log", line, step)),
        finish=lambda exit_code: calls.append(("finish", exit_code)),
    )
    module = SimpleNamespace(init=lambda **given: calls.append(("init", given)) or run)
    monkeypatch.setitem(sys.modules, "wandb", module)
    return calls


def test_wandb_gets_every_number_at_its_step(tmp_path, fake_wandb):
    send(["wandb"], tmp_path / "run")
    given = fake_wandb[0][1]
    assert (given["project"], given["name"]) == ("cascade", "demo arms/xent/seed0")
    assert (given["dir"], given["resume"]) == (str(tmp_path / "run"), "allow")
    assert fake_wandb[1:] == [
        ("log", {"loss": 2.5, "keep_rate": 0.5}, 1),
        ("log", {"keep_rate": 0.25}, 2),
        ("finish", 0),
    ]


def test_a_resumed_folder_is_the_same_wandb_run_and_another_is_not(tmp_path, fake_wandb):
    for name in ("a", "a", "b"):
        send(["wandb"], tmp_path / name)
    first, again, other = (call[1]["id"] for call in fake_wandb if call[0] == "init")
    assert first == again != other


def test_a_run_that_fails_is_marked_as_failed(tmp_path, fake_wandb):
    with pytest.raises(KeyboardInterrupt), sinks.opened(["wandb"], tmp_path, "x"):
        raise KeyboardInterrupt
    assert fake_wandb[-1] == ("finish", 1)


def test_an_unknown_sink_is_refused_by_name():
    with pytest.raises(InputError, match="track: unknown 'tensorbord'; did you mean 'tensorboard'"):
        sinks.check(["tensorbord"])


@pytest.mark.parametrize(("name", "module"), [("tensorboard", "tensorboardX"), ("wandb", "wandb")])
def test_a_missing_package_is_one_line(name, module, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    message = rf"track={name} needs the package {module}; pip install 'cascade-lm\[{name}\]'"
    with pytest.raises(InputError, match=message):
        send([name], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def events(path) -> list[bytes]:
    """The records of an event file: length, its CRC, data, its CRC (the TFRecord format)."""
    content, found = path.read_bytes(), []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        found.append(content[12 : 12 + length])
        content = content[16 + length :]
    return found


@pytest.mark.skipif(not find_spec("tensorboardX"), reason="tensorboardX is not installed")
def test_tensorboard_itself(tmp_path):
    from tensorboardX.proto.event_pb2 import Event

    send(["tensorboard"], tmp_path)
    (path,) = (tmp_path / "tensorboard").iterdir()
    parsed = [Event.FromString(record) for record in events(path)]
    values = [(v.tag, v.simple_value, e.step) for e in parsed for v in e.summary.value]
    assert values == [("loss", 2.5, 1), ("keep_rate", 0.5, 1), ("keep_rate", 0.25, 2)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(not find_spec("wandb"), reason="wandb is not installed")
def test_wandb_itself_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    send(["wandb"], tmp_path)
    (path,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    content = path.read_bytes()
    identity = json.loads((tmp_path / sinks.ID).read_text())["id"]
    for word in (identity, "keep_rate", "demo arms/xent/seed0"):
        assert word.encode() in content
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]
