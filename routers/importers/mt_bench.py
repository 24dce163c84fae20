"""MT-Bench judgements as one query per question (a helper of the ``routellm`` format).

Quality is the mean judge rating over a question's turns, divided by 10 (ratings run from 1 to
10, so quality runs from 0.1 to 1). A router sees the first turn only and both turns go to the
same model, as in RouteLLM's evaluator; the mean over questions is then the mean over
judgements. A rating of -1 marks a judgement that failed; it is refused, not averaged.

Source: RouteLLM (2406.18665), routellm/evals/benchmarks.py, class MTBench.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from routers.errors import InputError
from routers.importers.sources import number, objects

JUDGEMENTS, QUESTIONS = "judgements.jsonl", "question.jsonl"
TOP = 10  # of the judge's scale, which starts at 1


def judged(files: Mapping[str, Path]) -> pa.Table:
    """A row per question: id, task (its category), both turns, each model's quality.

    Raises:
        InputError: no questions, a question without two turns, a rating outside 1 to 10, or a
            question that one model was not judged on in every turn.
    """
    if QUESTIONS not in files:
        raise InputError(f"{files[JUDGEMENTS].name}: its questions are missing; name {QUESTIONS}")
    questions = _questions(files[QUESTIONS])
    ratings = _ratings(files[JUDGEMENTS])
    models = list(dict.fromkeys(model for model, _ in ratings))
    turns = max(map(len, ratings.values()), default=0)
    for model in models:
        for question in questions:
            if len(ratings.get((model, question), ())) != turns:
                raise InputError(
                    f"{files[JUDGEMENTS].name}: question {question} has not {turns} judgements of "
                    f"model '{model}', as others have; judge the missing turn or drop the question"
                )
    columns: dict[str, list[Any]] = {
        "query_id": [f"mt_bench-{question}" for question in questions],
        "task": [f"mt_bench_{item['category']}" for item in questions.values()],
        "prompt": [item["turns"][0] for item in questions.values()],
        "second_turn": [item["turns"][1] for item in questions.values()],
    }
    for model in models:
        each = [ratings[model, question].values() for question in questions]
        columns[f"quality:{model}"] = [sum(turn) / len(turn) / TOP for turn in each]
    return pa.table(columns)


def _questions(path: Path) -> dict[int, dict[str, Any]]:
    found = {}
    for where, item in objects(path):
        turns, question = item.get("turns"), item.get("question_id")
        texts = (
            isinstance(turns, list) and len(turns) == 2 and all(isinstance(t, str) for t in turns)
        )
        if not (texts and isinstance(question, int) and isinstance(item.get("category"), str)):
            raise InputError(f"{where}: not a question; it has question_id, category and two turns")
        if question in found:
            raise InputError(f"{where}: question {question} stands there twice; keep one")
        found[question] = item
    if not found:
        raise InputError(f"{path.name}: no questions; is this the right file?")
    return found


def _ratings(path: Path) -> dict[tuple[str, int], dict[Any, float]]:
    """Rating by turn, for each (model, question)."""
    found: dict[tuple[str, int], dict[Any, float]] = {}
    for where, item in objects(path):
        model, question, turn = (item.get(name) for name in ("model", "question_id", "turn"))
        if not (isinstance(model, str) and isinstance(question, int) and isinstance(turn, int)):
            raise InputError(f"{where}: not a judgement; it has question_id, model, turn and score")
        rating = number(item.get("score"), f"{where}: 'score'")
        if rating is None or not 1 <= rating <= TOP:
            raise InputError(
                f"{where}: rating {rating} of question {question}, turn {turn}, is not 1 to {TOP} "
                "(-1 marks a judgement that failed); judge it again or drop the question"
            )
        turns = found.setdefault((model, question), {})
        if turn in turns:
            raise InputError(f"{where}: turn {turn} of question {question} stands there twice")
        turns[turn] = rating
    return found
