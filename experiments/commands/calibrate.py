"""choose a router's threshold on validation and write a policy to deploy"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from experiments.commandline import parse, print_json
from routers.errors import InputError

Split = Literal["train", "validation", "test"]


@dataclasses.dataclass(frozen=True)
class Calibrate:
    """Fit a router, choose its threshold on the fit split for one target, write POLICY.json.

    Example: cascade calibrate logs.parquet --router chow_average --deferral-rate 0.3 -o policy.json
    """

    records: tyro.conf.Positional[tuple[Path, ...]]  # Parquet files (docs/records.md)
    router: str  # NAME[:field=value,...]
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]  # the policy file, ending in .json
    deferral_rate: float | None = None  # target: share of queries to send on, in [0, 1]
    budget_flops: float | None = None  # target: mean cost a query, in the unit of the records
    quality: float | None = None  # target: mean quality, in [0, 1]
    small: str | None = None  # the smaller model's name; needed when there are more than two
    large: str | None = None  # the larger model's name
    fit_split: Split = "validation"  # the split to fit and choose on
    json: bool = False  # print one JSON object instead of a line


def main(arguments: Sequence[str]) -> None:
    """`cascade calibrate RECORDS... --router R --deferral-rate X -o POLICY.json`."""
    options = parse(Calibrate, arguments, "cascade calibrate")
    from routers.build import build
    from routers.policy import calibrate
    from routers.records import read

    router = build(options.router)
    if router.peeks:
        raise InputError(f"router '{options.router}' sees outcomes; it cannot be deployed")
    policy = calibrate(
        read(options.records),
        router,
        small=options.small,
        large=options.large,
        split=options.fit_split,
        deferral_rate=options.deferral_rate,
        budget=options.budget_flops,
        quality=options.quality,
    )
    policy.save(options.out)
    if options.json:
        print_json(policy.about | {"policy": str(options.out)})
        return
    about = policy.about
    print(
        f"{options.out}: {options.router} sends on {about['deferral_rate']:.1%} of "
        f"{about['n_fit']:,} {options.fit_split} queries at threshold {policy.threshold:.6g}; "
        f"quality {about['quality']:.4f}, {about['flops']:.4g} {about['cost_unit']} a query"
    )
