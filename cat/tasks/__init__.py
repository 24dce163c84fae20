"""Tasks: one file of this folder is one source of examples.

A task file defines ``examples(config, split) -> list[Example]`` for the splits ``train``,
``validation`` and ``test``; an empty list says that the source has no such split. Everything
that every task needs (finding the file, missing splits, leaks, sizes) happens here.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import zlib
from pathlib import Path

import numpy as np

from cat.config import DataConfig
from cat.example import Example
from cat.tasks import splitting
from routers.errors import InputError, did_you_mean

SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Splits:
    """The examples of an experiment. ``notes``: what was carved, dropped or capped, in words."""

    train: list[Example]
    validation: list[Example]
    test: list[Example]
    notes: list[str] = dataclasses.field(default_factory=list)


def names() -> list[tuple[str, str]]:
    """Every task as (name, first line of its docstring), without importing any.

    >>> [name for name, line in names()]
    ['generated', 'jsonl', 'text', 'tfds']
    """
    found = []
    for file in sorted(Path(__file__).parent.glob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        if any(isinstance(n, ast.FunctionDef) and n.name == "examples" for n in tree.body):
            found.append((file.stem, (ast.get_docstring(tree) or "").partition("\n")[0]))
    return found


def load(config: DataConfig) -> Splits:
    """All three splits of ``config.task``, disjoint by prompt and at most as large as asked.

    ``config.only`` names the tasks (the ``task`` of an example) that are used at all.
    A missing validation or test split is carved from train, train rows whose prompt occurs
    in another split are dropped, and larger splits are reduced by a seeded choice (never the
    first rows: files are often sorted). ``notes`` tells each of these.

    Raises:
        InputError: unknown task, a split without examples, a name in ``only`` that no example
            has, or what the task itself finds.
    """
    known = [name for name, _ in names()]
    if config.task not in known:
        raise InputError(
            f"data.task '{config.task}' is unknown; {did_you_mean(config.task, known)}"
        )
    task = importlib.import_module(f"cat.tasks.{config.task}")
    given = {split: task.examples(config, split) for split in SPLITS}
    full, notes = splitting.complete(_only(given, config.only))
    parts: dict[str, list[Example]] = {}
    for split in SPLITS:
        if not full[split]:
            raise InputError(f"task '{config.task}': no {split} examples; add rows of that split")
        parts[split] = _cap(full[split], getattr(config, f"{split}_size"), config.seed, split)
        if len(parts[split]) < len(full[split]):
            notes.append(f"{split}: {len(parts[split]):,} of {len(full[split]):,} examples chosen")
    return Splits(**parts, notes=notes)


def _only(given: dict[str, list[Example]], wanted: tuple[str, ...]) -> dict[str, list[Example]]:
    """The examples of the wanted tasks; of all where none is named."""
    if not wanted:
        return given
    found = sorted({e.task for examples in given.values() for e in examples})
    for name in wanted:
        if name not in found:
            hint = did_you_mean(name, found)
            raise InputError(f"data.only: the data have no task '{name}'; {hint}")
    return {split: [e for e in examples if e.task in wanted] for split, examples in given.items()}


def _cap(examples: list[Example], size: int, seed: int, split: str) -> list[Example]:
    """At most ``size`` examples: a choice by seed, in the original order."""
    if size <= 0:
        raise InputError(f"data.{split}_size is {size}; give at least 1")
    if len(examples) <= size:
        return examples
    rng = np.random.default_rng([seed, zlib.crc32(split.encode())])
    return [examples[i] for i in np.sort(rng.permutation(len(examples))[:size])]
