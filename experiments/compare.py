"""Every comparison of a summary: arms and routers against one another, with paired intervals."""

from __future__ import annotations

from typing import Any

import numpy as np

from cat.config import Config
from routers import metrics
from routers.bootstrap import hierarchical_difference
from routers.curves import Ranked

LEARNED = ("post_hoc:learner=booster", "edge_inference", "cat_router")
MAIN = "chow_average"

Rankings = dict[str, dict[str, list[Ranked]]]  # arm → router → one per seed


def compare(config: Config, rankings: Rankings) -> list[dict[str, Any]]:
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
                    rows.append(_difference(config, rankings, (arm, router), (against, router)))
            rows += _equal_quality(config, rankings, arm, against)
    if "cat_xent" in rankings and "xent" in rankings:
        learned = [router for router in LEARNED if router in rankings["xent"]]
        pair = ("cat_xent", MAIN)
        if MAIN in rankings["cat_xent"]:
            rows += [_difference(config, rankings, pair, ("xent", name)) for name in learned]
    return rows


def _difference(
    config: Config, rankings: Rankings, ours: tuple[str, str], theirs: tuple[str, str]
) -> dict[str, Any]:
    """Difference of areas under the deferral curve, with its paired interval."""
    options = config.evaluation
    made = hierarchical_difference(
        rankings[ours[0]][ours[1]],
        rankings[theirs[0]][theirs[1]],
        resamples=options.bootstrap,
        seed=options.seed,
    )
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
    ends = np.mean([r.curve().quality[[0, -1]] for r in theirs], axis=0)
    target = float(ends[0] + 0.9 * (ends[1] - ends[0]))
    made = hierarchical_difference(
        ours,
        theirs,
        lambda curve: metrics.flops_at_quality(curve, target),
        relative=True,
        resamples=config.evaluation.bootstrap,
        seed=config.evaluation.seed,
    )
    row = {"arm": arm, "against": against, "router": MAIN, "metric": "flops_at_equal_quality"}
    return [row | {"at_quality": target, "difference": made.value, "ci": _ci(made.low, made.high)}]


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
