"""A strict test process: warnings are errors, ranks never promote, 8 virtual CPU devices."""

import os
from pathlib import Path

import jax
import pytest

# Compiling is most of the suite's time, and these emitters a third of it; newer JAX has no others.
OLD_EMITTERS = "--xla_cpu_use_fusion_emitters=false"
if jax.__version_info__ < (0, 11):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {OLD_EMITTERS}".strip()

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_default_matmul_precision", "float32")
jax.config.update("jax_enable_compilation_cache", False)  # no test fills the user's cache
jax.config.update("jax_disable_most_optimizations", True)  # small programs: compiling is the cost

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def shared_data() -> Path:
    """The real data sets beside the project, or a skip that says they are not there."""
    if not SHARED.is_dir():
        pytest.skip(f"real data not found at {SHARED.parent.name}/{SHARED.name} beside the project")
    return SHARED
