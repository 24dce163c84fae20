"""turn foreign logs (APIs, harnesses, benchmarks, tables) into records"""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from experiments.commandline import existing, parse, print_json
from routers.errors import InputError

Many = tyro.conf.UseAppendAction[tuple[str, ...]]

_MAPPING = re.compile(r"([^\[\]=]+(?:\[.+?\])?)=(.+)")


EXAMPLE = """Example: cascade import table log.csv -o log.parquet --map query_id=id \\
  --map 'quality[small]=small_ok' --map 'quality[large]=large_ok' \\
  --query-cost small=0.001 --query-cost large=0.02"""


@dataclasses.dataclass(frozen=True)
class Import:
    """Turn logs of a format into one Parquet file of records (docs/importing.md)."""

    format: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FORMAT")]  # see above
    sources: tyro.conf.Positional[tuple[Path, ...]]  # files or folders
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]  # the records, ending in .parquet
    map: Many = ()  # COLUMN=THEIRS or COLUMN[MODEL]=THEIRS; repeatable
    quality: Path | None = None  # grades to join: query_id, quality[, model, task, split]
    metric: str = ""  # which measure of the log becomes the quality
    model: str = ""  # name of the model, for a log that does not say
    task: str = ""  # name of the task, for a log that does not say
    split: Literal["train", "validation", "test", "hash"] | None = None  # hash: 30 % validation
    price: Many = ()  # MODEL=IN,OUT in dollars per million prompt and response tokens
    parameters: Many = ()  # MODEL=N; FLOPs = 2 N tokens
    query_cost: Many = ()  # MODEL=DOLLARS a query, for logs without token counts
    json: bool = False  # print one JSON object instead of the table


def main(arguments: Sequence[str]) -> None:
    """`cascade import FORMAT SOURCE... -o RECORDS.parquet`."""
    from routers import importers

    listed = "\n".join(f"  {name:<12} {line}" for name, line in importers.formats().items())
    about = f"{Import.__doc__}\n\nFormats:\n{listed}\n\n{EXAMPLE}"
    options = parse(Import, arguments, "cascade import", description=about)
    reader = importers.reader(options.format)
    if not options.sources:
        raise InputError(f"{options.format}: no source given; name the log's files or folders")
    for source in options.sources:
        existing(source, "file or folder")
    _check_out(options)
    from routers.records import write

    records = reader(options.sources, _options(options))
    try:
        write(options.out, records)
    except OSError as error:
        raise InputError(f"{options.out}: cannot be written ({error.strerror})") from None
    summary = summarise(records) | {"records": str(options.out)}
    summary["next"] = shlex.join(_next(summary, options.out))
    if options.json:
        print_json(summary)
    else:
        _print(summary)


def summarise(records: Any) -> dict[str, Any]:
    """What was imported: per model rows, splits, mean quality and cost, evidence for routers."""
    models = {name: _model(records.table, name) for name in records.models}
    return {
        "rows": len(records),
        "models": models,
        "tasks": records.tasks,
        "splits": records.splits,
        "metadata": records.metadata,
    }


def _model(table: Any, name: str) -> dict[str, Any]:
    from routers import schema
    from routers.arrow import pc

    rows = table.filter(pc.equal(table["model"], name))
    splits = {s: pc.sum(pc.equal(rows["split"], s)).as_py() for s in schema.SPLITS}
    numbers = {
        column: pc.mean(rows[column]).as_py()
        for column in ("quality", "flops", "dollars", "prompt_tokens", "response_tokens")
        if column in rows.column_names and rows[column].null_count < len(rows)
    }
    evidence = [
        column
        for column in rows.column_names
        if (column in schema.PER_TOKEN or column.startswith(schema.SCORE))
        and rows[column].null_count < len(rows)
    ]
    kept = {split: count for split, count in splits.items() if count}
    return {"rows": len(rows), "splits": kept, "mean": numbers, "evidence": evidence}


def _check_out(options: Import) -> None:
    if options.out.suffix != ".parquet":
        raise InputError(f"{options.out}: records are Parquet; end the name in .parquet")
    if options.out.is_dir():
        raise InputError(f"{options.out}: a folder; -o takes a file")
    if options.out.exists() and any(options.out.samefile(source) for source in options.sources):
        raise InputError(f"{options.out}: is one of the sources; choose another name")


def _options(options: Import) -> Any:
    from routers.importers.options import Options

    prices = {}
    for model, text in _pairs(options.price, "--price", "MODEL=IN,OUT"):
        prompt, comma, response = text.partition(",")
        if not comma:
            raise InputError(f"--price {model}={text}: give two prices, MODEL=IN,OUT")
        prices[model] = (_number(prompt, "--price", model), _number(response, "--price", model))
    sizes = _pairs(options.parameters, "--parameters", "MODEL=N")
    costs = _pairs(options.query_cost, "--query-cost", "MODEL=DOLLARS")
    return Options(
        model=options.model,
        task=options.task,
        split=options.split or "",
        prices=prices,
        parameters={model: _number(text, "--parameters", model) for model, text in sizes},
        query_cost={model: _number(text, "--query-cost", model) for model, text in costs},
        columns=dict(_mappings(options.map)),
        metric=options.metric,
        quality=options.quality,
    )


def _mappings(given: Sequence[str]) -> list[tuple[str, str]]:
    found = [(item, _MAPPING.fullmatch(item)) for item in given]
    for item, match in found:
        if not match:
            raise InputError(f"--map {item}: write COLUMN=THEIRS or COLUMN[MODEL]=THEIRS")
    return _once([(match[1], match[2]) for _, match in found if match], "--map")


def _pairs(given: Sequence[str], flag: str, form: str) -> list[tuple[str, str]]:
    """(model, value) of each; a model's name may hold '=', its value cannot."""
    pairs = []
    for item in given:
        model, equals, value = item.rpartition("=")
        if not (model and equals and value):
            raise InputError(f"{flag} {item}: write {form}")
        pairs.append((model, value))
    return _once(pairs, flag)


def _once(pairs: list[tuple[str, str]], flag: str) -> list[tuple[str, str]]:
    names = [name for name, _ in pairs]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(f"{flag} {twice[0]}=...: given twice; keep one")
    return pairs


def _number(text: str, flag: str, model: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{flag} {model}: '{text}' is no number; write 7e9 or 0.5") from None


def _next(summary: dict[str, Any], out: Path) -> list[str]:
    """The command to type next: the cheapest against the dearest model."""
    models, unit = summary["models"], "flops"
    if not all("flops" in model["mean"] for model in models.values()):
        unit = "dollars"
    ranked = sorted(models, key=lambda name: models[name]["mean"][unit])
    if len(ranked) == 1:
        return ["cascade", "evaluate", str(out), "OTHER_MODEL.parquet"]
    command = ["cascade", "evaluate", str(out), "--small", ranked[0], "--large", ranked[-1]]
    evidence = models[ranked[0]]["evidence"]
    if "token_logprob" in evidence:
        command += ["--router", "chow_average", "--router", "chow_quantile"]
    elif not evidence:
        command += ["--router", "random", "--router", "oracle"]
    return command


def _print(summary: dict[str, Any]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, emoji=False)
    if not console.is_terminal:
        console.width = max(console.width, 160)
    tasks = summary["tasks"]
    named = ", ".join(tasks[:5]) + (", ..." if len(tasks) > 5 else "")
    title = f"{summary['records']}: {summary['rows']:,} rows, {len(tasks)} task(s): {named}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=0)
    table.add_column("model", overflow="fold")
    for column in ("train", "validation", "test", "quality", "FLOPs", "dollars"):
        table.add_column(column, justify="right", overflow="fold")
    table.add_column("for routers", overflow="fold")
    for name, model in summary["models"].items():
        counts = [f"{model['splits'].get(split, 0):,}" for split in ("train", "validation", "test")]
        table.add_row(name, *counts, *_means(model["mean"]), ", ".join(model["evidence"]) or "–")
    console.print(table)
    for key, value in summary["metadata"].items():
        if key not in ("format", "sources"):
            console.print(f"{key}: {value}", highlight=False, soft_wrap=True)
    console.print(f"next: {summary['next']}", highlight=False, soft_wrap=True)


def _means(mean: dict[str, float]) -> list[str]:
    cost = [f"{mean[unit]:.4g}" if unit in mean else "–" for unit in ("flops", "dollars")]
    return [f"{mean['quality']:.4f}", *cost]
