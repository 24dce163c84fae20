"""Quality of one answer, in [0, 1]: what Records hold and curves average.

Where an example has several references, exact match and F1 take the best one; chrF and BLEU
use them together, as sacreBLEU defines.
"""

from __future__ import annotations

import collections
import functools
import re
import string
from typing import Any

from cat.example import Example
from routers.errors import InputError, did_you_mean

METRICS = ["exact_match", "f1", "chrf", "bleu"]


def quality(metric: str, prediction: str, example: Example) -> float:
    """Quality of ``prediction`` in [0, 1] by that metric: exact_match, f1, chrf or bleu.

    * ``exact_match``: 1 if equal to a reference after runs of whitespace became one space.
    * ``f1``: token overlap after SQuAD's normalisation (lower case; no punctuation, no
      articles). Source: SQuAD evaluation script 1.1; two empty answers agree, as in 2.0.
    * ``chrf``: character 6-gram F2 / 100; ``bleu``: BLEU-4 / 100 with effective order and
      exponential smoothing. Source: sacreBLEU's sentence scores.

    Raises:
        InputError: unknown metric.

    >>> quality("exact_match", " a  b", Example("0", "t", "?", "a b"))
    1.0
    """
    references = list(dict.fromkeys((example.target, *example.references)))
    if metric == "exact_match":
        answer = prediction.split()
        return float(any(answer == reference.split() for reference in references))
    if metric == "f1":
        return max(_token_f1(prediction, reference) for reference in references)
    check(metric)
    score = _sacrebleu(metric).sentence_score(prediction, references).score
    return min(score / 100, 1.0)  # 100.00000000000004 is a score sacreBLEU can give


def check(metric: str) -> None:
    """Raise InputError unless ``quality`` knows the metric."""
    if metric not in METRICS:
        raise InputError(f"data.metric '{metric}' is unknown; {did_you_mean(metric, METRICS)}")


@functools.lru_cache(maxsize=2)
def _sacrebleu(metric: str) -> Any:
    """The metric object; BLEU with effective order, as ``sacrebleu.sentence_bleu``."""
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    return CHRF() if metric == "chrf" else BLEU(effective_order=True)


def _token_f1(prediction: str, reference: str) -> float:
    """2PR / (P + R) over normalised tokens as multisets; empty sides count 1 if both are."""
    got, want = normalised_tokens(prediction), normalised_tokens(reference)
    if not got or not want:
        return float(got == want)
    common = sum((collections.Counter(got) & collections.Counter(want)).values())
    return 2 * common / (len(got) + len(want))


def normalised_tokens(text: str) -> list[str]:
    """SQuAD's order: lower case, drop ASCII punctuation, drop a/an/the, split on whitespace.

    >>> normalised_tokens("The cat's  hat.")
    ['cats', 'hat']
    """
    kept = "".join(ch for ch in text.lower() if ch not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", kept).split()
