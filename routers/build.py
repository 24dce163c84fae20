"""From a router's name to the router: a name is a file of ``routers/zoo``; no registry."""

from __future__ import annotations

import dataclasses
import importlib
import math
import pkgutil
import typing
from pathlib import Path
from typing import Any, NamedTuple

from routers.base import Router
from routers.errors import InputError, did_you_mean

ZOO = Path(__file__).with_name("zoo")


class Description(NamedTuple):
    """What a list of routers shows of each."""

    stage: str
    learned: bool
    summary: str


def names() -> list[str]:
    """Every router, in alphabetical order; imports none of them.

    >>> "chow_average" in names()
    True
    """
    found = (module.name for module in pkgutil.iter_modules([str(ZOO)]))
    return sorted(name for name in found if not name.startswith("_"))


def build(spec: str) -> Router:
    """The router of ``name`` or ``name:field=value,field=value``, values by the field types.

    Raises InputError for an unknown name or field and for a value the field cannot take.

    >>> build("chow_quantile:alpha=0.1")
    ChowQuantile(alpha=0.1)
    """
    name, _, rest = spec.partition(":")
    cls = router_class(name)
    types = typing.get_type_hints(cls)
    known = hyper_parameters(cls)
    values: dict[str, Any] = {}
    for part in rest.split(",") if rest else []:
        field, equals, text = part.partition("=")
        if not equals:
            raise InputError(f"router {spec!r}: {part!r} is not field=value; write {name}:f=v,g=w")
        if field not in known:
            hint = did_you_mean(field, known) if known else "it has no fields"
            raise InputError(f"router {spec!r}: {name} has no field {field!r}; {hint}")
        if field in values:
            raise InputError(f"router {spec!r}: field {field!r} is given twice; keep one")
        values[field] = _parse(text, types[field], f"router {spec!r}: {field}")
    return cls(**values)


def describe(name: str) -> Description:
    """Stage, whether it needs ``fit``, and the first docstring line of a router.

    >>> describe("chow_average").stage
    'response'
    """
    cls = router_class(name)
    return Description(cls.stage, cls.learned, (cls.__doc__ or "").strip().splitlines()[0])


def router_class(name: str) -> type[Router]:
    """The class a router file defines: ``chow_average.py`` holds ``ChowAverage``."""
    known = names()
    if name not in known:
        raise InputError(f"no router {name!r}; {did_you_mean(name, known)}")
    module = importlib.import_module(f"routers.zoo.{name}")
    title = "".join(word.capitalize() for word in name.split("_"))
    cls = getattr(module, title, None)
    if not (isinstance(cls, type) and issubclass(cls, Router) and dataclasses.is_dataclass(cls)):
        raise InputError(f"routers/zoo/{name}.py must define the dataclass {title}(Router)")
    return cls


def hyper_parameters(cls: type[Router]) -> list[str]:
    """The fields a user may set: all but the fitted ones, which end in ``_``."""
    return [f.name for f in dataclasses.fields(cls) if not f.name.endswith("_")]  # type: ignore[arg-type]


def _parse(text: str, kind: Any, where: str) -> Any:
    """A value of an int, float, bool, str or Literal field from its text."""
    if typing.get_origin(kind) is typing.Literal:
        choices = {str(choice): choice for choice in typing.get_args(kind)}
        if text not in choices:
            raise InputError(f"{where} cannot be {text!r}; {did_you_mean(text, list(choices))}")
        return choices[text]
    if kind is bool:
        if text not in ("true", "false"):
            raise InputError(f"{where} cannot be {text!r}; write true or false")
        return text == "true"
    try:
        value = kind(text)
    except ValueError:
        raise InputError(
            f"{where} cannot be {text!r}; give a value of type {kind.__name__}"
        ) from None
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{where} cannot be {text!r}; give a finite number")
    return value
