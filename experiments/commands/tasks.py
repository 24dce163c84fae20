"""list the tasks (data sources), a line each"""

from collections.abc import Sequence

from experiments.listing import show


def main(arguments: Sequence[str]) -> None:
    """`cascade tasks [--json]`."""
    from cat import tasks

    show(arguments, "cascade tasks", dict(tasks.names()))
