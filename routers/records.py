"""Records: one row per (query, model) in Parquet; what routers are fitted and judged on.

The columns and their units are in ``docs/records.md``; ``routers/schema.py`` checks them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from routers import schema
from routers.arrow import floats, matrix, pc, ragged, strings, texts
from routers.base import Inputs, Outcomes
from routers.errors import InputError, did_you_mean
from routers.files import written

KEY = b"cascade_records"  # of the Parquet file metadata


@dataclasses.dataclass(frozen=True)
class Records:
    """A checked table and where it came from (free keys, e.g. ``commit``, ``checkpoint``)."""

    table: pa.Table
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.table)

    @property
    def models(self) -> list[str]:
        """Model names, sorted."""
        return sorted(pc.unique(self.table["model"]).to_pylist())

    @property
    def splits(self) -> list[str]:
        """Splits that occur, in the order train, validation, test."""
        found = set(pc.unique(self.table["split"]).to_pylist())
        return [split for split in schema.SPLITS if split in found]

    @property
    def tasks(self) -> list[str]:
        """Task names, sorted."""
        return sorted(pc.unique(self.table["task"]).to_pylist())

    @property
    def cost_unit(self) -> str:
        """Where costs come from: ``flops``, or ``dollars`` in a log without FLOPs."""
        return schema.cost_column(self.table)


def write(path: Path, records: Records) -> None:
    """Check and write one Parquet file; it appears whole or not at all.

    Raises:
        InputError: a fault in the table, as in ``read``.
    """
    table = schema.normalise(records.table, path.name)
    head = json.dumps({"schema_version": schema.VERSION, "provenance": records.metadata})
    with written(path) as temporary:
        pq.write_table(table.replace_schema_metadata({KEY: head.encode()}), temporary)


def read(paths: Sequence[Path]) -> Records:
    """Read, check and join Parquet files (e.g. one per model).

    Metadata keys on which the files differ keep every value, joined by "; ".

    Raises:
        InputError: a file that is missing, truncated or not Parquet, or a fault in its rows;
            one line with the file, the column and the row.
    """
    if not paths:
        raise InputError("no records files given; name at least one .parquet file")
    tables, metadata = [], dict[str, list[str]]()
    for path in paths:
        table = _load(path)
        for key, value in provenance(table.schema, path).items():
            metadata.setdefault(key, [])
            if value not in metadata[key]:
                metadata[key].append(value)
        tables.append(schema.normalise(table.replace_schema_metadata(None), path.name))
    table = tables[0]
    if len(tables) > 1:
        where = " + ".join(path.name for path in paths)
        table = schema.normalise(_join(tables, where), where)
    return Records(table, {key: "; ".join(values) for key, values in metadata.items()})


def concat(tables: Sequence[pa.Table], metadata: Mapping[str, str]) -> Records:
    """Checked records from tables in memory, e.g. one per model and split.

    Raises:
        InputError: a fault in the rows, as in ``read``.
    """
    parts = [schema.normalise(table, "records") for table in tables]
    return Records(schema.normalise(_join(parts, "records"), "records"), dict(metadata))


def small_and_large(
    records: Records, small: str | None = None, large: str | None = None
) -> tuple[str, str]:
    """The two models of a cascade; with exactly two in the records, the dearer is the large one.

    Raises:
        InputError: a name that is not in the records, the same name twice, or a choice to make.
    """
    models = records.models
    for name in (small, large):
        if name is not None and name not in models:
            raise InputError(f"no model '{name}' in the records; {did_you_mean(name, models)}")
    if small is not None and small == large:
        raise InputError(f"small and large are both '{small}'; choose two different models")
    if small is not None and large is not None:
        return small, large
    if len(models) != 2:
        raise InputError(
            f"records hold {len(models)} models ({', '.join(models)}); "
            "name the small and the large one"
        )
    if small is None and large is None:
        cost = records.cost_unit
        means = records.table.group_by("model").aggregate([(cost, "mean")])
        cheap = means.sort_by([(f"{cost}_mean", "ascending"), ("model", "ascending")])
        return cheap["model"][0].as_py(), cheap["model"][1].as_py()
    other = next(name for name in models if name not in (small, large))
    return small or other, large or other


def pair(records: Records, small: str, large: str, split: str) -> tuple[Inputs, Outcomes]:
    """The queries both models answered in a split, sorted by query_id.

    ``Inputs`` are the small model's columns; ``Outcomes`` both models' quality and cost.

    Raises:
        InputError: an unknown model, a split without rows, models that answered different
            queries, or a column that only some of a model's rows have.
    """
    small, large = small_and_large(records, small, large)
    ours, theirs = (_answers(records, name, split) for name in (small, large))
    check_same_queries(ours, theirs, small, large, split)
    cost = records.cost_unit
    inputs = inputs_of(ours)
    outcomes = Outcomes(
        quality_small=filled(ours, "quality"),
        quality_large=filled(theirs, "quality"),
        flops_small=filled(ours, cost),
        flops_large=filled(theirs, cost),
        forced_logprob_small=ragged(ours, "forced_logprob"),
        forced_topk_logprob_small=ragged(ours, "forced_topk_logprob"),
        forced_hit_small=ragged(ours, "forced_hit"),
        forced_hit_large=ragged(theirs, "forced_hit"),
    )
    return inputs, outcomes


def inputs_of(table: pa.Table) -> Inputs:
    """What a router sees of the rows of one model and split, in their order.

    Raises:
        InputError: a column that only some of the rows have.
    """
    sampled = ragged(table, "sampled_responses")
    return Inputs(
        query_id=strings(table, "query_id"),
        task=strings(table, "task"),
        prompt_tokens=floats(table, "prompt_tokens", np.int64),
        prompt_embedding=matrix(table, "prompt_embedding"),
        response_tokens=floats(table, "response_tokens", np.int64),
        token_logprob=ragged(table, "token_logprob"),
        token_entropy=ragged(table, "token_entropy"),
        topk_logprob=ragged(table, "topk_logprob"),
        response_embedding=matrix(table, "response_embedding"),
        scores=_scores(table),
        response=None if sampled is None else texts(table, "response"),
        sampled_responses=sampled,
    )


@contextlib.contextmanager
def opened(path: Path) -> Iterator[pq.ParquetFile]:
    """A Parquet file whose faults, also those met while reading it, are one line."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; check the path")
    try:
        yield pq.ParquetFile(path, pre_buffer=False)  # whole row groups would lie in memory
    except (pa.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{path.name}: not a readable Parquet file ({reason}); it may be truncated, "
            "write it again or import the log first"
        ) from None


def _load(path: Path) -> pa.Table:
    with opened(path) as file:
        return file.read()


def provenance(columns: pa.Schema, path: Path) -> dict[str, str]:
    """The metadata that ``write`` stored; empty for a file from elsewhere.

    Raises:
        InputError: records of a newer version.
    """
    head = json.loads((columns.metadata or {}).get(KEY, b"{}"))
    version = head.get("schema_version", schema.VERSION)
    if version > schema.VERSION:
        raise InputError(
            f"{path.name}: records schema {version} is newer than {schema.VERSION}, the newest "
            "this version reads; update the package"
        )
    return head.get("provenance", {})


def _join(tables: list[pa.Table], where: str) -> pa.Table:
    try:
        return pa.concat_tables(tables, promote_options="default")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InputError(
            f"{where}: columns of different types ({str(error).splitlines()[0]}); "
            "cast them to one type"
        ) from None


def _answers(records: Records, model: str, split: str) -> pa.Table:
    """A model's rows in a split, sorted by query_id, without texts no router reads.

    The response is kept where there are sampled ones to compare it with.
    """
    names = records.table.column_names
    unread = {"prompt", "reference"} | (set() if "sampled_responses" in names else {"response"})
    table = records.table.select([name for name in names if name not in unread])
    chosen = pc.and_(pc.equal(table["model"], model), pc.equal(table["split"], split))
    rows = table.filter(chosen)
    if len(rows) == 0:
        raise InputError(
            f"model '{model}' has no rows in split '{split}'; splits in the records: "
            f"{', '.join(records.splits)}"
        )
    return rows.sort_by("query_id")


def check_same_queries(
    ours: pa.Table, theirs: pa.Table, small: str, large: str, split: str
) -> None:
    """Raise InputError unless both models, sorted by query_id, answered the same queries."""
    if ours["query_id"].equals(theirs["query_id"]):
        return
    lacking = []
    for name, here, there in ((large, ours, theirs), (small, theirs, ours)):
        known = pc.is_in(here["query_id"], value_set=there["query_id"].combine_chunks())
        absent = here["query_id"].filter(pc.invert(known))
        if len(absent):
            lacking.append(f"{len(absent)} lack '{name}' (e.g. '{absent[0]}')")
    raise InputError(
        f"split '{split}': '{small}' answered {len(ours)} queries and '{large}' {len(theirs)}, "
        f"{' and '.join(lacking)}; log every query for both models"
    )


def _scores(table: pa.Table) -> dict[str, np.ndarray]:
    """Ready-made scores of the small model's rows, by name without the prefix."""
    names = [name for name in table.column_names if name.startswith(schema.SCORE)]
    columns = {name.removeprefix(schema.SCORE): floats(table, name) for name in names}
    return {name: column for name, column in columns.items() if column is not None}


def filled(table: pa.Table, name: str) -> np.ndarray:
    """A column that every row must have."""
    column = floats(table, name)
    if column is None:
        raise InputError(f"column '{name}' is empty for model '{table['model'][0]}'; fill it in")
    return column
