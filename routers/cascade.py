"""Threshold cascades, static mixtures, and any policy over K models run on logged queries.

A policy (``routers/tier_policy.py``) is given what the tiers say that have answered, and nothing
of any other tier, so it cannot use an answer it has not paid for. Routing and cascade routing are
in ``routers/cascade_routing.py``.

Letters: N queries, K tiers (models, cheapest first).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float64, Int64

from routers.base import Inputs, Router
from routers.curves import check_score
from routers.errors import InputError
from routers.features import stable_hash
from routers.tier_policy import STOP, Seen, TierPolicy, prompt_of
from routers.tiers import Tiers

MIX_SEED = 7_000_003
"""Of the hash that draws between tiers or policies; no router or fold uses it."""

Step = Callable[[np.ndarray, tuple[int, ...]], np.ndarray]
"""(rows, tiers seen, rising) to the next tier of each row, or ``STOP``."""


@dataclasses.dataclass(frozen=True)
class Decisions:
    """What a policy does with N queries.

    Args:
        visited: [N, K] whether each tier is run.
        answer: [N] the tier whose answer is returned.
        own_flops: [N] what the decisions themselves cost.
    """

    visited: Bool[np.ndarray, "N K"]
    answer: Int64[np.ndarray, " N"]
    own_flops: Float64[np.ndarray, " N"]


@dataclasses.dataclass(frozen=True)
class Judged:
    """Quality and cost of each query under a policy; every visited tier is paid."""

    quality: Float64[np.ndarray, " N"]
    cost: Float64[np.ndarray, " N"]


@dataclasses.dataclass(frozen=True)
class Cascade(TierPolicy):
    """Tiers in order; after tier k go on iff ``routers[k].score >= thresholds[k]``.

    Every visited tier is paid. With one model and no router it is that model alone.

    Raises:
        InputError: not one router and threshold between any two tiers, a router that decides
            before anything is generated, or one that sees the outcomes.

    Source: threshold cascades as in FrugalGPT (2305.05176) and Gupta et al. 2024 (2404.10136),
    with more than two models.
    """

    routers: tuple[Router, ...]
    thresholds: tuple[float, ...]

    def __post_init__(self) -> None:
        if not len(self.models) - 1 == len(self.routers) == len(self.thresholds):
            raise InputError(
                f"a cascade of {len(self.models)} tiers has {len(self.routers)} routers and "
                f"{len(self.thresholds)} thresholds; give one of each between any two tiers"
            )
        for router in self.routers:
            check_router(router)

    def next_tier(self, prompt: Inputs, seen: Seen) -> np.ndarray:
        """Tier 0 first, then one up or ``STOP``."""
        if not seen:
            return np.zeros(len(prompt), np.int64)
        k = max(seen)
        score_N = score(self.routers[k], seen[k], self.models[k])
        return np.where(score_N >= self.thresholds[k], k + 1, STOP)

    def own_flops(self, prompt: Inputs, seen: Seen) -> np.ndarray:
        """[N] the routers of the tiers seen; the last tier has none."""
        spent_N = np.zeros(len(prompt))
        for k, inputs in seen.items():
            if k < len(self.routers):
                spent_N = spent_N + self.routers[k].flops_per_query(inputs)
        return spent_N


@dataclasses.dataclass(frozen=True)
class StaticMixture(TierPolicy):
    """One tier for each query, drawn with these chances whatever is asked.

    A hash of the query id draws, so a query keeps its tier. It is the line that any policy has
    to beat. Raises InputError for another number of shares than models.

    Source: our choice; the static lines that 2605.06350 finds hard to beat.
    """

    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.shares) != len(self.models):
            raise InputError(
                f"{len(self.shares)} shares for {len(self.models)} models; give one of each"
            )

    def next_tier(self, prompt: Inputs, seen: Seen) -> np.ndarray:
        """The tier drawn, then ``STOP``."""
        if seen:
            return np.full(len(prompt), STOP)
        edges = np.cumsum(self.shares)[:-1]
        return np.searchsorted(edges, _drawn(prompt), side="right").astype(np.int64)


@dataclasses.dataclass(frozen=True)
class Mixed(TierPolicy):
    """One policy for a share of the queries, another for the rest; a hash of the id draws.

    A budget between what two settings cost is spent in full by mixing them. Source: cascade
    routing (2410.10347) mixes the cheapest and the dearest choice at the price where the budget
    is met; two neighbouring prices instead are our choice.
    """

    cheap: TierPolicy
    dear: TierPolicy
    share: float  # of the dear one

    def next_tier(self, prompt: Inputs, seen: Seen) -> np.ndarray:
        """As the query's policy says."""
        return self._each("next_tier", prompt, seen)

    def answer(self, prompt: Inputs, seen: Seen) -> np.ndarray:
        """[N] as the query's policy says."""
        return self._each("answer", prompt, seen)

    def own_flops(self, prompt: Inputs, seen: Seen) -> np.ndarray:
        """[N] of the query's policy."""
        return self._each("own_flops", prompt, seen)

    def _each(self, method: str, prompt: Inputs, seen: Seen) -> np.ndarray:
        dear_N = _drawn(prompt) >= 1.0 - self.share  # as a static mixture draws
        both = [(self.cheap, np.flatnonzero(~dear_N)), (self.dear, np.flatnonzero(dear_N))]
        parts = [(policy, rows) for policy, rows in both if len(rows)] or both[:1]
        if len(parts) == 1:  # always so for one query, and taking rows costs more than deciding
            return getattr(parts[0][0], method)(prompt, seen)
        found = [
            getattr(policy, method)(prompt.take(rows), {k: v.take(rows) for k, v in seen.items()})
            for policy, rows in parts
        ]
        order = np.argsort(np.concatenate([rows for _, rows in parts]))
        return np.concatenate(found)[order]


def decide(policy: TierPolicy, inputs: Sequence[Inputs]) -> Decisions:
    """Replay a policy over logged queries: N queries, the Inputs of all K tiers.

    It is asked as a server asks it (``TierPolicy.decide``), in groups that saw the same tiers. A
    tier's Inputs reach the policy only for the queries that the policy has sent there.

    >>> from routers.build import build
    >>> cheap = Inputs(np.array(["a", "b"]), np.array(["t", "t"]), None,
    ...                response_tokens=np.array([2, 9]))
    >>> policy = Cascade(("s", "l"), (build("length"),), (5.0,))
    >>> decide(policy, [cheap, cheap]).visited.tolist()
    [[True, False], [True, True]]
    """
    prompt = prompt_of(inputs[0])

    def seen_by(rows: np.ndarray, seen: tuple[int, ...]) -> tuple[Inputs, Seen]:
        return prompt.take(rows), {k: inputs[k].take(rows) for k in seen}

    def step(rows: np.ndarray, seen: tuple[int, ...]) -> np.ndarray:
        return policy.decide(*seen_by(rows, seen))

    visited_NK = walk(len(prompt), len(inputs), step)
    answer_N, flops_N = np.zeros(len(prompt), np.int64), np.zeros(len(prompt))
    for rows, seen in groups(visited_NK, np.arange(len(prompt))):
        known = seen_by(rows, seen)
        answer_N[rows], flops_N[rows] = policy.answer(*known), policy.own_flops(*known)
    return Decisions(visited_NK, answer_N, flops_N)


def walk(queries: int, tiers: int, step: Step) -> Bool[np.ndarray, "N K"]:
    """The tiers each query visits: ask ``step`` until it says ``STOP`` or none is left.

    Raises:
        ValueError: a step that names no tier to begin with, or one visited already.
    """
    visited_NK = np.zeros((queries, tiers), bool)
    running = np.arange(queries)
    while len(running):
        going = []
        for rows, seen in groups(visited_NK, running):
            if len(seen) == tiers:
                continue
            next_n = step(rows, seen)
            on = next_n != STOP
            if (not seen and not on.all()) or visited_NK[rows[on], next_n[on]].any():
                raise ValueError(f"after tiers {seen} a policy must name one not visited yet")
            visited_NK[rows[on], next_n[on]] = True
            going.append(rows[on])
        running = np.concatenate(going) if going else running[:0]
    return visited_NK


def judge(decisions: Decisions, tiers: Tiers) -> Judged:
    """Quality and cost of what was done.

    ``quality = q[answer]``, ``cost = sum over visited tiers of c_k``, plus the policy's own FLOPs
    where costs are FLOPs; a log in dollars has no unit to add them in.
    """
    quality_N = np.take_along_axis(tiers.quality, decisions.answer[:, None], axis=1)[:, 0]
    cost_N = (tiers.cost * decisions.visited).sum(axis=1)
    if tiers.unit == "flops":
        cost_N = cost_N + decisions.own_flops
    return Judged(quality_N, cost_N)


def _drawn(prompt: Inputs) -> np.ndarray:
    """[N] a uniform number in [0, 1) for each query, by its id."""
    return (stable_hash(prompt.query_id, MIX_SEED) >> np.uint64(11)) * 2.0**-53


def score(router: Router, inputs: Inputs, model: str) -> Float64[np.ndarray, " N"]:
    """[N] finite deferral scores of a tier's answers, or InputError naming the model."""
    score_N = np.asarray(router.score(inputs), np.float64)
    check_score(score_N, len(inputs), f"{type(router).__name__} on '{model}'")
    return score_N


def check_router(router: Router) -> None:
    """Raise InputError unless the router judges an answer, and only by what it sees."""
    name = type(router).__name__
    if router.stage != "response":
        raise InputError(
            f"{name} decides before anything is generated, but a cascade stops on an answer; "
            "choose a router of stage response (routing is compared in any case)"
        )
    if router.peeks:
        raise InputError(f"{name} sees the outcomes; choose a router that can be deployed")


def groups(
    visited_NK: Bool[np.ndarray, "N K"], rows: np.ndarray
) -> list[tuple[np.ndarray, tuple[int, ...]]]:
    """These rows by the set of tiers they have visited."""
    code_n = visited_NK[rows] @ (1 << np.arange(visited_NK.shape[1]))
    found = []
    for code in np.unique(code_n).tolist():
        tiers = tuple(k for k in range(visited_NK.shape[1]) if code >> k & 1)
        found.append((rows[code_n == code], tiers))
    return found
