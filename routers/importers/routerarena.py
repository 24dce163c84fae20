"""RouterArena's cached results: one JSONL per model, graded, with tokens; price table optional

Sources are ``cached_results/<model>.jsonl`` (``global_index``, ``llm_selected``, ``token_usage``,
``evaluation_result``), or a folder of them, and the price table ``model_cost/cost.json`` (dollars
per million tokens, by model). With prices, dollars are computed from the tokens; without, they
are the ``inference_cost`` of the log. Check which prices you want: upstream, a model's name came
to mean another model at the old price, and token counts have been made up in submissions.

A METEOR score slightly below 0 becomes 0, the lower end of quality, and the records' metadata
say how often; the data set of a query is its task (``AIME_112``: task ``AIME``).

Source: RouterArena, llm_evaluation/run.py and the files of cached_results.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from routers.errors import InputError
from routers.importers.complete import complete
from routers.importers.options import Options
from routers.importers.sources import number, objects, read_json, text_files
from routers.records import Records

METEOR = "meteor_score"  # the one measure of the log that falls below 0
IN, OUT = "input_token_price_per_million", "output_token_price_per_million"


def read(sources: Sequence[Path], options: Options) -> Records:
    """Records of every answer in the files.

    Raises:
        InputError: a row that is not graded, whose generation failed, or that lacks its tokens;
            a price table that is not one.
    """
    files = text_files(sources, "*.jsonl")
    tables = [path for path in files if path.suffix == ".json"]
    rows = [
        _row(where, item) for path in files if path not in tables for where, item in objects(path)
    ]
    columns = {name: [row[name] for row in rows] for name in rows[0]} if rows else {"quality": []}
    models = set(columns.get("model", []))
    prices = {n: p for path in tables for n, p in _prices(path) if n in models}
    raised = sum(quality < 0 for quality in columns["quality"])
    columns["quality"] = [max(quality, 0.0) for quality in columns["quality"]]
    rule = f"score of the log; {raised} METEOR scores below 0 count as 0"
    asked = dataclasses.replace(options, prices={**prices, **options.prices})
    return complete(columns, "routerarena", files, asked, quality_rule=rule)


def _row(where: str, item: dict[str, Any]) -> dict[str, Any]:
    """One answer; ``quality`` may still be below 0 where METEOR is."""
    if item.get("success") is False:
        raise InputError(f"{where}: the generation failed; run it again or drop the query")
    query, model = _text(where, item, "global_index"), _text(where, item, "llm_selected")
    grade, usage = item.get("evaluation_result"), item.get("token_usage")
    if not isinstance(grade, dict) or not isinstance(usage, dict):
        raise InputError(f"{where}: no evaluation_result or token_usage; grade the answers first")
    return {
        "query_id": query,
        "task": query.rpartition("_")[0] or query,
        "model": model,
        "prompt": item.get("question"),
        "reference": grade.get("ground_truth"),
        "response": item.get("generated_answer"),
        "quality": _score(where, grade),
        "prompt_tokens": _count(where, usage, "input_tokens"),
        "response_tokens": _count(where, usage, "output_tokens"),
        "dollars": number(grade.get("inference_cost"), f"{where}: 'inference_cost'"),
    }


def _score(where: str, grade: Mapping[str, Any]) -> float:
    score = number(grade.get("score"), f"{where}: 'score'")
    lowest = -1 if grade.get("metric") == METEOR else 0
    if score is None or not lowest <= score <= 1:
        raise InputError(f"{where}: score {score} is no quality; grade the answer in [0, 1]")
    return score


def _text(where: str, item: Mapping[str, Any], name: str) -> str:
    if not isinstance(item.get(name), str) or not item[name]:
        raise InputError(f"{where}: no text '{name}'; give RouterArena's cached results")
    return item[name]


def _count(where: str, usage: Mapping[str, Any], name: str) -> int:
    count = number(usage.get(name), f"{where}: '{name}'")
    if count is None or count != int(count) or not 0 <= count < 2**31:
        raise InputError(f"{where}: '{name}' is {count}; give the number of tokens")
    return int(count)


def _prices(path: Path) -> Iterator[tuple[str, tuple[float, float]]]:
    table = read_json(path)
    if not isinstance(table, dict):
        raise InputError(f"{path.name}: not a price table; give RouterArena's cost.json")
    for model, price in table.items():
        known = [price.get(name) for name in (IN, OUT)] if isinstance(price, dict) else [None]
        dollars = [number(each, f"{path.name}: price of '{model}'") for each in known]
        if None in dollars:
            raise InputError(f"{path.name}: model '{model}' lacks {IN} or {OUT}; add both")
        yield model, (dollars[0] or 0.0, dollars[-1] or 0.0)
