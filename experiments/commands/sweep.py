"""the learning rate of every arm, by validation loss on one grid"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from experiments.options import resolve
from routers.errors import InputError

HELP = """usage: cascade sweep CONFIG|RUN --rates RATE RATE ... [OPTIONS]

Trains every arm at every learning rate, on the same data order and seeds, and names the rate with
the least validation loss (cross-entropy of response tokens, the same rule for every arm). The
large model, its signals and the base are trained once; finished runs are not repeated.

Examples:
  cascade sweep demo --rates 1e-3 2e-3 4e-3 8e-3
  cascade sweep demo --rates 2e-3 4e-3 --arms xent cat_xent --seeds 0 1 2
"""


def main(arguments: Sequence[str]) -> None:
    """`cascade sweep CONFIG|RUN --rates RATE ... [--field value ...]`."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP)
        raise SystemExit(0 if arguments else 2)
    if not {"-h", "--help"}.isdisjoint(arguments):
        print(HELP)
        resolve([arguments[0], "--help"], "sweep")  # lists every option and leaves
    rates, rest = _split(arguments)
    config, run = resolve(rest, "sweep")
    from experiments.pipeline import Pipeline, on_mesh
    from experiments.sweep import FILE, sweep
    from experiments.table import print_sweep

    with on_mesh(config.mesh):
        found = sweep(Pipeline(config, run), rates)
    print_sweep(found)
    for tuned in found:
        if tuned.at_edge:
            print(
                f"{tuned.arm}: the best rate is at the edge of the grid; widen --rates",
                file=sys.stderr,
            )
    print(f"written: {run.folder / FILE}")


def _split(arguments: Sequence[str]) -> tuple[list[float], list[str]]:
    """The numbers after ``--rates``, and everything else."""
    if "--rates" not in arguments:
        raise InputError("cascade sweep needs --rates, e.g. --rates 1e-3 2e-3 4e-3")
    at = list(arguments).index("--rates")
    rates: list[float] = []
    for word in arguments[at + 1 :]:
        try:
            rates.append(float(word))
        except ValueError:
            break
    return rates, [*arguments[:at], *arguments[at + 1 + len(rates) :]]
