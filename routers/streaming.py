"""Records read batch by batch, for logs whose token columns do not fit in memory.

Two passes. The first keeps what curves need of every row: id, task, quality, cost and length.
The second reads the columns that the routers look at, of the small model's rows, scores them
and drops them; of a token nothing is kept. Letters: N queries of one split, R rows of a batch.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from routers import schema
from routers.arrow import pc
from routers.base import Inputs, Router
from routers.curves import check_score
from routers.errors import InputError
from routers.records import Records, inputs_of, opened, provenance

BATCH = 16_384  # rows scored at once: their tokens about fill the processor's cache
LIGHT_BATCH = 131_072  # rows surveyed at once
THREADS = 2  # that score, while the next batch is read; NumPy releases the interpreter lock
LIGHT = ("query_id", "model", "split", "task", "quality", "flops", "dollars", "response_tokens")
COSTS = ("flops", "dollars")

Key = tuple[str, str]  # model and split
Groups = dict[Path, list[int]]  # row groups of each file, rising


@dataclasses.dataclass(frozen=True)
class Log:
    """The light columns of every (model, split), in the order of the files, and where they lie."""

    answers: dict[Key, pa.Table]
    groups: dict[Key, Groups]

    @property
    def head(self) -> Records:
        """One row per model and split with the model's mean cost: enough to choose models."""
        rows = [
            {"model": model, "split": split, **{c: self._mean(model, c) for c in COSTS}}
            for model, split in self.answers
        ]
        return Records(pa.Table.from_pylist(rows))

    def rows(self, model: str, split: str) -> pa.Table:
        """The light columns of one model in one split, or InputError where there are none."""
        if (model, split) not in self.answers:
            raise InputError(
                f"model '{model}' has no rows in split '{split}'; splits in the records: "
                f"{', '.join(self.head.splits)}"
            )
        return self.answers[model, split]

    def _mean(self, model: str, name: str) -> float | None:
        """Over all rows of a model; None where none has a value."""
        tables = [table for (other, _), table in self.answers.items() if other == model]
        sums = [pc.sum(table[name]).as_py() for table in tables if name in table.column_names]
        return sum(sums) / sum(map(len, tables)) if sums else None


def survey(paths: Sequence[Path]) -> Log:
    """The first pass: every row's light columns, checked as ``records.read`` checks them.

    Raises:
        InputError: as ``records.read``; duplicates are found where rows are put in order.
    """
    if not paths:
        raise InputError("no records files given; name at least one .parquet file")
    parts: dict[Key, list[pa.Table]] = {}
    groups: dict[Key, Groups] = {}
    for path in paths:
        for group, table in _batches(path, LIGHT.__contains__, LIGHT_BATCH):
            for key, rows in _by_key(table):
                parts.setdefault(key, []).append(_light(rows))
                found = groups.setdefault(key, {}).setdefault(path, [])
                if group not in found[-1:]:
                    found.append(group)
    answers = {k: pa.concat_tables(t, promote_options="default") for k, t in parts.items()}
    return Log(answers, groups)


def in_order(table: pa.Table) -> tuple[pa.Table, np.ndarray | None]:
    """Rows of one model and split by rising query_id, and the order (None: they were so).

    Raises:
        InputError: a query_id that occurs twice.
    """
    ids = table["query_id"].combine_chunks()
    if pc.all(pc.less(ids[:-1], ids[1:])).as_py() is not False:
        return table, None
    order = pc.sort_indices(ids)
    ids = ids.take(order)
    again = pc.index(pc.equal(ids[:-1], ids[1:]), True).as_py()
    if again >= 0:
        raise InputError(
            f"query_id '{ids[again]}' of model '{table['model'][0]}' occurs more than once; "
            "keep one row per query and model"
        )
    return table.take(order), order.to_numpy()


def check_disjoint(log: Log, model: str, splits: tuple[str, str]) -> None:
    """Raise InputError if a query of the model is in both splits: it would judge its own fit."""
    ids, others = (log.rows(model, split)["query_id"] for split in splits)
    again = pc.index(pc.is_in(ids, value_set=others.combine_chunks()), True).as_py()
    if again >= 0:
        raise InputError(
            f"query_id '{ids[again]}' of model '{model}' is in splits '{splits[0]}' and "
            f"'{splits[1]}'; keep one row per query and model"
        )


@dataclasses.dataclass(frozen=True)
class Scores:
    """Of one split, in the order of the files: every router's score and what it spends."""

    score: dict[str, Float[np.ndarray, " N"]]
    flops: dict[str, Float[np.ndarray, " N"]]  # only of routers that spend anything


def score(log: Log, model: str, split: str, routers: Mapping[str, Router]) -> Scores:
    """The second pass: training-free routers on the rows of the small model in a split.

    Each batch is scored as a log of its own. A query's score depends on that query alone, so
    these are the bits that scoring the whole log would give.

    Raises:
        InputError: a column that a router needs is absent, or null in some rows.
    """
    rows = len(log.answers[model, split])
    found = Scores({name: np.empty(rows) for name in routers}, {})
    some = first_inputs(log, model, split)
    names = set[str]().union(*(columns_read(router, some) for router in routers.values()))
    done = 0
    with ThreadPoolExecutor(THREADS) as pool:
        waiting: deque[Future[None]] = deque()
        for inputs in _inputs(log, (model, split), names):
            here = slice(done, done + len(inputs))
            done = here.stop
            waiting.append(pool.submit(_score_batch, inputs, routers, here, found))
            if len(waiting) > THREADS:  # no more batches in memory than are being worked on
                waiting.popleft().result()
        for task in waiting:
            task.result()
    return found


def _score_batch(inputs: Inputs, routers: Mapping[str, Router], here: slice, found: Scores) -> None:
    """Every router on one batch, written to its place in the split."""
    for name, router in routers.items():
        seen = inputs.at_stage(router.stage)
        score_R = np.asarray(router.score(seen), np.float64)
        if score_R.shape != (len(seen),):
            check_score(score_R, len(seen), name)
        found.score[name][here] = score_R
        spent_R = router.flops_per_query(seen)
        if spent_R.any():
            rows = len(found.score[name])
            found.flops.setdefault(name, np.zeros(rows))[here] = spent_R


def first_inputs(log: Log, model: str, split: str) -> Inputs:
    """The first batch of the model's rows in a split, with every column a router might read."""
    names = {field.name for field in dataclasses.fields(Inputs)}
    return next(_inputs(log, (model, split), names))


def columns_read(router: Router, inputs: Inputs) -> set[str]:
    """The fields of ``Inputs`` that a router looks at when it scores these and is charged.

    >>> from routers.build import build
    >>> inputs = Inputs(np.array(["a"]), np.array(["t"]), None, response_tokens=np.array([3]))
    >>> "response_tokens" in columns_read(build("length"), inputs)
    True
    """
    seen: set[str] = set()

    class Watched(Inputs):
        def __getattribute__(self, name: str) -> Any:
            seen.add(name)
            return super().__getattribute__(name)

    known = inputs.at_stage(router.stage)
    names = [field.name for field in dataclasses.fields(Inputs)]
    watched = Watched(**{name: getattr(known, name) for name in names})
    router.score(watched)
    router.flops_per_query(watched)
    return seen.intersection(names)


def _inputs(log: Log, key: Key, names: set[str]) -> Iterator[Inputs]:
    """What routers see of the rows of one model and split, batch by batch, of these fields."""
    wanted = names | {*schema.REQUIRED, "split"}
    if "response" in names:  # which is given only beside the samples it is compared with
        wanted.add("sampled_responses")

    def reads(column: str) -> bool:
        return column in wanted or column.startswith(schema.SCORE)

    for path, groups in log.groups[key].items():
        for _, table in _batches(path, reads, BATCH, groups):
            rows = _only(table, key)
            if len(rows):
                yield inputs_of(rows)


def _batches(
    path: Path, wanted: Callable[[str], bool], rows: int, groups: Sequence[int] | None = None
) -> Iterator[tuple[int, pa.Table]]:
    """Checked rows of some columns, and the row group they are of; all groups unless named."""
    with opened(path) as file:
        columns = file.schema_arrow
        provenance(columns, path)
        names = [name for name in columns.names if wanted(name)]
        if file.metadata.num_rows == 0 or not set(schema.REQUIRED) <= set(names):
            schema.normalise(columns.empty_table(), path.name)  # raises
        for group in range(file.num_row_groups) if groups is None else groups:
            done = 0
            for batch in file.iter_batches(rows, row_groups=[group], columns=names):
                where = f"{path.name}, row group {group} from row {done}"
                yield group, schema.normalise(pa.Table.from_batches([batch]), where)
                done += len(batch)


def _by_key(table: pa.Table) -> Iterator[tuple[Key, pa.Table]]:
    """The rows of each model and split that occur."""
    kinds = table.group_by(["model", "split"], use_threads=False).aggregate([])
    for kind in kinds.to_pylist():
        key = kind["model"], kind["split"]
        yield key, _only(table, key)


def _only(table: pa.Table, key: Key) -> pa.Table:
    """The rows of one model and split; where that is all, the rule, nothing is copied."""
    chosen = pc.and_(pc.equal(table["model"], key[0]), pc.equal(table["split"], key[1]))
    return table if pc.all(chosen).as_py() else table.filter(chosen)


def _light(rows: pa.Table) -> pa.Table:
    """As it is kept: names as codes, long ids addressable, no column without values."""
    for i, name in enumerate(rows.column_names):
        if name in ("model", "task"):
            rows = rows.set_column(i, name, rows[name].dictionary_encode())
        elif name == "query_id":
            rows = rows.set_column(i, name, rows[name].cast(pa.large_string()))
    empty = [
        n
        for n in (*COSTS, "response_tokens")
        if n in rows.column_names and rows[n].null_count == len(rows)
    ]
    return rows.drop_columns(["split", *empty])
