"""draw a run's quality-FLOPs picture as PNG, SVG or PDF"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from experiments.commandline import existing, parse


@dataclasses.dataclass(frozen=True)
class Plot:
    """Quality against FLOPs of a finished run.

    Example: cascade plot runs/demo --arms xent cat_xent -o figure.pdf
    """

    run: tyro.conf.Positional[Path]  # a run directory
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None  # .png, .svg or .pdf
    arms: tuple[str, ...] = ()  # which arms; all of them when empty
    routers: tuple[str, ...] = ()  # which routers; the main ones when empty


def main(arguments: Sequence[str]) -> None:
    """`cascade plot RUN [-o FILE]`."""
    options = parse(Plot, arguments, "cascade plot")
    from experiments import plots

    existing(options.run / "summary.json", "summary (is this a finished run directory?)")
    out = options.out or options.run / "plots" / "quality_flops.png"
    plots.quality_flops(
        options.run, out, arms=list(options.arms) or None, routers=list(options.routers) or None
    )
    print(out)
