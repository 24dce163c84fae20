"""A strict test process: warnings are errors, ranks never promote, 8 virtual CPU devices."""

from pathlib import Path

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_default_matmul_precision", "float32")
jax.config.update("jax_disable_most_optimizations", True)  # small programs: compiling is the cost

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def shared_data() -> Path:
    """The real data sets beside the project, or a skip that says they are not there."""
    if not SHARED.is_dir():
        pytest.skip(f"real data not found at {SHARED.parent.name}/{SHARED.name} beside the project")
    return SHARED
