"""`CONFIG|RUN [--field value ...]`: what run, train, score and report take."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from cat.config import Config, from_dict
from experiments import configs
from experiments.commandline import parse
from experiments.rundir import RunDirectory, read_json
from routers.build import build
from routers.errors import InputError

HELP = """usage: cascade {verb} CONFIG|RUN [OPTIONS]

CONFIG is a name from `cascade configs` or a path to a .py file that defines config();
RUN is the folder of an earlier run. `cascade {verb} demo --help` lists every option.

Examples:
  cascade {verb} demo
  cascade {verb} demo --name wide --small.width 32 --arms xent cat_xent random_mask --seeds 0 1 2
  cascade {verb} text2text --data my.jsonl --name mine
"""


@dataclasses.dataclass(frozen=True)
class Options:
    """Every field of the configuration can be set here; `--data FILE` is short for a JSONL file."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    runs: Path = Path("runs")  # folder that holds the run directories
    hosts: bool = False  # train only: this process is one of several (docs/training.md)
    redo: bool = False  # in a run directory of another configuration, redo what differs


def resolve(arguments: Sequence[str], verb: str) -> tuple[Config, RunDirectory]:
    """The checked configuration and its run directory, from the command line; writes nothing."""
    if not arguments:
        raise InputError(
            f"cascade {verb} needs CONFIG or RUN; Known: {', '.join(configs.names())}; "
            f"see 'cascade {verb} --help'"
        )
    if arguments[0] in ("-h", "--help"):
        print(HELP.format(verb=verb))
        raise SystemExit(0)
    first, *rest = arguments
    folder = Path(first)
    prog = f"cascade {verb} {first}"
    if (folder / "config.json").is_file():
        saved = from_dict(Config, read_json(folder / "config.json"))
        default = Options(saved, runs=folder.parent)
        options = parse(Options, _expand(rest), prog, default=default)
        run = RunDirectory(folder)
    else:
        default = Options(configs.load(first))
        options = parse(Options, _expand(rest), prog, default=default)
        run = RunDirectory(options.runs / options.config.name)
    options.config.check()
    for spec in options.config.evaluation.routers:
        build(spec)
    run.open(options.config, options.redo)
    if options.hosts:
        _join(verb)
    return options.config, run


def _join(verb: str) -> None:
    """Meet the run's other processes, before anything touches a device."""
    if verb != "train":
        raise InputError(f"cascade {verb} works in one process; leave out --hosts")
    from cat.hosts import start

    start()


def _expand(arguments: Sequence[str]) -> list[str]:
    """`--data FILE` written out as the fields it stands for."""
    expanded: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        name, equals, path = argument.partition("=")
        if name != "--data":
            expanded.append(argument)
            continue
        path = path if equals else next(rest, "")
        if not path:
            raise InputError("--data needs a .jsonl file or a folder of them")
        expanded += ["--data.task", "jsonl", "--data.path", path]
    return expanded
