"""One line of a ``samples_*.jsonl`` of lm-evaluation-harness.

The harness writes log-likelihoods as text in newer versions and as numbers in older ones, and
a document once per answer filter. Fields as in its ``evaluator.py`` and
``evaluation_tracker.py``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

from routers.errors import InputError, did_you_mean
from routers.importers.sources import number

USUAL = ("exact_match", "acc", "acc_norm", "prompt_level_strict_acc", "pass@1", "pass_at_1")
"""Metrics of a single document in [0, 1], in the order they are looked for. Our choice."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """A document as one model answered it; ``quality`` is filled in by ``select``."""

    query_id: str  # task/doc_id
    task: str
    model: str
    prompt: str | None
    reference: str | None
    response: str | None  # of generation tasks
    quality: float | None
    line: dict[str, Any]
    where: str

    COLUMNS: ClassVar = ("query_id", "task", "model", "prompt", "reference", "response", "quality")

    @property
    def document(self) -> Any:
        """What tells documents apart; None in logs of old versions."""
        return self.line.get("doc_hash")


def sample(line: dict[str, Any], task: str, model: str, where: str) -> Sample:
    """A line as a sample without quality.

    Raises:
        InputError: no ``doc_id``: the line is of something else.
    """
    doc_id = line.get("doc_id")
    if isinstance(doc_id, bool) or not isinstance(doc_id, int | str):
        raise InputError(f"{where}: no doc_id; expected a line that --log_samples wrote")
    answer = line.get("filtered_resps")
    answer = answer[0] if isinstance(answer, list) and len(answer) == 1 else None
    target = line.get("target")
    return Sample(
        query_id=f"{task}/{doc_id}",
        task=task,
        model=model,
        prompt=_prompt(line.get("arguments")),
        reference=None if target is None else str(target),
        response=answer if isinstance(answer, str) else None,
        quality=None,
        line=line,
        where=where,
    )


def select(samples: Sequence[Sample], asked: str, where: str) -> tuple[list[Sample], str]:
    """The samples of one filter with their quality, and "metric" or "metric,filter" as used.

    ``asked`` is written like the harness's results: ``exact_match`` or
    ``exact_match,strict-match``. Without it: the first of ``USUAL`` in the log, and the first
    filter.

    Raises:
        InputError: no such metric or filter, with those that are there.
    """
    if not samples:
        raise InputError(f"{where}: no rows; is this the right file?")
    metric, _, chosen = asked.partition(",")
    first = samples[0].line
    filters = list(dict.fromkeys(str(row.line.get("filter", "none")) for row in samples))
    chosen = chosen or filters[0]
    if chosen not in filters:
        raise InputError(f"{where}: no filter '{chosen}'; {did_you_mean(chosen, filters)}")
    metric = metric or next((name for name in USUAL if name in first), "")
    if metric not in first:
        there = _metrics(first)
        wanted = f"no metric '{metric}'" if metric else "none of the usual metrics"
        raise InputError(f"{where}: {wanted}; give --metric, one of: {', '.join(there) or 'none'}")
    kept = [row for row in samples if str(row.line.get("filter", "none")) == chosen]
    graded = [
        dataclasses.replace(row, quality=number(row.line.get(metric), f"{row.where}: '{metric}'"))
        for row in kept
    ]
    return graded, metric if len(filters) == 1 else f"{metric},{chosen}"


def option_margin(row: Sample) -> float | None:
    """-(best - second) log-likelihood over the options; None where there are no options.

    A lone log-likelihood (as in LAMBADA) is that of the reference and would give the label
    away; tasks with mutual information log every option twice.
    """
    if "acc_mutual_info" in row.line:
        return None
    options = _log_likelihoods(row)
    if len(options) < 2:
        return None
    best, second = sorted(options, reverse=True)[:2]
    return second - best


def _log_likelihoods(row: Sample) -> list[float]:
    """One value per option from pairs [log-likelihood, is greedy]; empty for generation."""
    for name in ("filtered_resps", "resps"):
        entries = row.line.get(name)
        pairs = [_pair(entry) for entry in entries] if isinstance(entries, list) else []
        if pairs and all(pair is not None for pair in pairs):
            what = f"{row.where}: a log-likelihood in {name}"
            values = [number(pair[0], what) for pair in pairs if pair is not None]
            return [value for value in values if value is not None]
    return []


def _pair(entry: Any) -> list[Any] | None:
    """[log-likelihood, is greedy], wrapped once more in ``resps``."""
    if isinstance(entry, list) and len(entry) == 1 and isinstance(entry[0], list):
        entry = entry[0]
    if isinstance(entry, list) and len(entry) == 2 and str(entry[1]) in ("True", "False"):
        return entry
    return None


def _prompt(arguments: Any) -> str | None:
    """The context of the first request, in either form the harness writes."""
    if isinstance(arguments, dict):  # {"gen_args_0": {"arg_0": context, ...}, ...}
        first = arguments.get("gen_args_0")
        text = first.get("arg_0") if isinstance(first, dict) else None
    else:  # [[context, ...], ...]
        first = arguments[0] if isinstance(arguments, list) and arguments else None
        text = first[0] if isinstance(first, list) and first else None
    return text if isinstance(text, str) else None


def _metrics(line: dict[str, Any]) -> list[str]:
    listed = line.get("metrics")
    if isinstance(listed, list):
        return [str(name) for name in listed]
    return [name for name, value in line.items() if isinstance(value, int | float)]
