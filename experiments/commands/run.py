"""train, score and report an experiment; resumable"""

from __future__ import annotations

from collections.abc import Sequence

from experiments.options import resolve


def main(arguments: Sequence[str]) -> None:
    """`cascade run CONFIG|RUN [--field value ...]`: every stage, then the table and the report."""
    config, run = resolve(arguments, "run")
    from experiments.pipeline import Pipeline
    from experiments.table import print_summary

    path = Pipeline(config, run).all()
    print_summary(run.folder, path)
