"""What a router sees, what it may learn from, and what it must answer.

A router decides from ``Inputs`` alone: columns of the smaller model and the prompt, all
known at decision time. ``Outcomes`` (quality and cost of both tiers, teacher-forced
columns) reach only ``fit`` and the curves, so a router cannot read the label or the large
model's answer.

Letters: N queries, M response tokens in all, K largest log-probabilities, E embedding width.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal

import numpy as np

from routers.errors import InputError
from routers.ragged import Ragged

Stage = Literal["prompt", "response"]


@dataclasses.dataclass(frozen=True)
class Inputs:
    """N queries as the router sees them, from the smaller model's records.

    ``prompt_*`` fields and ``task`` are known before anything is generated; the others only
    after the small model has answered (stage ``response``). Absent columns are None.
    Log-probabilities are natural logs (nats) of the model's own response, EOS included, from
    the untruncated distribution at temperature 1.
    """

    query_id: np.ndarray  # [N] str
    task: np.ndarray  # [N] str
    prompt_tokens: np.ndarray | None  # [N] int
    prompt_embedding: np.ndarray | None = None  # [N, E]
    response_tokens: np.ndarray | None = None  # [N] int
    token_logprob: Ragged | None = None  # [M]
    token_entropy: Ragged | None = None  # [M]
    topk_logprob: Ragged | None = None  # [M, K], descending
    response_embedding: np.ndarray | None = None  # [N, E]
    scores: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)  # score:<name>, [N]
    response: np.ndarray | None = None  # [N] text, only beside sampled_responses
    sampled_responses: Ragged | None = None  # text: answers sampled at temperature > 0

    def __len__(self) -> int:
        return len(self.query_id)

    def take(self, rows: np.ndarray) -> Inputs:
        """The queries of these indices, in that order."""
        return _take(self, rows)

    def at_stage(self, stage: Stage) -> Inputs:
        """Only what is known at that stage: for ``prompt``, response fields become None."""
        if stage == "response":
            return self
        return dataclasses.replace(
            self,
            response_tokens=None,
            token_logprob=None,
            token_entropy=None,
            topk_logprob=None,
            response_embedding=None,
            response=None,
            sampled_responses=None,
        )

    def need(self, *names: str) -> None:
        """Raise InputError if one of these columns is absent."""
        absent = [name for name in names if getattr(self, name) is None]
        if absent:
            raise InputError(
                f"records lack {', '.join(absent)}, which this router reads; "
                "score with token columns (see docs/records.md) or choose a router without them"
            )


@dataclasses.dataclass(frozen=True)
class Outcomes:
    """What happened to the same N queries at both tiers; for ``fit`` and curves only.

    Quality is in [0, 1]; FLOPs are forward FLOPs each model spent on the query.
    ``forced_*`` columns are teacher-forced on the reference response (one value per
    reference token, EOS included): what token-level routers learn from.
    """

    quality_small: np.ndarray  # [N]
    quality_large: np.ndarray  # [N]
    flops_small: np.ndarray  # [N]
    flops_large: np.ndarray  # [N]
    forced_logprob_small: Ragged | None = None  # [M']
    forced_topk_logprob_small: Ragged | None = None  # [M', K]
    forced_hit_small: Ragged | None = None  # [M'] bool
    forced_hit_large: Ragged | None = None  # [M'] bool

    def __len__(self) -> int:
        return len(self.quality_small)

    def take(self, rows: np.ndarray) -> Outcomes:
        """The queries of these indices, in that order."""
        return _take(self, rows)

    @property
    def gain(self) -> np.ndarray:
        """[N] quality_large - quality_small: what deferring would bring."""
        return self.quality_large - self.quality_small


class Router:
    """Base of every router: a frozen dataclass whose fields are hyper-parameters.

    One file in ``routers/zoo`` holds one router; the file ``chow_average.py`` defines the
    class ``ChowAverage``. That is all it takes to be found by the command and by the
    conformance suite. Fitted arrays live in fields whose names end in ``_`` (default None).
    """

    stage: ClassVar[Stage] = "response"
    learned: ClassVar[bool] = False  # True: ``score`` needs ``fit`` first
    peeks: ClassVar[bool] = False  # True: a reference line that sees outcomes, not deployable

    def fit(self, inputs: Inputs, outcomes: Outcomes) -> Router:
        """A fitted copy; arguments and self are unchanged. Training-free: self."""
        return self

    def score(self, inputs: Inputs) -> np.ndarray:
        """[N] float64 deferral scores: higher = send on. Defer iff ``score >= threshold``."""
        raise NotImplementedError

    def flops_per_query(self, inputs: Inputs) -> np.ndarray:
        """[N] FLOPs the router itself spends on each query; charged to the cascade."""
        return np.zeros(len(inputs))

    @property
    def fitted(self) -> bool:
        """Whether ``score`` may be called."""
        names = [f.name for f in dataclasses.fields(self) if f.name.endswith("_")]  # type: ignore[arg-type]
        return not self.learned or any(getattr(self, n) is not None for n in names)

    def require_fitted(self) -> None:
        """Raise a clear error when ``score`` comes before ``fit``."""
        if not self.fitted:
            raise ValueError(f"{type(self).__name__} is not fitted; call fit(inputs, outcomes)")


def _take(columns: Any, rows: np.ndarray) -> Any:
    """Row selection for a dataclass of arrays, Ragged columns, dicts of arrays and None."""

    def select(value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, dict):
            return {key: select(item) for key, item in value.items()}
        return value.take(rows) if isinstance(value, Ragged) else value[rows]

    fields = {f.name: select(getattr(columns, f.name)) for f in dataclasses.fields(columns)}
    return dataclasses.replace(columns, **fields)
