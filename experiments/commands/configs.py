"""list the experiments that ship with the toolkit, a line each"""

from collections.abc import Sequence

from experiments import configs
from experiments.listing import show


def main(arguments: Sequence[str]) -> None:
    """`cascade configs [--json]`."""
    show(arguments, "cascade configs", configs.names())
