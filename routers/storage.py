"""Routers on disk: one safetensors file each, arrays plus a JSON header; never pickle.

Header: ``format`` and ``schema`` (version), ``router`` (the file name in ``routers/zoo``, or
``score`` for a ready-made column) and ``fields`` (hyper-parameters as JSON). A fitted field
``weights_`` that is a dict of arrays is stored as ``weights_.<key>``; one that is an array, under
its own name.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from routers.base import Router
from routers.build import hyper_parameters, router_class, router_name
from routers.errors import InputError
from routers.files import written

FORMAT = "cascade-router"
SCHEMA = 1


def save(router: Router, path: Path) -> None:
    """Write a router, fitted or not, whole or not at all (temporary name, then rename)."""
    header = {
        "format": FORMAT,
        "schema": str(SCHEMA),
        "router": router_name(router),
        "fields": json.dumps(fields_of(router)),
    }
    with written(path) as temporary:
        save_file(arrays_of(router), temporary, metadata=header)


def load(path: Path) -> Router:
    """The router that was saved there, bit for bit. Raises InputError for any other file."""
    if not path.is_file():
        raise InputError(f"{path}: no such router file; save one with routers.storage.save")
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(f"{path}: not a safetensors file ({error}); save it again") from None
    return _router(path, header, arrays)


def _router(path: Path, header: dict[str, str], arrays: dict[str, np.ndarray]) -> Router:
    """A router from what its file holds."""
    if header.get("format") != FORMAT:
        raise InputError(f"{path}: a safetensors file, but not of a router; give a saved router")
    try:
        schema, name = int(header["schema"]), header["router"]
        stored = dict(json.loads(header["fields"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: its header is broken ({error}); save the router again") from None
    if schema > SCHEMA:
        raise InputError(
            f"{path}: schema {schema} is newer than {SCHEMA}, which this version reads; "
            "update the toolkit"
        )
    return rebuilt(path, name, stored, arrays)


def rebuilt(path: Path, name: str, fields: dict[str, Any], arrays: dict[str, np.ndarray]) -> Router:
    """The router that ``router_name``, ``fields_of`` and ``arrays_of`` describe.

    Raises InputError, beginning with the path of its file, for a name or field it does not know.
    """
    try:
        cls = router_class(name)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    found = fields | _fitted(arrays)
    known = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(found) - known)
    if unknown:
        raise InputError(f"{path}: {name} has no field {unknown[0]!r}; fit it again")
    return cls(**found)


def fields_of(router: Router) -> dict[str, Any]:
    """Hyper-parameters by name, as JSON values.

    >>> from routers.build import build
    >>> fields_of(build("chow_quantile:alpha=0.1"))
    {'alpha': 0.1}
    """
    return {field: getattr(router, field) for field in hyper_parameters(type(router))}


def arrays_of(router: Router) -> dict[str, np.ndarray]:
    """Fitted fields as a flat dict of C-ordered arrays, which is what the format stores.

    The inverse is ``with_arrays``.
    """
    flat: dict[str, np.ndarray] = {}
    for field in dataclasses.fields(router):  # type: ignore[arg-type]
        value = getattr(router, field.name)
        if not field.name.endswith("_") or value is None:
            continue
        if isinstance(value, dict):
            flat |= {f"{field.name}.{key}": np.asarray(a, order="C") for key, a in value.items()}
        else:
            flat[field.name] = np.asarray(value, order="C")
    return flat


def with_arrays(router: Router, arrays: dict[str, np.ndarray]) -> Router:
    """A copy of a router with the fitted arrays that ``arrays_of`` took from another."""
    return dataclasses.replace(router, **_fitted(arrays))  # type: ignore[type-var]


def _fitted(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Fitted fields by name, from ``arrays_of``."""
    fields: dict[str, Any] = {}
    for name, array in arrays.items():
        field, dot, key = name.partition(".")
        if dot:
            fields.setdefault(field, {})[key] = array
        else:
            fields[field] = array
    return fields
