"""K models' records of the same queries, from the cheapest model to the dearest.

Letters: N queries, K tiers (models), in order of cost.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64

from routers.base import Inputs, Outcomes
from routers.errors import InputError, did_you_mean
from routers.ragged import Ragged

if TYPE_CHECKING:
    from routers.records import Records  # needs PyArrow; deciding imports this file and does not


@dataclasses.dataclass(frozen=True, eq=False)
class Tiers:
    """N queries that K models answered.

    Args:
        models: names, cheapest first.
        inputs: of each tier, what is known of a query once that tier has answered.
        quality: [N, K] in [0, 1].
        cost: [N, K] what each tier spends on the query when it is visited, in ``unit``.
        unit: ``flops`` or ``dollars``.
        forced: of each tier, teacher-forced columns (``logprob``, ``topk_logprob``, ``hit``) for
            token-level routers; None where the log has none.
    """

    models: tuple[str, ...]
    inputs: tuple[Inputs, ...]
    quality: Float64[np.ndarray, "N K"]
    cost: Float64[np.ndarray, "N K"]
    unit: str
    forced: tuple[dict[str, Ragged | None], ...]

    def __len__(self) -> int:
        return len(self.quality)

    def take(self, rows: np.ndarray) -> Tiers:
        """The queries of these indices, in that order."""
        return dataclasses.replace(
            self,
            inputs=tuple(inputs.take(rows) for inputs in self.inputs),
            quality=self.quality[rows],
            cost=self.cost[rows],
            forced=tuple(
                {name: None if column is None else column.take(rows) for name, column in f.items()}
                for f in self.forced
            ),
        )

    def select(self, tiers: Sequence[int]) -> Tiers:
        """Only these tiers, e.g. ``(0, 2)`` for the cascade that skips the middle one."""
        return dataclasses.replace(
            self,
            models=tuple(self.models[k] for k in tiers),
            inputs=tuple(self.inputs[k] for k in tiers),
            quality=self.quality[:, list(tiers)],
            cost=self.cost[:, list(tiers)],
            forced=tuple(self.forced[k] for k in tiers),
        )

    def outcomes(self, small: int, large: int) -> Outcomes:
        """What a router between these two tiers is fitted on."""
        ours, theirs = self.forced[small], self.forced[large]
        return Outcomes(
            quality_small=self.quality[:, small],
            quality_large=self.quality[:, large],
            flops_small=self.cost[:, small],
            flops_large=self.cost[:, large],
            forced_logprob_small=ours["logprob"],
            forced_topk_logprob_small=ours["topk_logprob"],
            forced_hit_small=ours["hit"],
            forced_hit_large=theirs["hit"],
        )


def join(records: Records, models: Sequence[str], split: str) -> Tiers:
    """The queries that all these models answered in a split, sorted by query id.

    Raises:
        InputError: fewer than two models, one twice or unknown, models not named from the
            cheapest to the dearest (mean cost over the records), or a fault ``records.pair`` finds.
    """
    from routers.records import pair

    _check_models(records, models)
    first, second = models[:2]
    found = []
    for model in models:  # paired with the first, so that all are of the same queries
        found.append(pair(records, model, second if model == first else first, split))
    inputs = tuple(seen for seen, _ in found)
    return Tiers(
        models=tuple(models),
        inputs=inputs,
        quality=np.stack([np.asarray(o.quality_small, np.float64) for _, o in found], axis=1),
        cost=np.stack([np.asarray(o.flops_small, np.float64) for _, o in found], axis=1),
        unit=records.cost_unit,
        forced=tuple(
            {
                "logprob": o.forced_logprob_small,
                "topk_logprob": o.forced_topk_logprob_small,
                "hit": o.forced_hit_small,
            }
            for _, o in found
        ),
    )


def _check_models(records: Records, models: Sequence[str]) -> None:
    if len(models) < 2:
        raise InputError(f"{len(models)} tier; name at least two models, cheapest first")
    for i, name in enumerate(models):
        if name not in records.models:
            raise InputError(
                f"no model '{name}' in the records; {did_you_mean(name, records.models)}"
            )
        if name in models[:i]:
            raise InputError(f"tier '{name}' is named twice; name each model once")
    unit = records.cost_unit
    means = records.table.group_by("model").aggregate([(unit, "mean")])
    columns = (means["model"].to_pylist(), means[f"{unit}_mean"].to_pylist())
    cost = dict(zip(*columns, strict=True))
    order = sorted(models, key=lambda name: cost[name])
    for before, after in itertools.pairwise(models):
        if cost[after] < cost[before]:
            raise InputError(
                f"tier '{after}' (mean {unit} {cost[after]:.4g}) comes after '{before}' "
                f"({cost[before]:.4g}); name tiers cheapest first: {','.join(order)}"
            )
