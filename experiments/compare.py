"""Every comparison of a summary: arms and routers against one another, with paired intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cat.config import Config
from routers import metrics
from routers.bootstrap import interval
from routers.build import build
from routers.curves import Ranked
from routers.paired import Measured, difference, joint_draws, measured

MAIN = "chow_average"
SHARE = 0.9  # of the quality gap between the models

Rankings = dict[str, dict[str, list[Ranked]]]  # arm → router → one per seed
Areas = dict[tuple[str, str], Measured]  # by arm and router, all on the same resamples


def areas(config: Config, rankings: Rankings) -> Areas:
    """The area under every deferral curve, measured once for all intervals and comparisons."""
    named = {(arm, name): r for arm, routers in rankings.items() for name, r in routers.items()}
    options = config.evaluation
    made = measured(list(named.values()), resamples=options.bootstrap, seed=options.seed)
    return dict(zip(named, made, strict=True))


def compare(config: Config, rankings: Rankings, areas: Areas) -> list[dict[str, Any]]:
    """Every arm against Xent and against the random mask, same router; then CAT-Xent with a
    training-free rule against learned routers on Xent."""
    baselines = [arm for arm in ("xent", "random_mask") if arm in rankings]
    rows = []
    for arm in rankings:
        for against in baselines:
            if arm == against or (against == "random_mask" and arm == "xent"):
                continue
            for router in rankings[arm]:
                if router not in ("oracle", "random"):
                    rows.append(_difference(areas, (arm, router), (against, router)))
            rows += _equal_quality(config, rankings, arm, against)
    if "cat_xent" in rankings and "xent" in rankings:
        learned = [spec for spec in config.evaluation.routers if build(spec).learned]
        pair = ("cat_xent", MAIN)
        if MAIN in rankings["cat_xent"]:
            rows += [_difference(areas, pair, ("xent", spec)) for spec in learned]
    return rows


def _difference(areas: Areas, ours: tuple[str, str], theirs: tuple[str, str]) -> dict[str, Any]:
    """Difference of areas under the deferral curve, with its paired interval."""
    made = difference(areas[ours], areas[theirs])
    row = {"arm": ours[0], "against": theirs[0], "router": ours[1]}
    if ours[1] != theirs[1]:
        row["against_router"] = theirs[1]
    return row | {"metric": "audc", "difference": made.value, "ci": _ci(made.low, made.high)}


def _equal_quality(
    config: Config, rankings: Rankings, arm: str, against: str
) -> list[dict[str, Any]]:
    """Relative FLOPs where both cascades reach 90 % of the baseline's small-to-large gap."""
    if MAIN not in rankings[arm]:
        return []
    ours, theirs = rankings[arm][MAIN], rankings[against][MAIN]
    target, value = relative_flops(ours, theirs)
    options = config.evaluation
    draws = joint_draws(len(theirs[0]), len(theirs), resamples=options.bootstrap, seed=options.seed)
    drawn = []
    for weights, times in draws:
        picks = np.repeat(np.arange(len(theirs)), times)
        ours_b, theirs_b = [ours[k] for k in picks], [theirs[k] for k in picks]
        made = relative_flops(ours_b, theirs_b, weights)[1]
        drawn.append(np.nan if made is None else made)
    row = {"arm": arm, "against": against, "router": MAIN, "metric": "flops_at_equal_quality"}
    return [
        row | {"at_quality": target, "difference": value, "ci": _ci(*interval(np.array(drawn)))}
    ]


def relative_flops(
    ours: Sequence[Ranked], theirs: Sequence[Ranked], weights: np.ndarray | None = None
) -> tuple[float, float | None]:
    """The quality Q_S + 0.9 (Q_L - Q_S) of ``theirs``, and FLOPs(ours) / FLOPs(theirs) - 1 there.

    Means over seeds; queries counted ``weights`` times. The quality is that of the very sample,
    so a resample is asked for a quality it has. None where either never reaches it.
    """
    curves = [[r.curve(weights) for r in side] for side in (ours, theirs)]
    low, high = np.mean([curve.quality[[0, -1]] for curve in curves[1]], axis=0)
    target = float(low + SHARE * (high - low))
    spent = [[metrics.flops_at_quality(curve, target) for curve in side] for side in curves]
    if any(flops is None for side in spent for flops in side):
        return target, None
    mean_ours, mean_theirs = (np.mean(np.array(side, np.float64)) for side in spent)
    return target, float(mean_ours / mean_theirs - 1)


def _ci(low: float | None, high: float | None) -> list[float] | None:
    return None if low is None or high is None else [low, high]


def findings(comparisons: list[dict[str, Any]]) -> list[str]:
    """One sentence per headline comparison of CAT-Xent, saying so when it shows nothing."""
    lines = []
    for row in comparisons:
        if (row["arm"], row["router"], row["metric"]) != ("cat_xent", MAIN, "audc"):
            continue
        ci, other = row["ci"], row.get("against_router", MAIN)
        if ci is None or row["difference"] is None:
            continue
        word = "above" if row["difference"] > 0 else "below"
        verdict = "no difference shown: the interval covers zero" if ci[0] <= 0 <= ci[1] else word
        lines.append(
            f"cat_xent with {MAIN} against {row['against']} with {other}: area under the deferral "
            f"curve {row['difference']:+.4f} [{ci[0]:+.4f}, {ci[1]:+.4f}] ({verdict})"
        )
    return lines
