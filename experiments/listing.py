"""What `cascade configs`, `tasks` and `routers` print."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from experiments.commandline import parse, print_json


@dataclasses.dataclass(frozen=True)
class Listing:
    """What there is, a line each."""

    json: bool = False  # print one JSON object, name to description


def show(arguments: Sequence[str], prog: str, rows: Mapping[str, str]) -> None:
    """Print names and descriptions in two columns, or as JSON."""
    if parse(Listing, arguments, prog).json:
        print_json(dict(rows))
        return
    width = max(map(len, rows), default=0)
    for name, line in rows.items():
        print(f"{name:<{width}}  {line}")
