"""Families of checkpoints as data: a file each, with a reader of ``config.json`` and names.

A family is a module here that has ``ARCHITECTURE``, ``NAMES`` and ``read(fields)``; there is
no list to add it to.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from types import ModuleType
from typing import Any

from cat.models.config import ModelConfig, check_model
from cat.models.families.fields import Fields
from routers.errors import InputError, did_you_mean


@functools.cache
def families() -> dict[str, ModuleType]:
    """The families by architecture name, as ``config.json`` gives it.

    >>> sorted(families())[0]
    'Gemma2ForCausalLM'
    """
    found = [
        importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__)
    ]
    return {m.ARCHITECTURE: m for m in found if hasattr(m, "ARCHITECTURE")}


def family(values: dict[str, Any], where: str) -> ModuleType:
    """The family of a parsed ``config.json``.

    Raises:
        InputError: no architecture, or one that no file here reads.
    """
    named = values.get("architectures")
    if not (isinstance(named, list) and named and isinstance(named[0], str)):
        raise InputError(f"{where}: no 'architectures'; is it the config.json of a checkpoint?")
    if named[0] not in families():
        raise InputError(
            f"{where}: architecture '{named[0]}' is not supported; "
            f"{did_you_mean(named[0], sorted(families()))}"
        )
    return families()[named[0]]


def read(values: dict[str, Any], where: str) -> ModelConfig:
    """The decoder that a parsed ``config.json`` describes.

    Raises:
        InputError: a field that is not supported, by name.
    """
    fields = Fields(values, where)
    config = family(values, where).read(fields)
    fields.finish()
    check_model(where, config)
    return config
