"""The persistent compilation cache: where it lies, who overrides it, and that it is used."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from experiments.compilation import folder, keep_compiled

NAMES = ("jax_compilation_cache_dir", "jax_enable_compilation_cache")


@pytest.fixture(autouse=True)
def jax_as_it_is_for_users(monkeypatch, tmp_path):
    """With the cache as JAX has it by default; as it was in this process afterwards."""
    before = {name: getattr(jax.config, name) for name in NAMES}
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_enable_compilation_cache", True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    from jax.experimental.compilation_cache import compilation_cache

    compilation_cache.reset_cache()


def test_the_folder_is_the_user_s_cache(monkeypatch, tmp_path):
    assert folder() == tmp_path / "cascade-lm" / "compiled"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "/home/someone")
    assert folder() == Path("/home/someone/.cache/cascade-lm/compiled")


def test_what_is_compiled_is_kept(tmp_path, monkeypatch):
    before = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    keep_compiled()
    jax.jit(lambda x: jnp.sin(x) * 3)(jnp.arange(7.0)).block_until_ready()
    jax.config.update("jax_persistent_cache_min_compile_time_secs", before)
    assert list(folder().iterdir())


def test_a_folder_of_the_user_s_own_is_left_as_it_is(tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
    keep_compiled()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mine")


def test_turned_off_it_stays_off():
    jax.config.update("jax_enable_compilation_cache", False)
    keep_compiled()
    assert jax.config.jax_compilation_cache_dir is None
