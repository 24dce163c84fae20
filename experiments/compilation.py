"""Compiled programs are kept between runs: the second start of a run compiles nothing."""

from __future__ import annotations

import os
from pathlib import Path

import jax


def keep_compiled() -> None:
    """Use JAX's persistent compilation cache, in ``$XDG_CACHE_HOME/cascade-lm/compiled``.

    A folder chosen by JAX's own means (``JAX_COMPILATION_CACHE_DIR``) is left as it is, and
    ``JAX_ENABLE_COMPILATION_CACHE=false`` turns all of it off. What compiles within a second is
    not kept (JAX's default).
    """
    now = jax.config.values
    if now["jax_compilation_cache_dir"] is None and now["jax_enable_compilation_cache"]:
        jax.config.update("jax_compilation_cache_dir", str(folder()))


def folder() -> Path:
    """Where they are kept; ``~/.cache`` where XDG_CACHE_HOME is not set."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if home else Path.home() / ".cache") / "cascade-lm" / "compiled"
