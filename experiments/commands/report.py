"""evaluate the routers on a run's records again and rewrite its report"""

from __future__ import annotations

from collections.abc import Sequence

from experiments.options import resolve
from routers.errors import InputError


def main(arguments: Sequence[str]) -> None:
    """`cascade report CONFIG|RUN [--evaluation.routers ...]`; needs no model."""
    config, run = resolve(arguments, "report")
    from experiments import evaluation
    from experiments.table import print_summary

    missing = [p for p in evaluation.record_paths(config, run) if not p.exists()]
    if missing:
        raise InputError(f"{missing[0]}: not scored yet; first `cascade run {arguments[0]}`")
    run.claim(config)
    print_summary(run.folder, evaluation.report_run(config, run))
