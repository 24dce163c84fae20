"""From a router's name to the router: a name is a file of ``routers/zoo``; no registry.

One spec names no file: ``score:<name>`` is the ready-made column of that name.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from pathlib import Path
from typing import NamedTuple

from routers.base import Router
from routers.column import PREFIX, Column
from routers.errors import InputError, did_you_mean
from routers.fields import replace_fields

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

    ``score:<name>`` is the ready-made column of the records with that name. Raises InputError for
    an unknown name or field and for a value the field cannot take.

    >>> build("chow_quantile:alpha=0.1"), build("score:confidence")
    (ChowQuantile(alpha=0.1), Column(name='confidence'))
    """
    name, _, rest = spec.partition(":")
    if name == PREFIX:
        if not rest:
            raise InputError(f"router '{spec}': name the records column, {PREFIX}:<name>")
        return Column(rest)
    return replace_fields(router_class(name)(), rest)


def describe(name: str) -> Description:
    """Stage, whether it needs ``fit``, and the first docstring line of a router.

    >>> describe("chow_average").stage
    'response'
    """
    cls = router_class(name)
    return Description(cls.stage, cls.learned, (cls.__doc__ or "").strip().splitlines()[0])


def router_name(router: Router) -> str:
    """The name that ``router_class`` knows a router's class by; ValueError if it knows it not.

    >>> router_name(build("chow_average")), router_name(build("score:confidence"))
    ('chow_average', 'score')
    """
    name = PREFIX if type(router) is Column else type(router).__module__.rpartition(".")[2]
    if router_class(name) is not type(router):
        raise ValueError(f"{type(router).__name__} is not the router of a file in routers/zoo")
    return name


def router_class(name: str) -> type[Router]:
    """The class a router file defines: ``chow_average.py`` holds ``ChowAverage``."""
    if name == PREFIX:
        return Column
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
