"""Several processes as one run: how they find each other, and what only the first of them does.

Every process runs the same program on its own devices; arrays of the mesh span all of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
import numpy as np
from flax import nnx

from cat.mesh import own_mesh, shard_params, to_host
from cat.models.decoder import Decoder
from routers.errors import InputError

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
"""Where no cluster says who is who: host:port of process 0, how many there are, which this is."""


def start() -> None:
    """Join the run's other processes; nothing to do where they are joined already.

    Call it before any other use of JAX. Slurm, Open MPI, Kubernetes and TPU slices are recognised
    by JAX; elsewhere the environment says it (``VARIABLES``).

    Raises:
        InputError: neither a cluster nor the variables are there, or a variable is not a number.
    """
    if jax.distributed.is_initialized():
        return
    address, count, number = (os.environ.get(name, "") for name in VARIABLES)
    if address and not (count.isdigit() and number.isdigit()):
        raise InputError(
            f"{VARIABLES[0]}={address} needs {VARIABLES[1]} and {VARIABLES[2]} beside it; "
            f"they are '{count}' and '{number}', give whole numbers"
        )
    try:
        if address:
            jax.distributed.initialize(address, int(count), int(number))
        else:
            jax.distributed.initialize()
    except ValueError as error:
        raise InputError(
            f"no cluster that JAX knows ({error}); set {', '.join(VARIABLES)} in every process, "
            "or run on one host without --hosts"
        ) from None


def first() -> bool:
    """Whether this process writes what is written once: logs, summaries, notes on stages."""
    return jax.process_index() == 0


def wait(name: str) -> None:
    """Return when every process is here; ``name`` says where, and must be the same in all."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


@contextmanager
def alone(model: Callable[[], Decoder]) -> Iterator[Callable[[], Decoder]]:
    """Work on this process's own devices, whatever other processes do; the model comes along.

    Yields what gives the model there. Where there are several processes it is made before, by all
    of them together on their mesh (only so can a checkpoint be read), and each takes a copy.
    """
    if jax.process_count() == 1:
        yield model
        return
    graph, params = nnx.split(model())
    whole = jax.tree.map(to_host, params)
    with jax.set_mesh(own_mesh()):
        mine = nnx.merge(graph, shard_params(whole))
        yield lambda: mine


def any_says(mine: bool) -> bool:
    """Whether any process says so: a signal may reach one of them first. All must ask."""
    if jax.process_count() == 1:
        return mine
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(np.array(mine)).any())
