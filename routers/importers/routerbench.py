"""RouterBench's table: a row per query, per model its grade, answer and cost in dollars

Columns: ``sample_id``, ``eval_name`` (the task), ``prompt``, and for each model ``<model>``
(quality in [0, 1]), ``<model>|total_cost`` (dollars) and ``<model>|model_response``.
``oracle_model_to_route_to`` is not read. The data set is published as a pickle, which is refused,
since loading one runs its code: where you trust it, ``pandas.read_pickle(f).to_parquet(g)``.

Source: RouterBench (2403.12031), convertors/common.py and evaluate_routers.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from routers.errors import InputError
from routers.importers.complete import complete
from routers.importers.options import Options
from routers.importers.sources import text_files
from routers.importers.tabular import Rows, cells, load
from routers.records import Records

COST, RESPONSE = "|total_cost", "|model_response"
SHARED = {"query_id": "sample_id", "task": "eval_name", "prompt": "prompt"}


def read(sources: Sequence[Path], options: Options) -> Records:
    """Records of every (query, model) of the tables (CSV or Parquet).

    Raises:
        InputError: a pickle, no ``<model>|total_cost`` column, or a model without grades.
    """
    files = text_files(sources, "*.parquet")
    columns: dict[str, list[Any]] = {}
    for path in files:
        for name, values in _long(load(path)).items():
            columns.setdefault(name, []).extend(values)
    return complete(columns, "routerbench", files, options)


def _long(rows: Rows) -> dict[str, list[Any]]:
    """One value per (model, query)."""
    models = [name.removesuffix(COST) for name in rows.names if name.endswith(COST)]
    wanted = [*SHARED.values(), *models]
    missing = [name for name in wanted if name not in rows.names]
    if missing or not models:
        what = f"'{missing[0]}'" if missing else f"'<model>{COST}'"
        raise InputError(f"{rows.where}: no column {what}; give RouterBench's table")
    columns: dict[str, list[Any]] = {
        ours: cells(rows, theirs, ours) * len(models) for ours, theirs in SHARED.items()
    }
    columns["model"] = [model for model in models for _ in range(len(rows))]
    for ours, suffix in (("quality", ""), ("dollars", COST), ("response", RESPONSE)):
        each = [cells(rows, model + suffix, ours) for model in models]
        columns[ours] = [value for values in each for value in values]
    return columns
