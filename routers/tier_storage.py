"""Policies over K models on disk: ``NAME.json`` and ``NAME.safetensors``; never pickle.

The JSON holds the kind of policy, its settings, its routers' hyper-parameters and how it was
chosen; the arrays of routers and estimates lie beside it. ``sha256`` covers both files, so a file
that was damaged, edited or paired with another's arrays is refused instead of deciding otherwise.

Letters: K tiers.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as arrays_as_bytes

from routers import mlp
from routers.base import Router
from routers.build import router_name
from routers.cascade import Cascade, Mixed, StaticMixture
from routers.cascade_routing import CascadeRouting, Routing
from routers.errors import InputError
from routers.estimates import Estimates, Sets, subsets
from routers.files import written
from routers.nested import joined, part
from routers.policy import FORMAT as PAIR_FORMAT
from routers.policy import TIER_FORMAT, as_json, json_of, number
from routers.storage import arrays_of, fields_of, rebuilt
from routers.tier_policy import TierPolicy

SCHEMA = 1
BY_PRICE: dict[str, type[Routing] | type[CascadeRouting]] = {
    "routing": Routing,
    "cascade_routing": CascadeRouting,
}


def save(policy: TierPolicy, path: Path) -> None:
    """Write both files, the JSON last; each appears whole or not at all.

    Raises:
        InputError: a path that does not end in .json.
        ValueError: a kind of policy, or a router, that is not this toolkit's.
    """
    if path.suffix != ".json":
        raise InputError(f"{path}: a policy file ends in .json; rename it")
    writer = _Writer()
    spec = writer.policy(policy)
    packed = arrays_as_bytes(writer.arrays)
    beside = path.with_suffix(".safetensors")
    body = {
        "format": TIER_FORMAT,
        "schema": SCHEMA,
        "models": list(policy.models),
        "policy": spec,
        "routers": writer.routers,
        "estimates": writer.estimates,
        "about": policy.about,
        "arrays": beside.name,
    }
    body["sha256"] = _digest(body, packed)
    text = json.dumps(body, indent=1, allow_nan=False) + "\n"
    with written(beside) as temporary:
        temporary.write_bytes(packed)
    with written(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def load(path: Path) -> TierPolicy:
    """The policy that was saved there, bit for bit; InputError in one line for any other file."""
    body = json_of(path)
    if body.get("format") == PAIR_FORMAT:
        raise InputError(f"{path}: a policy over two models; load it with routers.Policy")
    if body.get("format") != TIER_FORMAT:
        raise InputError(
            f"{path}: not a policy over several models; make one with `cascade calibrate --tiers`"
        )
    if type(body.get("schema")) is not int or body["schema"] > SCHEMA:
        raise InputError(
            f"{path}: schema {body.get('schema')!r} is not {SCHEMA}, which this version reads; "
            "update the toolkit, or make the policy again"
        )
    if not isinstance(body.get("about"), dict):
        raise InputError(f"{path}: not as a policy is written ('about'); make it again")
    packed = _bytes_beside(path, body.get("arrays"))
    if body.pop("sha256", None) != _digest(body, packed):
        raise InputError(f"{path}: it or its arrays changed since it was saved; make it again")
    try:
        return _Reader(path, body, load_arrays(packed)).policy(body["policy"], body["about"])
    except InputError as error:
        raise InputError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None
    except (KeyError, IndexError, TypeError, ValueError, RecursionError, SafetensorError) as error:
        raise InputError(f"{path}: not as a policy is written ({error!r}); make it again") from None


def _digest(body: Mapping[str, Any], packed: bytes) -> str:
    """Hash of everything a policy is, whatever the white space of its JSON."""
    canonical = json.dumps(body, sort_keys=True).encode()
    return hashlib.sha256(hashlib.sha256(canonical).digest() + packed).hexdigest()


def _bytes_beside(path: Path, name: Any) -> bytes:
    """The arrays' file; never one in another folder."""
    if not (isinstance(name, str) and Path(name).name == name and name.endswith(".safetensors")):
        raise InputError(f"{path}: arrays {name!r} are not a file beside it; make it again")
    beside = path.with_name(name)
    if not beside.is_file():
        raise InputError(f"{beside}: no such file; it belongs to {path.name}, copy both")
    return beside.read_bytes()


class _Writer:
    """JSON of a policy; what it refers to, each thing once, and its arrays."""

    def __init__(self) -> None:
        self.arrays: mlp.Arrays = {}
        self.routers: list[dict[str, Any]] = []
        self.estimates: list[dict[str, Any]] = []
        self._places: dict[int, int] = {}  # by identity: mixed policies share their estimates

    def policy(self, policy: TierPolicy) -> dict[str, Any]:
        """Kind and settings."""
        match policy:
            case Cascade():
                thresholds = [as_json(value) for value in policy.thresholds]
                routers = [self._router(router) for router in policy.routers]
                return {"kind": "cascade", "thresholds": thresholds, "routers": routers}
            case StaticMixture():
                return {"kind": "static", "shares": list(policy.shares)}
            case Mixed():
                sides = {"cheap": self.policy(policy.cheap), "dear": self.policy(policy.dear)}
                return {"kind": "mixed", "share": float(policy.share)} | sides
            case Routing() | CascadeRouting():
                kind = next(name for name, cls in BY_PRICE.items() if type(policy) is cls)
                place = self._estimate(policy.estimates)
                return {"kind": kind, "price": policy.price, "estimates": place}
        raise ValueError(f"{type(policy).__name__} is not a policy of this toolkit")

    def _router(self, router: Router) -> int:
        """Its place among the routers."""
        if id(router) not in self._places:
            place = self._places[id(router)] = len(self.routers)
            self.arrays |= joined({f"router.{place}": arrays_of(router)})
            self.routers.append({"router": router_name(router), "fields": fields_of(router)})
        return self._places[id(router)]

    def _estimate(self, estimates: Estimates) -> int:
        """Its place among the estimates."""
        if id(estimates) not in self._places:
            place = self._places[id(estimates)] = len(self.estimates)
            self.arrays |= joined({f"estimates.{place}": _flat(estimates)})
            routers = [self._router(router) for router in estimates.routers]
            self.estimates.append({"routers": routers, "cost_unit": estimates.cost_unit})
        return self._places[id(estimates)]


class _Reader:
    """The inverse of ``_Writer``."""

    def __init__(self, path: Path, body: dict[str, Any], arrays: mlp.Arrays) -> None:
        self.path, self.arrays = path, arrays
        self.models = tuple(str(name) for name in body["models"])
        self.routers = [
            rebuilt(path, entry["router"], entry["fields"], part(arrays, f"router.{place}"))
            for place, entry in enumerate(body["routers"])
        ]
        self.estimates = [
            self._estimate(place, entry) for place, entry in enumerate(body["estimates"])
        ]

    def policy(self, spec: dict[str, Any], about: dict[str, Any]) -> TierPolicy:
        """A policy from its kind and settings."""
        kind = spec["kind"]
        if kind == "cascade":
            thresholds = tuple(self._number(value) for value in spec["thresholds"])
            routers = tuple(self.routers[place] for place in spec["routers"])
            return Cascade(self.models, routers, thresholds, about=about)
        if kind == "static":
            shares = tuple(self._number(share) for share in spec["shares"])
            return StaticMixture(self.models, shares, about=about)
        if kind == "mixed":
            cheap, dear = (self.policy(spec[side], {}) for side in ("cheap", "dear"))
            return Mixed(self.models, cheap, dear, self._number(spec["share"]), about=about)
        estimates, price = self.estimates[spec["estimates"]], self._number(spec["price"])
        return BY_PRICE[kind](self.models, estimates, price, about=about)

    def _number(self, value: Any) -> float:
        return number(value, self.path)

    def _estimate(self, place: int, entry: dict[str, Any]) -> Estimates:
        routers = tuple(self.routers[router] for router in entry["routers"])
        arrays = part(self.arrays, f"estimates.{place}")
        return _unflat(arrays, routers, len(self.models), self._number(entry["cost_unit"]))


def _flat(estimates: Estimates) -> mlp.Arrays:
    """All arrays of the estimates under names that say what they are of."""
    lists = {
        "prompt_quality": estimates.prompt_quality,
        "prompt_cost": estimates.prompt_cost,
        "signal": estimates.signal,
    } | {f"after.{_named(seen)}": lines for seen, lines in estimates.after.items()}
    flat = joined({f"{name}.{k}": a for name, many in lists.items() for k, a in enumerate(many)})
    for (before, after), covariance_KK in estimates.change.items():
        flat[f"change.{_named(before)}.{_named(after)}"] = covariance_KK
    return {name: np.asarray(array, order="C") for name, array in flat.items()}


def _unflat(
    arrays: mlp.Arrays, routers: tuple[Router, ...], tiers: int, cost_unit: float
) -> Estimates:
    """The inverse of ``_flat``."""

    def many(name: str, count: int) -> tuple[mlp.Arrays, ...]:
        return tuple(part(arrays, f"{name}.{k}") for k in range(count))

    every = subsets(range(len(routers)))
    found = Estimates(
        routers=routers,
        prompt_quality=many("prompt_quality", tiers),
        prompt_cost=many("prompt_cost", tiers),
        signal=many("signal", len(routers)),
        after={seen: many(f"after.{_named(seen)}", tiers) for seen in every},
        change={
            (before, after): arrays[f"change.{_named(before)}.{_named(after)}"]
            for before, after in itertools.product(every, every)
            if set(before) < set(after)
        },
        cost_unit=cost_unit,
    )
    if set(_flat(found)) != set(arrays):
        raise ValueError(f"estimates for {tiers} models with other arrays than theirs")
    return found


def _named(seen: Sets) -> str:
    """``{0,1}``; the dot separates names."""
    return "{" + ",".join(map(str, seen)) + "}"
