"""OpenAI's GSM8K example solutions: 6B and 175B GPT-3, fine-tuned or with a verifier

``example_model_solutions.jsonl`` holds a problem a line: ``question``, ``ground_truth`` and, under
each model's name (``6b_finetuning``, ``175b_verification``, ...), ``solution`` and ``is_correct``.
Without token counts, say what an answer costs: ``--query-cost 6b_finetuning=6`` and
``--query-cost 175b_finetuning=175`` weigh the models by size. A verifier samples and ranks 100
solutions (Cobbe et al.), so at equal size it is about 100 times as dear, and its own model comes
on top.

Source: Cobbe et al. 2021 (2110.14168), github.com/openai/grade-school-math.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from routers.errors import InputError
from routers.importers.complete import complete
from routers.importers.options import Options
from routers.importers.sources import objects, text_files
from routers.records import Records


def read(sources: Sequence[Path], options: Options) -> Records:
    """Records of every (problem, model).

    Raises:
        InputError: a line without its question, or with other models than the first.
    """
    files = text_files(sources, "*.jsonl")
    names = ("query_id", "task", "model", "prompt", "reference", "response", "quality")
    columns: dict[str, list[Any]] = {name: [] for name in names}
    models: list[str] = []
    lines = [line for path in files for line in objects(path)]
    for problem, (where, item) in enumerate(lines):
        answers = {n: v for n, v in item.items() if isinstance(v, dict) and "is_correct" in v}
        models = models or sorted(answers)
        if not isinstance(item.get("question"), str) or not models or sorted(answers) != models:
            raise InputError(
                f"{where}: not a problem with solutions of {', '.join(models) or 'any model'}; "
                "give example_model_solutions.jsonl"
            )
        for model, answer in answers.items():
            if not isinstance(answer["is_correct"], bool):
                raise InputError(f"{where}: is_correct of '{model}' is neither true nor false")
            row = (
                f"gsm8k-{problem:05d}",
                "gsm8k",
                model,
                item["question"],
                item.get("ground_truth"),
            )
            values = (*row, answer.get("solution"), float(answer["is_correct"]))
            for name, value in zip(names, values, strict=True):
                columns[name].append(value)
    return complete(columns, "gsm8k_openai", files, options)
