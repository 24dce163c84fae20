"""The finding in one sentence: which comparison, how large, and whether it is real."""

from __future__ import annotations

import dataclasses
from typing import Any

from experiments.report_data import MAIN_ROUTER, Run, flops_at_quality
from experiments.report_text import Number, fixed


@dataclasses.dataclass(frozen=True)
class Arrow:
    """The finding as drawn: from the baseline's FLOPs to the arm's, at one quality."""

    quality: Number
    flops_from: float
    flops_to: float
    label: str
    lines: tuple[tuple[str, str], tuple[str, str]]  # (arm, router) at either end


@dataclasses.dataclass(frozen=True)
class Finding:
    """A sentence for the head of the report; ``arrow`` only when the interval excludes zero."""

    text: str
    real: bool
    arrow: Arrow | None = None


def percent(fraction: Number, sign: str = "+") -> str:
    """A fraction in percent, without the unit; one decimal below ten; a true minus sign.

    >>> percent(-0.234), percent(0.05), percent(0.05, sign="-")
    ('−23', '+5.0', '5.0')
    """
    digits = 1 if abs(fraction) < 0.0995 else 0
    return fixed(100 * fraction, digits, sign)


def covers_zero(comparison: dict[str, Any]) -> bool:
    """Whether the interval of a paired difference contains zero."""
    low, high = comparison["ci"]
    return low <= 0 <= high


def finding(run: Run) -> Finding:
    """The most telling comparison of the summary, in words.

    A CAT arm comes before others, the baseline before other opponents, Chow-Average before
    other routers; of that one pair, FLOPs at equal quality before the area. ``difference`` of
    ``flops_at_equal_quality`` is FLOPs(arm) / FLOPs(against) − 1; of other metrics, arm minus
    against.
    """
    known = [c for c in run.summary.get("comparisons") or () if _usable(c)]
    if not known:
        return Finding("No paired comparison of arms was made in this run.", real=False)
    best = min(known, key=lambda c: _rank(run, c))
    if covers_zero(best):
        return Finding(f"No difference found: {_interval(best)} covers zero.", real=False)
    return Finding(_sentence(best), real=True, arrow=_arrow(run, best))


def rival(run: Run) -> Finding | None:
    """The same arm against its hardest opponent: another router on the baseline arm.

    A training-free rule on a CAT model competes with learned routers on a plain one; the
    opponent with the least difference is named, won or lost.
    """
    known = [c for c in run.summary.get("comparisons") or () if _usable(c)]
    others = [c for c in known if c.get("against_router") and c["metric"] == "audc"]
    if not others:
        return None
    hardest = min(others, key=lambda c: c["difference"])
    if covers_zero(hardest):
        return Finding(f"No difference found: {_interval(hardest)} covers zero.", real=False)
    return Finding(_sentence(hardest), real=True)


def _usable(comparison: dict[str, Any]) -> bool:
    return comparison.get("difference") is not None and bool(comparison.get("ci"))


def _rank(run: Run, comparison: dict[str, Any]) -> tuple[bool, ...]:
    return (
        not comparison["arm"].startswith("cat"),
        comparison["against"] != run.baseline,
        comparison.get("router") != MAIN_ROUTER,
        "against_router" in comparison,
        comparison["metric"] != "flops_at_equal_quality",
    )


def _interval(comparison: dict[str, Any]) -> str:
    low, high = comparison["ci"]
    arm, against = _sides(comparison)
    if comparison["metric"] == "flops_at_equal_quality":
        span = f"{percent(low)} % to {percent(high)} % FLOPs at equal quality"
    else:
        metric = comparison["metric"].upper()
        span = f"{fixed(low, sign='+')} to {fixed(high, sign='+')} {metric}"
    return f"the 95 % interval of {arm} against {against}, {span},"


def _sentence(comparison: dict[str, Any]) -> str:
    arm, against = _sides(comparison)
    gain = comparison["difference"]
    near, far = sorted(map(abs, comparison["ci"]))
    if comparison["metric"] != "flops_at_equal_quality":
        metric = comparison["metric"].upper()
        word = "higher" if gain > 0 else "lower"
        span = f"[{near:.3f},\u00a0{far:.3f}]"
        return f"{arm} has a {abs(gain):.3f} {span} {word} {metric} than {against}."
    word = "fewer" if gain < 0 else "more"
    at = comparison.get("at_quality")
    quality = "equal quality" if at is None else f"equal quality ({at:.3f})"
    size, span = percent(abs(gain), "-"), f"[{percent(near, '-')},\u00a0{percent(far, '-')}]"
    return f"{arm} needs {size} % {span} {word} FLOPs than {against} at {quality}."


def _sides(comparison: dict[str, Any]) -> tuple[str, str]:
    """Arm and opponent, each with its router."""
    router = comparison.get("router")
    routers = (router, comparison.get("against_router", router))
    arms = (comparison["arm"], comparison["against"])
    arm, against = (f"{a} with {r}" if r else a for a, r in zip(arms, routers, strict=True))
    return (arm, against) if routers[0] != routers[1] else (arm, arms[1])


def _arrow(run: Run, comparison: dict[str, Any]) -> Arrow | None:
    """None when the drawn mean curves do not both reach that quality."""
    at, router = comparison.get("at_quality"), str(comparison.get("router"))
    if comparison["metric"] != "flops_at_equal_quality" or at is None:
        return None
    against, arm = comparison["against"], comparison["arm"]
    curves = [run.curves.get(name, {}).get(router) for name in (against, arm)]
    start, end = (flops_at_quality(curve, at) if curve else None for curve in curves)
    if start is None or end is None:
        return None
    low, high = map(percent, comparison["ci"])
    label = f"{percent(comparison['difference'])} % FLOPs [{low}, {high}]"
    return Arrow(at, start, end, label, ((against, router), (arm, router)))
