"""One file = one experiment; the header says command, hardware, time and expected numbers."""

from __future__ import annotations

import ast
import importlib.util
import pkgutil
from pathlib import Path

from cat.config import Config
from routers.errors import InputError, did_you_mean


def names() -> dict[str, str]:
    """Every configuration of this folder and the first line of its header, without importing it.

    A file whose name starts with an underscore holds what others share and is none itself.
    """
    found = {}
    for module in pkgutil.iter_modules(__path__):
        if module.name.startswith("_"):
            continue
        doc = ast.get_docstring(ast.parse(Path(__path__[0], f"{module.name}.py").read_text()))
        found[module.name] = (doc or "").partition("\n")[0]
    return found


def load(name: str) -> Config:
    """The configuration of that name, or of that path to a .py file with ``config()``."""
    if not name.endswith(".py") and name not in names():
        if Path(name).is_dir():
            raise InputError(f"{name}: not a run directory (no config.json); give CONFIG or RUN")
        raise InputError(f"unknown configuration '{name}'; {did_you_mean(name, list(names()))}")
    path = Path(name) if name.endswith(".py") else Path(__path__[0], f"{name}.py")
    if not path.is_file():
        raise InputError(f"{path}: no such file; give the path of a .py file with config()")
    spec = importlib.util.spec_from_file_location(f"cascade_config_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        made = module.config()
    except Exception as error:  # the file is the user's: whatever it raises is bad input
        why = f"{type(error).__name__}: {error}"
        raise InputError(f"{path}: {why}; a configuration defines config() -> Config") from error
    if not isinstance(made, Config):
        kind = type(made).__name__
        raise InputError(f"{path}: config() returned {kind}; return a cat.config.Config")
    return made
