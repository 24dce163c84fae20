"""lm-evaluation-harness --log_samples folders of two or more models, joined on task and doc_id

A folder holds ``samples_<task>_<time>.jsonl`` beside ``results_<time>.json``. Name several
folders, or the one above them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from routers.errors import InputError
from routers.importers.complete import complete
from routers.importers.lm_eval_samples import Sample, option_margin, sample, select
from routers.importers.options import Options
from routers.importers.sources import objects, read_json, text_files
from routers.records import Records

MARGIN = "score:option_margin"
_NAME = re.compile(r"samples_(.+)_([^_]+)\.jsonl(\.gz)?")


def read(sources: Sequence[Path], options: Options) -> Records:
    """Records of logged samples: quality is the metric asked for, else the first usual one.

    Where every task is multiple choice there is the column ``score:option_margin``: minus
    (log-likelihood of the best option - of the second), in nats; 0 = a tie, and higher = send
    on. A log-likelihood here is a sum over the tokens of an option, so no column per token can
    be had, and none is made up. There are no token counts either: costs come from
    ``options.query_cost``.

    Raises:
        InputError: two runs of a task, documents that differ between models, an unknown metric.
    """
    options.refuse("lm_eval", "columns", "parameters", "prices")
    files = text_files(sources, "samples_*.jsonl*")
    _one_run_each(files)
    rows: list[Sample] = []
    said: dict[str, str] = {}
    for path in files:
        task, model = _task(path), _model(path)
        found, metric = select(
            [sample(line, task, model, where) for where, line in objects(path)],
            options.metric,
            path.name,
        )
        rows += found
        said[task] = metric
    _same_documents(rows)
    margins = [option_margin(row) for row in rows]
    columns: dict[str, list[Any]] = {
        name: [getattr(row, name) for row in rows] for name in Sample.COLUMNS
    }
    notes = {"metric": "; ".join(f"{task}: {metric}" for task, metric in said.items())}
    if None not in margins:
        columns[MARGIN] = margins
    elif any(margin is not None for margin in margins):
        notes[MARGIN] = "left out, as some tasks are not multiple choice; import them apart"
    return complete(columns, "lm_eval", files, options, **notes)


def _task(path: Path) -> str:
    found = _NAME.fullmatch(path.name)
    if not found:
        raise InputError(f"{path.name}: not named samples_<task>_<time>.jsonl; keep its name")
    return found[1]


def _model(path: Path) -> str:
    """``model_name`` of the results beside the samples, else the folder's name."""
    results = sorted(path.parent.glob("results*.json"))
    if results:
        value = read_json(results[-1])
        name = value.get("model_name") if isinstance(value, dict) else None
        if isinstance(name, str) and name:
            return name
    return path.resolve().parent.name


def _one_run_each(files: Sequence[Path]) -> None:
    seen: dict[tuple[Path, str], Path] = {}
    for path in files:
        key = (path.resolve().parent, _task(path))
        if key in seen:
            raise InputError(
                f"{path.parent.name}: two runs of task '{key[1]}' ({seen[key].name}, {path.name}); "
                "name the files of one run instead of the folder"
            )
        seen[key] = path


def _same_documents(rows: Sequence[Sample]) -> None:
    """Joining on doc_id is only right where the documents are the same."""
    seen: dict[str, Sample] = {}
    for row in rows:
        first = seen.setdefault(row.query_id, row)
        if first.document and row.document and first.document != row.document:
            raise InputError(
                f"doc_id {row.query_id.rpartition('/')[2]} of task '{row.task}' is one document "
                f"for '{first.model}' and another for '{row.model}'; run both with the same "
                "version of the task"
            )
