"""list the routers, a line each"""

from collections.abc import Sequence

from experiments.listing import show


def main(arguments: Sequence[str]) -> None:
    """`cascade routers [--json]`."""
    from routers import build

    rows = {}
    for name in build.names():
        stage, learned, line = build.describe(name)
        rows[name] = f"[{stage}{', learned' if learned else ''}] {line}"
    show(arguments, "cascade routers", rows)
