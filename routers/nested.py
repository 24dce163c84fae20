"""Routers inside a router: members by their spec, and several sets of arrays in one.

A member is written ``name:field=value`` as on the command line; several fields are joined by
``;`` because ``,`` ends the outer field, and several members by ``+``.
"""

from __future__ import annotations

from routers import mlp
from routers.base import Router
from routers.build import build
from routers.errors import InputError
from routers.storage import arrays_of, with_arrays


def members(text: str, owner: str) -> list[Router]:
    """The unfitted routers of ``a+b:field=value;field=value``; ``owner`` names who asks.

    Raises InputError for none, for the same one twice, for one that sees the outcomes, and for
    whatever ``build`` refuses.

    >>> members("chow_quantile:alpha=0.1+length", "stack")
    [ChowQuantile(alpha=0.1), Length()]
    """
    specs = [spec.replace(";", ",") for spec in text.split("+")]
    if len(set(specs)) < len(specs):
        raise InputError(f"{owner}: a member is named twice in '{text}'; name each once")
    found = [build(spec) for spec in specs]
    for spec, router in zip(specs, found, strict=True):
        if router.peeks:
            raise InputError(f"{owner}: '{spec}' sees the outcomes; choose a deployable router")
    return found


def charged(text: str, owner: str, embedding_flops: int) -> str:
    """The members' specs, the first that reads the prompt embedding charged for it per token.

    One prefill makes the embedding for all of them. Unchanged where a member is charged already.

    >>> charged("length+knn:k=9+logistic", "stack", 50)
    'length+knn:k=9;embedding_flops=50+logistic'
    """
    specs = text.split("+")
    flops = [getattr(router, "embedding_flops", None) for router in members(text, owner)]
    if 0 not in flops or any(flops):
        return text
    place = flops.index(0)
    name, _, fields = specs[place].partition(":")
    kept = [
        field for field in fields.split(";") if field and not field.startswith("embedding_flops=")
    ]
    specs[place] = f"{name}:{';'.join([*kept, f'embedding_flops={embedding_flops}'])}"
    return "+".join(specs)


def joined(parts: dict[str, mlp.Arrays]) -> mlp.Arrays:
    """Several dicts of arrays in one, keys ``part.key``; the inverse of ``part``."""
    return {f"{name}.{key}": a for name, arrays in parts.items() for key, a in arrays.items()}


def part(arrays: mlp.Arrays, name: str) -> mlp.Arrays:
    """The arrays that ``joined`` stored under this name.

    >>> import numpy as np
    >>> part({"a.x": np.zeros(1), "b.x": np.ones(2)}, "b")["x"].tolist()
    [1.0, 1.0]
    """
    prefix = f"{name}."
    return {k.removeprefix(prefix): a for k, a in arrays.items() if k.startswith(prefix)}


def pack(routers: list[Router]) -> mlp.Arrays:
    """The fitted arrays of every member, by its place."""
    return joined({str(i): arrays_of(router) for i, router in enumerate(routers)})


def unpack(routers: list[Router], arrays: mlp.Arrays) -> list[Router]:
    """The members with the arrays that ``pack`` stored; the inverse of ``pack``."""
    return [with_arrays(router, part(arrays, str(i))) for i, router in enumerate(routers)]
