"""train the large model and every arm of the small one"""

from __future__ import annotations

from collections.abc import Sequence

from experiments.options import resolve


def main(arguments: Sequence[str]) -> None:
    """`cascade train CONFIG|RUN [--field value ...]`."""
    config, run = resolve(arguments, "train")
    from experiments.pipeline import Pipeline, on_mesh

    with on_mesh(config.mesh):
        Pipeline(config, run).train()
    print(f"trained: {run.folder}")
