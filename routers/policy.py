"""A policy to deploy: a router and its threshold, decided with NumPy alone.

Two files lie side by side: ``NAME.json`` (threshold, models, how it was chosen) and
``NAME.safetensors`` (the router); never pickle.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from routers import storage, thresholds
from routers.base import Inputs, Router
from routers.curves import deferral_curve
from routers.errors import InputError
from routers.files import written
from routers.records import Records, pair, small_and_large

FORMAT = "cascade-policy"
SCHEMA = 1


@dataclasses.dataclass(frozen=True)
class Policy:
    """Send a query on iff ``router.score >= threshold``.

    Args:
        router: fitted if it is learned.
        threshold: finite, or +inf (never defer) or -inf (always).
        about: how the threshold was chosen and what it reached on the fit split; JSON values.

    >>> from routers.build import build
    >>> inputs = Inputs(np.array(["a", "b"]), np.array(["t", "t"]), np.array([3, 3]),
    ...                 response_tokens=np.array([2, 9]))
    >>> Policy(build("length"), threshold=5.0, about={}).decide(inputs).tolist()
    [False, True]
    """

    router: Router
    threshold: float
    about: dict[str, Any]

    def decide(self, inputs: Inputs) -> np.ndarray:
        """[N] bool: True = send this query to the large model."""
        return self.router.score(inputs.at_stage(self.router.stage)) >= self.threshold

    def save(self, path: Path) -> None:
        """Write ``path`` (.json) and the router beside it; the JSON last, so it is never alone."""
        if path.suffix != ".json":
            raise InputError(f"{path}: a policy file ends in .json; rename it")
        storage.save(self.router, path.with_suffix(".safetensors"))
        threshold = self.threshold if np.isfinite(self.threshold) else str(self.threshold)
        body = {"format": FORMAT, "schema": SCHEMA, "threshold": threshold, "about": self.about}
        body["router"] = path.with_suffix(".safetensors").name
        with written(path) as temporary:
            temporary.write_text(json.dumps(body, indent=1, allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> Policy:
        """The policy that was saved there; InputError for anything else."""
        if not path.is_file():
            raise InputError(f"{path}: no such policy; make one with `cascade calibrate`")
        try:
            body = json.loads(path.read_text())
        except ValueError as error:
            raise InputError(f"{path}: not JSON ({error}); make it again") from None
        if not isinstance(body, dict) or body.get("format") != FORMAT:
            raise InputError(f"{path}: not a policy; make one with `cascade calibrate`")
        absent = [key for key in ("schema", "threshold", "about", "router") if key not in body]
        if absent:
            raise InputError(f"{path}: no '{absent[0]}'; make it again with `cascade calibrate`")
        if body["schema"] > SCHEMA:
            raise InputError(f"{path}: schema {body['schema']} is newer than {SCHEMA}; update")
        router = storage.load(path.with_name(body["router"]))
        return cls(router, float(body["threshold"]), body["about"])


def calibrate(
    records: Records,
    router: Router,
    *,
    deferral_rate: float | None = None,
    budget: float | None = None,
    quality: float | None = None,
    small: str | None = None,
    large: str | None = None,
    split: str = "validation",
) -> Policy:
    """Fit the router on ``split`` and choose its threshold there for one of three targets.

    ``deferral_rate``: the most queries within this share. ``budget``: the best quality within
    this mean cost a query. ``quality``: the least cost that reaches this mean quality.

    ``about`` tells what the policy reached on that split. For a learned router this is the data
    it was fitted on: judge it on other queries before relying on the figures.

    Raises:
        InputError: not exactly one target, one that no threshold meets, or a split or model
            that is not there.
    """
    targets = {"deferral_rate": deferral_rate, "budget": budget, "quality": quality}
    asked = {name: value for name, value in targets.items() if value is not None}
    if len(asked) != 1:
        raise InputError(
            f"{len(asked)} targets; give one of --deferral-rate, --budget-flops, --quality "
            "(in Python deferral_rate, budget, quality)"
        )
    small, large = small_and_large(records, small, large)
    inputs, outcomes = pair(records, small, large, split)
    seen = inputs.at_stage(router.stage)
    fitted = router.fit(seen, outcomes)
    score = fitted.score(seen)
    flops = fitted.flops_per_query(seen) if records.cost_unit == "flops" else None
    curve = deferral_curve(score, outcomes, stage=fitted.stage, router_flops=flops)
    if deferral_rate is not None:
        threshold = thresholds.for_deferral_rate(score, deferral_rate)
    elif budget is not None:
        threshold = thresholds.for_budget(curve, budget)
    else:
        threshold = thresholds.for_quality(curve, float(asked["quality"]))
    point = thresholds.achieved(threshold, score, outcomes, stage=router.stage, router_flops=flops)
    about = {"small": small, "large": large, "fit_split": split, "n_fit": len(inputs)}
    about |= {"target": asked, "deferral_rate": point.deferral_rate}
    about |= {"quality": point.quality, "flops": point.flops, "cost_unit": records.cost_unit}
    return Policy(fitted, threshold, about)
