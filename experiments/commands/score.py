"""let both models answer validation and test; writes Records"""

from __future__ import annotations

from collections.abc import Sequence

from experiments.options import resolve


def main(arguments: Sequence[str]) -> None:
    """`cascade score CONFIG|RUN [--field value ...]`; trains first what is not trained yet."""
    config, run = resolve(arguments, "score")
    from experiments.pipeline import Pipeline, on_mesh

    pipeline = Pipeline(config, run)
    with on_mesh(config.mesh):
        pipeline.train()
        pipeline.score()
    print(f"records: {run.folder / 'records'}")
