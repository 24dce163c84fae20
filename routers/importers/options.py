"""What a log may leave unsaid: names, splits, costs, and where its columns are."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

from routers.errors import InputError, did_you_mean

Number = float | int
SPLITS = ("train", "validation", "test", "hash")


@dataclasses.dataclass(frozen=True)
class Options:
    """What the person importing adds to the log; empty = what the log itself says.

    Prices are dollars per million tokens (prompt, response); parameters are the N of the 2N
    rule; ``query_cost`` is dollars per query, for logs without token counts.

    >>> Options(prices={"gpt-4": (30.0, 60.0)}).prices["gpt-4"]
    (30.0, 60.0)
    """

    model: str = ""  # for a log that does not name its model
    task: str = ""  # for a log without tasks
    split: str = ""  # train, validation, test (all rows) or hash
    prices: Mapping[str, tuple[Number, Number]] = dataclasses.field(default_factory=dict)
    parameters: Mapping[str, Number] = dataclasses.field(default_factory=dict)
    query_cost: Mapping[str, Number] = dataclasses.field(default_factory=dict)
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)  # ours -> theirs
    metric: str = ""  # the name of the measure that becomes ``quality``
    quality: Path | None = None  # a file of grades, for logs that hold none

    def __post_init__(self) -> None:
        if self.split and self.split not in SPLITS:
            raise InputError(
                f"split '{self.split}' is unknown; {did_you_mean(self.split, [*SPLITS])}"
            )
        for model, price in self.prices.items():
            _number(price[0], f"price of '{model}' (prompt)")
            _number(price[1], f"price of '{model}' (response)")
        for model, cost in self.query_cost.items():
            _number(cost, f"query cost of '{model}'")
        for model, count in self.parameters.items():
            _number(count, f"parameters of '{model}'")

    def refuse(self, name: str, *fields: str) -> None:
        """Raise InputError where a field was given that format ``name`` has no use for."""
        for field in fields:
            if getattr(self, field):
                raise InputError(
                    f"--{_FLAGS.get(field, field)}: {name} has no use for it; leave it out"
                )


_FLAGS = {"columns": "map"}


def _number(value: Number, what: str) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise InputError(f"{what} is {value}; give a number of at least 0")
