"""A policy to deploy: a router and its thresholds, decided with NumPy alone.

Two files lie side by side: ``NAME.json`` (thresholds, models, how they were chosen and what is
promised) and ``NAME.safetensors`` (the router); never pickle. ``routers/operating_point.py`` makes
policies.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from routers import storage
from routers.base import Inputs, Router
from routers.errors import InputError
from routers.files import written

FORMAT = "cascade-policy"
TIER_FORMAT = "cascade-tier-policy"  # over K models, of routers/tier_storage.py
SCHEMA = 2  # 1 had no task_thresholds


@dataclasses.dataclass(frozen=True)
class Policy:
    """Send a query on iff ``router.score >= threshold``.

    Args:
        router: fitted if it is learned.
        threshold: finite, or +inf (never defer) or -inf (always).
        about: how the thresholds were chosen, what is promised and what was reached on the
            calibration queries; JSON values.
        task_thresholds: by task, in place of ``threshold``; other tasks keep that one.

    >>> from routers.build import build
    >>> inputs = Inputs(np.array(["a", "b"]), np.array(["t", "u"]), np.array([3, 3]),
    ...                 response_tokens=np.array([2, 9]))
    >>> Policy(build("length"), threshold=5.0, about={}).decide(inputs).tolist()
    [False, True]
    >>> Policy(build("length"), 5.0, {}, {"t": 1.0}).decide(inputs).tolist()
    [True, True]
    """

    router: Router
    threshold: float
    about: dict[str, Any]
    task_thresholds: dict[str, float] = dataclasses.field(default_factory=dict)

    def decide(self, inputs: Inputs) -> Bool[np.ndarray, " N"]:
        """[N] True = send this query to the large model.

        Raises:
            InputError: columns the router reads are absent, or a score that is NaN.
        """
        score_N = self.router.score(inputs.at_stage(self.router.stage))
        if np.isnan(score_N).any():  # it would be kept, the unsafe side
            row = int(np.flatnonzero(np.isnan(score_N))[0])
            raise InputError(
                f"score of query '{inputs.query_id[row]}' is NaN; repair its token columns"
            )
        return score_N >= self._threshold(inputs)

    def _threshold(self, inputs: Inputs) -> float | np.ndarray:
        """One threshold, or [N] by task."""
        if not self.task_thresholds:
            return self.threshold
        of_task, pooled = self.task_thresholds.get, self.threshold
        return np.array([of_task(task, pooled) for task in inputs.task.tolist()], np.float64)

    def save(self, path: Path | str) -> None:
        """Write ``path`` (.json) and the router beside it; the JSON last, so it is never alone."""
        path = Path(path)
        if path.suffix != ".json":
            raise InputError(f"{path}: a policy file ends in .json; rename it")
        storage.save(self.router, path.with_suffix(".safetensors"))
        body = {
            "format": FORMAT,
            "schema": SCHEMA,
            "threshold": as_json(self.threshold),
            "task_thresholds": {t: as_json(v) for t, v in self.task_thresholds.items()},
            "about": self.about,
            "router": path.with_suffix(".safetensors").name,
        }
        with written(path) as temporary:
            temporary.write_text(json.dumps(body, indent=1, allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: Path | str) -> Policy:
        """The policy that was saved there, by this version or an older one.

        Raises:
            InputError: any other file, in one line.
        """
        path = Path(path)
        body = _body(path)
        by_task = body.get("task_thresholds", {})
        if not isinstance(by_task, dict) or not isinstance(body["about"], dict):
            raise InputError(f"{path}: not as a policy is written; make it again")
        threshold = number(body["threshold"], path)
        task_thresholds = {task: number(value, path) for task, value in by_task.items()}
        name = body["router"]
        beside = isinstance(name, str) and Path(name).name == name
        if not (beside and name.endswith(".safetensors")):
            raise InputError(f"{path}: router {name!r} is not a file beside it; make it again")
        return cls(storage.load(path.with_name(name)), threshold, body["about"], task_thresholds)


def as_json(threshold: float) -> float | str:
    """JSON has no infinities: they are written "inf" and "-inf"."""
    return threshold if math.isfinite(threshold) else str(threshold)


def json_of(path: Path) -> dict[str, Any]:
    """The object in a policy's JSON file; InputError in one line for a file without one."""
    if not path.is_file():
        raise InputError(f"{path}: no such policy; make one with `cascade calibrate`")
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error}); make it again") from None
    if not isinstance(body, dict):
        raise InputError(f"{path}: not a policy; make one with `cascade calibrate`")
    return body


def _body(path: Path) -> dict[str, Any]:
    """The JSON of a policy file, with the keys that every version has."""
    body = json_of(path)
    if body.get("format") == TIER_FORMAT:
        raise InputError(f"{path}: a policy over several models; load it with routers.TierPolicy")
    if body.get("format") != FORMAT:
        raise InputError(f"{path}: not a policy; make one with `cascade calibrate`")
    absent = [key for key in ("schema", "threshold", "about", "router") if key not in body]
    if absent:
        raise InputError(f"{path}: no '{absent[0]}'; make it again with `cascade calibrate`")
    if type(body["schema"]) is not int:
        raise InputError(f"{path}: schema {body['schema']!r} is not a version; make it again")
    if body["schema"] > SCHEMA:
        raise InputError(f"{path}: schema {body['schema']} is newer than {SCHEMA}; update")
    return body


def number(value: Any, path: Path) -> float:
    """A threshold as ``as_json`` writes it; InputError, beginning with the path, for others."""
    if value in ("inf", "-inf"):
        return float(value)
    if type(value) not in (int, float) or not math.isfinite(value):
        raise InputError(f"{path}: threshold {value!r} is not a number; make it again")
    return float(value)
