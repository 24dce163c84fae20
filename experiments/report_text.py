"""The words of figures and report: captions, glossary, numbers."""

from __future__ import annotations

from typing import Any

from experiments.report_data import Run

Number = float | int
"""JSON writes 1.0 and 1; both are read."""

PROTOCOLS = {
    "sweep": "sweep (thresholds ranked on the test set)",
    "transfer": "transfer (thresholds chosen on validation)",
}

GLOSSARY = {
    "arm": "One way to fine-tune the small model; the large model never changes.",
    "router": "The rule that scores each query; one whose score reaches the threshold is sent on.",
    "deferral rate": "Share of queries sent on to the large model.",
    "random": "Sending queries on by lot: the straight line every router must beat.",
    "oracle": "The best order there is, knowing both answers; not deployable.",
    "FLOPs": "Forward floating-point operations per query, averaged over test queries.",
    "AUDC": "Area under quality against deferral rate: average quality over all operating points.",
    "normalised AUDC": "0 at random, 1 at the oracle of the same models: ranking alone, "
    "apart from how good the small model is.",
    "saving": "FLOPs saved against the large model alone at quality S + x·(L − S), x of the way "
    "from the small to the large model; negative where the cascade costs more.",
    "AUROC": "Chance that the router ranks a query only the large model answers above another; "
    "0.5 is guessing.",
    "ρ with length": "Rank correlation of the score with response length: near ±1 the router "
    "mostly measures length.",
    "paired interval": "95 % interval of a difference; both sides see the same resampled queries.",
    "sweep": "Every threshold tried on the test set: compares rankings.",
    "transfer": "Threshold fixed on validation, applied once to the test set: what you would get.",
    "keep rate": "Share of response tokens the training mask keeps in the loss.",
    "macro average": "Mean over tasks, each task counting once.",
}


def caption(run: Run, *, intervals: bool = True) -> str:
    """n, seeds, cost convention and protocol; what is not recorded is said to be so."""
    summary = run.summary
    seeds = summary.get("seeds")
    n = summary.get("n_test")
    protocol = summary.get("protocol")
    parts = [
        f"n = {n:,} test queries" if n is not None else "n not recorded",
        plural(len(seeds), "seed") if seeds else "seeds not recorded",
        f"cost: {summary.get('cost') or 'convention not recorded'}",
        f"protocol: {PROTOCOLS.get(protocol, protocol) if protocol else 'not recorded'}",
    ]
    return "; ".join(parts) + ("; bands: 95 % intervals." if intervals else ".")


def plural(count: int, noun: str) -> str:
    """A count and its noun.

    >>> plural(1, "seed"), plural(3, "seed")
    ('1 seed', '3 seeds')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def fixed(value: Number | None, digits: int = 3, sign: str = "-") -> str:
    """A number with a true minus sign; no sign on zero; a dash when there is none.

    >>> fixed(-0.1234), fixed(None), fixed(-1e-9), fixed(0.5, 1, sign="+")
    ('−0.123', '–', '0.000', '+0.5')
    """
    if value is None:
        return "–"
    text = f"{value:{sign}.{digits}f}"
    return text.replace("-", "−") if float(text) else text.lstrip("+-")


def short(value: Number | None) -> str:
    """A large count in engineering notation.

    >>> short(2.4e7), short(9400), short(None)
    ('24.0 M', '9.4 k', '–')
    """
    if value is None:
        return "–"
    for unit, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.0f}"


def interval(entry: dict[str, Any] | None, digits: int = 3) -> str:
    """``0.812 [0.801, 0.823]``; a dash when there is no value.

    >>> interval({"mean": 0.8124, "ci": [0.8011, 0.8229]})
    '0.812 [0.801, 0.823]'
    """
    if not entry or entry.get("mean") is None:
        return "–"
    span = entry.get("ci")
    tail = f" [{fixed(span[0], digits)}, {fixed(span[1], digits)}]" if span else ""
    return fixed(entry["mean"], digits) + tail
