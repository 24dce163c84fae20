"""Bits per character: how well a model that continues texts predicts them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cat.config import Config
from cat.framing import Plain
from experiments.rundir import RunDirectory


def bits_per_character(table: pa.Table) -> float:
    """``- sum log2 p / characters`` of the references, teacher-forced behind their prompts.

    The end of text of each reference is left out: in passages cut from a longer text (the task
    ``text``) nobody could know it. The space between prompt and reference counts.

    Args:
        table: records of one model and split, with ``prompt``, ``reference``, ``forced_logprob``
            (nats), of a run with ``data.running_text``.
    """
    bits = characters = 0.0
    columns = (table[name].to_pylist() for name in ("prompt", "reference", "forced_logprob"))
    for prompt, reference, logprob in zip(*columns, strict=True):
        bits -= float(np.sum(logprob[:-1], dtype=np.float64)) / math.log(2)
        characters += len(Plain().response(prompt, reference))
    return bits / characters


def of_test(config: Config, run: RunDirectory, names: Sequence[str]) -> dict[str, float]:
    """``{"bits_per_character": mean over these records' test split}``; empty without running text.

    Args:
        names: of the files in ``records/``, e.g. ``xent-seed0`` and ``xent-seed1``.
    """
    if not config.data.running_text:
        return {}
    paths = [run.folder / "records" / f"{name}.parquet" for name in names]
    tables = [pq.read_table(path, filters=[("split", "==", "test")]) for path in paths]
    return {"bits_per_character": float(np.mean([bits_per_character(table) for table in tables]))}
