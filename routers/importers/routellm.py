"""RouteLLM's benchmarks: MMLU or GSM8K answer tables, MT-Bench judgements, and their scores

Sources are the files of RouteLLM's evaluator, or folders of them (``routellm/evals/mmlu``):

- answer tables: CSV with ``prompt``, a True/False column per model and, where kept,
  ``<model>_response``; a file is a task, named after the file
- ``judgements.jsonl`` and ``question.jsonl``: MT-Bench, see ``mt_bench.py``
- ``contaminated_prompts.jsonl``: queries whose prompt it lists are dropped, as the evaluator
  does
- a JSON list of MMLU domains: the order of the answer tables, which scores follow
- score tables: CSV of float columns, a row for each query that is left, in that order, beside
  ``prompt`` or the models' columns, by which rows are checked. Each becomes ``score:<name>``:
  RouteLLM's "strong win rate" is high where the large model should answer, our sign already.

The logs have no token counts: ``--query-cost`` says what an answer of each model costs.
Source: RouteLLM (2406.18665), routellm/evals/benchmarks.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa

from routers import schema
from routers.arrow import pc
from routers.errors import InputError
from routers.importers.complete import complete
from routers.importers.mt_bench import JUDGEMENTS, QUESTIONS, judged
from routers.importers.options import Options
from routers.importers.sources import number, objects, read_json
from routers.importers.tabular import Rows, load
from routers.records import Records

CONTAMINATED = "contaminated_prompts.jsonl"
QUALITY, RESPONSE = "quality:", "response:"  # prefixes of a model's columns, a row per query


def read(sources: Sequence[Path], options: Options) -> Records:
    """Records of one benchmark, a row per (query, model); scores stand in every row.

    Raises:
        InputError: a file that is none of the above, score rows that do not fit the queries, or
            no ``--query-cost``.
    """
    files = _files(sources)
    named = _once(path for path in files if path.suffix == ".jsonl")
    tables = {path: load(path) for path in files if path.suffix == ".csv"}
    answers = {path: rows for path, rows in tables.items() if not _scores(rows)}
    if bool(answers) == (JUDGEMENTS in named):
        raise InputError(
            f"{' + '.join(path.name for path in sources)}: give one benchmark: answer tables "
            f"(prompt and True/False columns), or MT-Bench's {JUDGEMENTS} and {QUESTIONS}"
        )
    orders = [path for path in files if path.suffix == ".json"]
    wide = _answered(_in_order(answers, orders)) if answers else judged(named)
    left = _decontaminated(wide, named.get(CONTAMINATED))
    for path, rows in tables.items():
        if path not in answers:
            left = _with_scores(left, rows)
    note = f"{len(left)} of {len(wide)} queries left"
    return complete(_long(left), "routellm", files, options, decontamination=note)


def _files(sources: Sequence[Path]) -> list[Path]:
    """The files named and those in folders named, each once."""
    known = (CONTAMINATED, JUDGEMENTS, QUESTIONS)
    found: list[Path] = []
    for source in sources:
        inside = sorted(source.rglob("*.csv")) + sorted(source.rglob("*.jsonl"))
        found += inside if source.is_dir() else [source]
        if source.is_dir() and not inside:
            raise InputError(f"{source}: no .csv or .jsonl file in this folder; check the path")
    for path in found:
        if path.suffix not in (".csv", ".json") and path.name not in known:
            raise InputError(
                f"{path.name}: not a file of RouteLLM's evaluator; it reads CSV tables, a JSON "
                f"list of domains, {', '.join(known)}"
            )
    return list(dict.fromkeys(found))


def _once(files: Iterable[Path]) -> dict[str, Path]:
    """Files by name, each name once: two lists would be of two benchmarks."""
    named: dict[str, Path] = {}
    for path in files:
        if path.name in named:
            raise InputError(f"{path.name}: given twice; name the one of this benchmark")
        named[path.name] = path
    return named


def _models(rows: Rows) -> list[str]:
    """Columns that hold nothing but True and False."""
    assert rows.table is not None
    boolean = {n: pc.is_in(rows.table[n], value_set=_BOOLEANS) for n in rows.names if len(rows)}
    return [name for name, each in boolean.items() if pc.all(each).as_py()]


_BOOLEANS = pa.array(["True", "False"])


def _scores(rows: Rows) -> list[str]:
    """The other columns, but for texts and a saved index, whose header is empty."""
    models = _models(rows)
    texts = ["", "prompt", *(f"{model}_response" for model in models)]
    return [name for name in rows.names if name not in (*models, *texts)]


def _in_order(answers: dict[Path, Rows], orders: list[Path]) -> dict[str, Rows]:
    """Answer tables by task; in the order of the domain list, if there is one."""
    tasks = {path.stem.removesuffix("_responses"): rows for path, rows in answers.items()}
    if len(tasks) < len(answers):
        raise InputError("two answer tables have the same file name; give each once")
    if not orders:
        return tasks
    domains = read_json(orders[0])
    if not (isinstance(domains, list) and all(isinstance(name, str) for name in domains)):
        raise InputError(f"{orders[0].name}: not a JSON list of domain names")
    wanted = [f"mmlu_{name}" for name in domains]
    if len(orders) > 1 or sorted(wanted) != sorted(tasks):
        odd = min(set(wanted) ^ set(tasks), default=wanted[0] if wanted else "nothing")
        raise InputError(
            f"{orders[0].name}: its domains are not the answer tables given (see '{odd}'); "
            "name every table once, or leave the list out"
        )
    return {task: tasks[task] for task in wanted}


def _answered(tasks: dict[str, Rows]) -> pa.Table:
    """A row per query in evaluation order: id, task, prompt, each model's quality and answer."""
    parts, first = [], next(iter(tasks.values()))
    for task, rows in tasks.items():
        if "prompt" not in rows.names or not _models(rows):
            raise InputError(f"{rows.where}: no column 'prompt', or no True/False column")
        if rows.names != first.names or _models(rows) != _models(first):
            raise InputError(f"{rows.where}: columns differ from those of {first.where}")
        assert rows.table is not None
        columns = {
            "query_id": [f"{task}-{i:05d}" for i in range(len(rows))],
            "task": [task] * len(rows),
            "prompt": rows.table["prompt"],
        }
        for model in _models(rows):
            columns[QUALITY + model] = pc.cast(pc.equal(rows.table[model], "True"), pa.float64())
            if f"{model}_response" in rows.names:
                columns[RESPONSE + model] = rows.table[f"{model}_response"]
        parts.append(pa.table(columns))
    return pa.concat_tables(parts)


def _decontaminated(wide: pa.Table, listed: Path | None) -> pa.Table:
    """Without queries any of whose turns is in the list of contaminated prompts."""
    if listed is None:
        return wide
    prompts = []
    for where, row in objects(listed):
        if not isinstance(row.get("eval_prompt"), str):
            raise InputError(f"{where}: no text 'eval_prompt'; give RouteLLM's own list")
        prompts.append(row["eval_prompt"])
    for name in ("prompt", "second_turn"):
        if name in wide.column_names:
            value_set = pa.array(prompts, pa.string())
            wide = wide.filter(pc.invert(pc.is_in(wide[name], value_set=value_set)))
    return wide


def _with_scores(wide: pa.Table, rows: Rows) -> pa.Table:
    """The score table's columns beside the queries, once its rows have proved to be theirs."""
    assert rows.table is not None
    _check_rows(wide, rows)
    for name in _scores(rows):
        where = f"{rows.where}: column '{name}'"
        if schema.SCORE + name in wide.column_names:
            raise InputError(f"{where} is in two score tables; rename one")
        texts = enumerate(rows.table[name].to_pylist())
        values = [number(text, f"{where}, row {i}") for i, text in texts]
        wide = wide.append_column(schema.SCORE + name, pa.array(values, pa.float64()))
    return wide


def _check_rows(wide: pa.Table, rows: Rows) -> None:
    """Raise unless row i of the scores is query i, by all that the two tables share."""
    assert rows.table is not None
    if len(rows) != len(wide):
        raise InputError(
            f"{rows.where}: {len(rows)} rows for {len(wide)} queries; give a score for each query "
            f"left after decontamination (is {CONTAMINATED} among the sources?)"
        )
    shared = [model for model in _models(rows) if QUALITY + model in wide.column_names]
    same = [
        pc.equal(pc.equal(rows.table[model], "True"), pc.equal(wide[QUALITY + model], 1.0))
        for model in shared
    ]
    if "prompt" in rows.names:
        same.append(pc.equal(rows.table["prompt"], wide["prompt"]))
    if not same:
        raise InputError(
            f"{rows.where}: scores without 'prompt' or the models' True/False columns, so their "
            "rows cannot be checked; add one of them"
        )
    others = [row for row in (pc.index(each, False).as_py() for each in same) if row >= 0]
    if others:
        raise InputError(
            f"{rows.where}: row {min(others)} is not query '{wide['query_id'][min(others)]}'; "
            "scores follow the evaluator's order: name the JSON list of MMLU domains too"
        )


def _long(wide: pa.Table) -> dict[str, pa.ChunkedArray]:
    """A row per (query, model)."""
    scores = [name for name in wide.column_names if name.startswith(schema.SCORE)]
    parts = []
    for name in (name for name in wide.column_names if name.startswith(QUALITY)):
        model = name.removeprefix(QUALITY)
        part = wide.select(["query_id", "task", "prompt", *scores]).append_column(
            "quality", wide[name]
        )
        part = part.append_column("model", pa.array([model] * len(wide), pa.string()))
        if RESPONSE + model in wide.column_names:
            part = part.append_column("response", wide[RESPONSE + model])
        parts.append(part)
    table = pa.concat_tables(parts, promote_options="default")
    return {name: table[name] for name in table.column_names}
