"""The mini-language ``name:field=value,field=value`` of routers and arms."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, TypeVar, get_args, get_type_hints

from routers.errors import InputError, did_you_mean

T = TypeVar("T")


def replace_fields(base: T, changes: str) -> T:
    """A copy of a dataclass with ``field=value,...`` applied, values read by the field's type.

    Raises:
        InputError: unknown field, one given twice, or a value of the wrong type.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Quantile:
    ...     alpha: float = 0.0
    >>> replace_fields(Quantile(), "alpha=0.1").alpha
    0.1
    """
    kind = type(base)
    hints = {name: hint for name, hint in get_type_hints(kind).items() if name[-1] != "_"}
    known = [f.name for f in dataclasses.fields(base) if f.name in hints]  # type: ignore[arg-type]
    values = {}
    for change in changes.split(",") if changes else []:
        name, equals, text = change.partition("=")
        if not equals:
            raise InputError(f"{kind.__name__}: '{change}' is not field=value; write f=v,g=w")
        if name not in known:
            options = did_you_mean(name, known) if known else "it has none"
            raise InputError(f"{kind.__name__} has no field '{name}'; {options}")
        if name in values:
            raise InputError(f"{kind.__name__}: field '{name}' is given twice; keep one")
        values[name] = read(text, hints[name], f"{kind.__name__}.{name}")
    return dataclasses.replace(base, **values)  # type: ignore[type-var]


def read(text: str, hint: Any, where: str) -> Any:
    """One value by its type: int, float, bool, str or a Literal of strings."""
    choices = get_args(hint)
    if choices:
        if text not in choices:
            raise InputError(f"{where}={text}: {did_you_mean(text, [str(c) for c in choices])}")
        return text
    if hint is bool:
        if text not in ("true", "false"):
            raise InputError(f"{where}={text}: give true or false")
        return text == "true"
    if hint in (int, float):
        try:
            value = hint(text)
        except ValueError:
            raise InputError(f"{where}={text}: not {hint.__name__}; give a number") from None
        if not math.isfinite(value):
            raise InputError(f"{where}={text}: not finite; give a number")
        return value
    return text
