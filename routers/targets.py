"""What a threshold is chosen for, and in words what that promises."""

from __future__ import annotations

import dataclasses

from routers.bounds import check_share
from routers.errors import InputError

COSTS = {"budget_flops": "flops", "budget_dollars": "dollars", "budget_latency": "latency_s"}


@dataclasses.dataclass(frozen=True)
class Target:
    """What the threshold is chosen for: exactly one of these, on the calibration queries.

    Args:
        deferral_rate: the most queries sent on within this share.
        budget_flops, budget_dollars, budget_latency: the best quality within this mean cost of
            a query, in FLOPs, dollars or seconds. The router itself is charged in FLOPs only.
        quality: the least cost that reaches this mean quality.
        max_quality_loss: the most queries kept such that mean quality is within this of the
            large model's, promised for queries to come, either with
        delta: the probability, at most, that the promise fails (Learn then Test), or
        in_expectation: only on average over calibrations (conformal risk control).

    Raises:
        InputError: none of them or several, NaN, or a delta that does not go with it.

    >>> Target(deferral_rate=0.3).name, Target(max_quality_loss=0.02, delta=0.1).name
    ('deferral_rate', 'max_quality_loss')
    """

    deferral_rate: float | None = None
    budget_flops: float | None = None
    budget_dollars: float | None = None
    budget_latency: float | None = None
    quality: float | None = None
    max_quality_loss: float | None = None
    delta: float | None = None
    in_expectation: bool = False

    def __post_init__(self) -> None:
        if len(self._asked) != 1:
            raise InputError(
                f"{len(self._asked)} targets; give one of --deferral-rate, --budget-flops, "
                "--budget-dollars, --budget-latency, --quality, --max-quality-loss"
            )
        if self.value != self.value:
            raise InputError(f"{self.name} is NaN; give a number")
        promises = (self.delta is not None) + self.in_expectation
        if self.max_quality_loss is None:
            if promises:
                raise InputError("--delta, --in-expectation: only with --max-quality-loss")
            return
        if promises != 1:
            raise InputError(
                "--max-quality-loss needs one of --delta D (the promise holds with probability "
                "1 - D) and --in-expectation (it holds on average)"
            )
        check_share("max quality loss", self.max_quality_loss)
        if self.delta is not None:
            check_share("delta", self.delta)

    @property
    def name(self) -> str:
        """The field that is given."""
        return next(iter(self._asked))

    @property
    def value(self) -> float:
        """What it is set to."""
        return self._asked[self.name]

    @property
    def unit(self) -> str | None:
        """The records column a budget is counted in; None for the other targets."""
        return COSTS.get(self.name)

    @property
    def given(self) -> dict[str, float | bool]:
        """The target as JSON: the field that is given, and how it is promised."""
        how = {"delta": self.delta, "in_expectation": self.in_expectation or None}
        return {**self._asked, **{k: v for k, v in how.items() if v is not None}}

    @property
    def _asked(self) -> dict[str, float]:
        how = ("delta", "in_expectation")
        return {k: v for k, v in vars(self).items() if k not in how and v is not None}


def promise(target: Target, large: str, tasks: int) -> str:
    """One sentence: what holds for queries to come, if they are like the calibration queries.

    >>> promise(Target(max_quality_loss=0.02, delta=0.1), "large", 0)
    "mean quality at most 0.02 below 'large', with probability 0.9"
    """
    if target.max_quality_loss is None:
        return "met on the calibration queries; not promised for others"
    what = f"mean quality at most {target.value:.4g} below '{large}'"
    where = f" in each of {tasks} tasks" if tasks else ""
    if target.delta is None:
        return f"{what}{where}, on average over calibrations"
    at_once = " at once" if tasks else ""
    return f"{what}{where}{at_once}, with probability {1 - target.delta:.4g}"
