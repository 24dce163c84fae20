"""A policy over K models as a server runs it: which model next, when to stop, whose answer.

The models answer one after the other, so what a policy may know grows step by step. There is one
call for every kind of policy and every step: ``decide(prompt, seen)``, with what the tiers that
have answered say. Logs are replayed through the same call (``routers.cascade.decide``).

Letters: N queries, K tiers (models, cheapest first).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from routers.base import Inputs
from routers.errors import InputError

STOP = -1
"""Run no further tier."""

Seen = Mapping[int, Inputs]
"""What the tiers that have answered say, by their place in ``models``."""


@dataclasses.dataclass(frozen=True)
class TierPolicy:
    """Base of the policies over K models; ``decide`` until it says ``STOP``, then ``answer``.

    Queries of one call have been answered by the same tiers; a server with many groups them by
    that. Query ids must differ between queries: mixtures draw by them.

    Args:
        models: cheapest first; a tier is a place among them.
        about: how the settings were chosen, what was expected and found; JSON values.

    >>> from routers.build import build
    >>> from routers.cascade import Cascade
    >>> policy = Cascade(("small", "medium", "large"), (build("length"),) * 2, (5.0, 50.0))
    >>> prompt, seen = Inputs(np.array(["q1"]), np.array(["mail"]), np.array([3])), {}
    >>> def run(model):  # a server generates here; both answers happen to have 9 tokens
    ...     print("run", model)
    ...     return dataclasses.replace(prompt, response_tokens=np.array([9]))
    >>> while (tier := int(policy.decide(prompt, seen)[0])) != STOP:
    ...     seen[tier] = run(policy.models[tier])
    run small
    run medium
    >>> policy.models[policy.answer(prompt, seen)[0]]
    'medium'
    """

    models: tuple[str, ...]
    about: dict[str, Any] = dataclasses.field(default_factory=dict, kw_only=True)

    def decide(self, prompt: Inputs, seen: Seen) -> Int64[np.ndarray, " N"]:
        """[N] the tier to run next, or ``STOP``: enough is known to ``answer``.

        Args:
            prompt: the queries. Only what is known before anything is generated is looked at.
            seen: what each tier that has answered says of the same queries, in their order; {}
                at first, when the answer is always a tier.

        Raises:
            InputError: a tier that does not exist or says something of other queries, columns a
                router reads that are absent, or a score that is not finite.
        """
        for k, inputs in seen.items():
            if not 0 <= k < len(self.models):
                raise InputError(f"no tier {k}; the policy has {len(self.models)}, from 0")
            same = inputs.query_id is prompt.query_id  # spares a server the comparison
            if not same and not np.array_equal(inputs.query_id, prompt.query_id):
                raise InputError(
                    f"what '{self.models[k]}' says is of other queries than asked; give the same "
                    "query ids in the same order"
                )
        if len(seen) == len(self.models):
            return np.full(len(prompt), STOP)
        return self.next_tier(prompt_of(prompt), seen)

    def next_tier(self, prompt: Inputs, seen: Seen) -> np.ndarray:
        """[N] what ``decide`` returns, by the rule of this kind of policy.

        ``prompt`` holds what is known before anything is generated, and a tier is left to run.
        """
        raise NotImplementedError

    def answer(self, prompt: Inputs, seen: Seen) -> np.ndarray:
        """[N] the tier whose answer is returned: by default the dearest that was run."""
        return np.full(len(prompt), max(seen))

    def own_flops(self, prompt: Inputs, seen: Seen) -> np.ndarray:
        """[N] FLOPs of the decisions themselves for queries that end with these tiers seen."""
        return np.zeros(len(prompt))

    def save(self, path: Path | str) -> None:
        """Write ``path`` (.json) and its arrays beside it (``routers/tier_storage.py``)."""
        from routers import tier_storage

        tier_storage.save(self, Path(path))

    @classmethod
    def load(cls, path: Path | str) -> TierPolicy:
        """The policy that was saved there, of whatever kind; InputError for any other file."""
        from routers import tier_storage

        return tier_storage.load(Path(path))


def prompt_of(first: Inputs) -> Inputs:
    """What is known before anything is generated; a ready-made score may come from an answer."""
    return Inputs(
        query_id=first.query_id,
        task=first.task,
        prompt_tokens=first.prompt_tokens,
        prompt_embedding=first.prompt_embedding,
    )
