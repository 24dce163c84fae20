"""Log lines for other programs: TensorBoard and Weights & Biases, both optional extras."""

from __future__ import annotations

import importlib
import json
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from cat.watch import Line, Sink
from routers.errors import InputError, did_you_mean
from routers.files import written

ID = "wandb.json"


@contextmanager
def opened(names: Sequence[str], folder: Path, title: str) -> Iterator[list[Sink]]:
    """The sinks of these names, closed at the end of the block.

    Args:
        names: of ``SINKS``.
        folder: of the training run; each writes below it.
        title: what the run is called there, e.g. ``demo arms/cat_xent/seed0``.

    Raises:
        InputError: an unknown name, or a package that is not installed.
    """
    check(names)
    with ExitStack() as stack:
        yield [stack.enter_context(SINKS[name](folder, title)) for name in names]


def check(names: Sequence[str]) -> None:
    """Raise InputError for a sink that cannot be opened, before anything is trained."""
    for name in names:
        if name not in SINKS:
            raise InputError(f"track: unknown '{name}'; {did_you_mean(name, list(SINKS))}")
        _package(name)


def _package(name: str) -> Any:
    """The sink's package."""
    module = {"tensorboard": "tensorboardX"}.get(name, name)
    try:
        return importlib.import_module(module)
    except ImportError:
        raise InputError(
            f"track={name} needs the package {module}; pip install 'cascade-lm[{name}]'"
        ) from None


@contextmanager
def _tensorboard(folder: Path, title: str) -> Iterator[Sink]:
    """Scalars in ``folder/tensorboard``; a resumed run hides the steps it does again."""
    del title  # TensorBoard shows the folder's name
    writer: Any = None

    def sink(line: Line) -> None:
        nonlocal writer
        if writer is None:
            place = str(folder / "tensorboard")
            writer = _package("tensorboard").SummaryWriter(place, purge_step=line["step"])
        for name, value in _numbers(line).items():
            writer.add_scalar(name, value, line["step"])

    try:
        yield sink
    finally:
        if writer is not None:
            writer.close()


@contextmanager
def _wandb(folder: Path, title: str) -> Iterator[Sink]:
    """A run of the project ``cascade``; ``WANDB_MODE=offline`` writes to ``folder/wandb`` only.

    A resumed run continues the one it was; steps it does again are dropped there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = _package("wandb").init(
        project="cascade", name=title, dir=str(folder), id=_identity(folder), resume="allow"
    )
    code = 1
    try:
        yield lambda line: run.log(_numbers(line), step=line["step"])
        code = 0
    finally:
        run.finish(exit_code=code)


def _identity(folder: Path) -> str:
    """The run's name among all: made once, and gone with the folder."""
    path = folder / ID
    if not path.exists():
        with written(path) as temporary:
            temporary.write_text(json.dumps({"id": uuid.uuid4().hex}))
    return json.loads(path.read_text())["id"]


def _numbers(line: Line) -> Line:
    """What there is a number for, ``keep_rates/add2`` of a family; the step is the axis."""
    flat: Line = {}
    for name, value in line.items():
        flat |= (
            {f"{name}/{k}": v for k, v in value.items()}
            if isinstance(value, dict)
            else {name: value}
        )
    return {name: value for name, value in flat.items() if value is not None and name != "step"}


SINKS = {"tensorboard": _tensorboard, "wandb": _wandb}
"""By the name in ``Config.track``; each makes a context of a callable that takes a log line."""
