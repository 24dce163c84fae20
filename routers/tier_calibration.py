"""From records of K models and a target to a policy over them.

A budget or a quality picks a point of the frontier drawn on the split. A promise needs more: the
frontier, drawn on one half of the split, gives the *order* in which settings are tested on the
other half, from the one that lost least to the cheapest, until one fails. The order is fixed before
the tests see their queries, so fixed-sequence testing holds without any assumption on how the loss
moves along it; with more than two models it need not be monotone. (For that same reason there is
no promise in expectation: conformal risk control needs a monotone loss.)

Letters: N queries, K tiers, P settings.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64

from routers import families
from routers.base import Router
from routers.bounds import Bound, check_share, p_value, queries_needed
from routers.cascade import Decisions, decide, judge
from routers.errors import InputError
from routers.families import Family, Parts
from routers.guarantees import NotSupported
from routers.operating_point import bound_of, cost_in
from routers.records import Records
from routers.targets import Target, promise
from routers.tier_policy import TierPolicy
from routers.tiers import Tiers, join

Kind = Literal["cascade", "routing", "cascade_routing", "static"]

TEST_SEED = 8_000_009
"""Of the hash that keeps half of the split for the tests of a promise."""

STEPS = 64
"""Settings along the frontier that a promise tests, at most."""


def calibrate(
    records: Records,
    models: Sequence[str],
    target: Target,
    *,
    kind: Kind = "cascade",
    router: Router | None = None,
    name: str = "",
    split: str = "validation",
) -> TierPolicy:
    """A policy of one kind over these models that meets the target on the queries of ``split``.

    Learned parts are fitted on one half of the queries and settings chosen on the other. With a
    promise, all of that happens on one half of the split, and the other half tests it. The
    policy's ``about`` says what was expected of its setting where that was chosen, and what the
    policy, run as deployed, then did on the queries that chose (with a promise: tested) it.

    Args:
        models: cheapest first.
        kind: what decides, as in ``cascade evaluate --tiers``.
        router: judges the answer of every model but the last; none for routing and static.
        name: what to call the router in ``about``.

    Raises:
        NotSupported: the data cannot support the promise.
        InputError: a router too many or missing, a target that has no meaning for more than two
            models or that no setting meets; a model, split or cost that is not there.

    Source: fixed-sequence testing in Learn then Test (2110.01052), with the order learned on
    separate queries as that paper proposes; frontier as order and halves are our choice.
    """
    _check(kind, router, target)
    tiers = _in_unit(join(records, models, split), records, target.unit, split)
    if target.max_quality_loss is None:
        family = _family(kind, tiers, router, name)
        point, tested = _chosen(family, target, tiers.unit), family.chooses
    else:
        orders, tested = families.halves(tiers, TEST_SEED)
        family = _family(kind, _no_wins(orders), router, name)
        point = _promised(family, tested, target, bound_of(records))
    policy = family.make(family.frontier.settings[point])
    about = {
        "kind": kind,
        "router": name or None,
        "fit_split": split,
        "n_fit": family.fitted,
        "n_chosen_on": len(family.chooses),
        "target": target.given,
        "promise": promise(target, models[-1], 0),
        "bound": None if target.delta is None else bound_of(records),
        "cost_unit": tiers.unit,
        "expected": _expected(family, point, target),
        "found": _found(policy, tested),
    }
    return dataclasses.replace(policy, about=about)


def passed_in_order(
    losses: Callable[[int], Float64[np.ndarray, " N"]],
    count: int,
    *,
    epsilon: float,
    delta: float,
    bound: Bound,
) -> tuple[int, float | None]:
    """How many settings pass before the first that does not, and the mean loss of that one.

    ``losses(p)`` is asked for setting p only once those before it have passed. If the settings and
    their order were fixed without these queries, the chance that any that passed has a risk above
    epsilon is at most delta.

    Args:
        losses: [N] in [0, 1] of each query under setting p.
        count: number of settings.
        bound: ``binomial`` only where every loss, also of queries to come, is 0 or 1.

    Source: fixed-sequence testing, Learn then Test (2110.01052).

    >>> rising = np.tri(4)  # setting p loses on p + 1 of 4 queries
    >>> passed_in_order(lambda p: rising[p], 4, epsilon=0.9, delta=0.1, bound="binomial")
    (2, 0.75)
    """
    check_share("max quality loss", epsilon)
    check_share("delta", delta)
    for p in range(count):
        loss_N = losses(p)
        if not p_value(np.array([loss_N.sum()]), len(loss_N), epsilon, bound)[0] <= delta:
            return p, float(loss_N.mean())
    return count, None


def _check(kind: Kind, router: Router | None, target: Target) -> None:
    """Refuse what has no meaning before anything is read."""
    judges = kind in ("cascade", "cascade_routing")
    if judges and router is None:
        raise InputError(f"policy {kind} judges answers; name the router that does it (--router)")
    if not judges and router is not None:
        raise InputError(f"policy {kind} looks at no answer; leave the router out")
    if target.deferral_rate is not None:
        raise InputError(
            "a deferral rate says nothing about more than two models; give a budget, a quality or "
            "--max-quality-loss"
        )
    if target.in_expectation:
        raise InputError(
            "--in-expectation needs a loss that only falls as more is sent on, which more than two "
            "models do not give; use --delta"
        )


def _family(kind: Kind, tiers: Tiers, router: Router | None, name: str) -> Family:
    """Policies of that kind with their frontier on these queries."""
    if kind == "static":
        return families.static(tiers)
    parts = Parts.of(tiers)
    if router is None:
        return families.routing(parts)
    if kind == "cascade_routing":
        return families.cascade_routing(parts, router, name)
    return families.cascade(parts, router, name, tuple(range(len(tiers.models))))


def _chosen(family: Family, target: Target, unit: str) -> int:
    """The point of the frontier for a budget (the best) or a quality (the cheapest)."""
    at = family.frontier
    if target.quality is not None:
        reached = np.flatnonzero(at.quality >= target.quality)
        if not len(reached):
            raise InputError(
                f"no setting reaches quality {target.quality:.4g} on the fit split; the best is "
                f"{at.quality[-1]:.4g}, ask for that or less"
            )
        return int(reached[0])
    point = at.within(target.value)
    if point is None:
        raise InputError(
            f"no setting keeps mean {unit} within {target.value:.4g}; the least is "
            f"{at.cost[0]:.4g}, raise the budget"
        )
    return point


def _promised(family: Family, tested: Tiers, target: Target, bound: Bound) -> int:
    """The cheapest point that the tests reach on queries which had no part in the frontier.

    Raises NotSupported where that is none, or the last model alone, which needs no policy.
    """
    points = np.linspace(len(family.frontier) - 1, 0, STEPS).round().astype(int)
    order = list(dict.fromkeys(points.tolist()))  # from the dearest, which lost least

    def done(p: int) -> Decisions:
        return decide(family.make(family.frontier.settings[order[p]]), tested.inputs)

    assert target.max_quality_loss is not None
    assert target.delta is not None
    epsilon, delta = target.max_quality_loss, target.delta
    passed, failed = passed_in_order(
        lambda p: _lost(done(p), tested), len(order), epsilon=epsilon, delta=delta, bound=bound
    )
    last = len(tested.models) - 1
    if failed is not None and (not passed or (done(passed - 1).answer == last).all()):
        raise _not_supported(len(tested), failed, epsilon, delta, bound)
    return order[passed - 1]


def _not_supported(
    queries: int, failed: float, epsilon: float, delta: float, bound: Bound
) -> NotSupported:
    """The refusal: too few for any promise, too few at the loss seen, or no number would do."""
    start = (
        f"{queries:,} queries (half of the split) cannot promise a quality loss of at most "
        f"{epsilon:.4g} with probability {1 - delta:.4g}"
    )
    least = queries_needed(0.0, epsilon, delta, bound)
    assert least is not None
    if queries < least:
        more = 2 * (least - queries)
        return NotSupported(
            f"{start}: even if none lost anything that takes {least:,}; log {more:,} more in the "
            "split, or promise less",
            more,
        )
    seen = f"the safest setting that keeps any answer loses {failed:.4g} a query"
    wanted = queries_needed(failed, epsilon, delta, bound)
    if wanted is None:
        return NotSupported(
            f"{start}: {seen}, so more queries would not help; promise less, or choose a router "
            "that ranks better",
            None,
        )
    more = 2 * max(wanted - queries, 1)
    return NotSupported(
        f"{start}: {seen}; at that rate it takes about {wanted:,}, log {more:,} more in the split "
        "or promise less",
        more,
    )


def _no_wins(tiers: Tiers) -> Tiers:
    """A tier that beats the last counts as equal to it, so quality is short of it by the loss."""
    return dataclasses.replace(tiers, quality=np.minimum(tiers.quality, tiers.quality[:, -1:]))


def _lost(done: Decisions, tiers: Tiers) -> Float64[np.ndarray, " N"]:
    """[N] ``max(0, q_last - q_answer)``."""
    return np.maximum(tiers.quality[:, -1] - judge(done, tiers).quality, 0.0)


def _expected(family: Family, point: int, target: Target) -> dict[str, float]:
    """Means of the chosen setting where it was chosen; those of a mixture over its draws."""
    at, last = family.frontier, float(family.chooses.quality[:, -1].mean())
    means = {"quality": float(at.quality[point]), "cost": float(at.cost[point])}
    if target.max_quality_loss is None:
        return means
    lost = last - means.pop("quality")  # wins over the last model were not counted
    return {"quality_lost": lost} | means


def _found(policy: TierPolicy, tiers: Tiers) -> dict[str, Any]:
    """What the policy does on these queries, run as it is deployed."""
    done = decide(policy, tiers.inputs)
    judged = judge(done, tiers)
    answered = np.bincount(done.answer, minlength=len(tiers.models)) / len(tiers)
    return {
        "n": len(tiers),
        "quality": float(judged.quality.mean()),
        "quality_last": float(tiers.quality[:, -1].mean()),
        "quality_lost": float(_lost(done, tiers).mean()),
        "cost": float(judged.cost.mean()),
        "visited": done.visited.mean(axis=0).tolist(),
        "answered": answered.tolist(),
    }


def _in_unit(tiers: Tiers, records: Records, unit: str | None, split: str) -> Tiers:
    """The same queries with costs in another unit than the records': dollars or seconds."""
    if unit is None or unit == tiers.unit:
        return tiers
    costs = [cost_in(records, model, split, unit) for model in tiers.models]
    return dataclasses.replace(tiers, cost=np.stack(costs, axis=1), unit=unit)
