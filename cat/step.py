"""The compiled part of training: many optimiser steps in one call.

The batch and what is kept per parameter lie on the mesh by the rules of ``cat.mesh``; losses,
keep rates and gradients are those of the global batch.

Letters: S steps per dispatch, B batch, T tokens, V vocabulary.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding
from jaxtyping import Array

from cat.config import ArmConfig, ModelConfig, OptimizerConfig
from cat.gradients import gradients
from cat.integrity import copied
from cat.mesh import param_spec, shard_params
from cat.models.decoder import Decoder
from cat.types import Batch


class State(NamedTuple):
    """What a step changes: three trees of arrays."""

    params: Any
    opt_state: Any
    step: Array | Any  # int32, optimiser steps done


def start(params: Any, optimizer: OptimizerConfig) -> State:
    """Step 0 on the current mesh; parameters are copied, since a dispatch reuses its buffers."""
    params = copied(shard_params(params))
    opt_state = make_optimizer(optimizer).init(params)
    return State(params, *shard_params((opt_state, jnp.zeros((), jnp.int32))))


def shapes(params: Any, optimizer: OptimizerConfig) -> State:
    """Shapes and types of what ``start`` makes; ``params`` may be shapes as well."""
    bare = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    opt_state = jax.eval_shape(make_optimizer(optimizer).init, bare)
    return State(bare, opt_state, jax.ShapeDtypeStruct((), jnp.int32))


def fresh(model_config: ModelConfig, seed: int) -> Any:
    """New parameters of a decoder; where the mesh splits them, no device makes all of them."""
    mesh = jax.sharding.get_mesh()
    if mesh.empty or mesh.shape["fsdp"] * mesh.shape["tensor"] == 1:
        return _fresh(model_config, jax.random.key(seed))
    # On Explicit axes every intermediate is whole on every device; on Auto axes XLA splits the
    # drawing as it splits the result.
    auto = Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * 3)
    with jax.set_mesh(auto):
        places = jax.tree_util.tree_map_with_path(
            lambda path, leaf: NamedSharding(auto, param_spec(path, leaf.shape)),
            fresh_shapes(model_config),
        )
        draw = jax.jit(_fresh, static_argnums=0, out_shardings=places)
        drawn = draw(model_config, jax.random.key(seed))
    return shard_params(drawn)


def fresh_shapes(model_config: ModelConfig) -> Any:
    """Shapes and types of ``fresh``."""
    return jax.eval_shape(functools.partial(_fresh, model_config), jax.random.key(0))


@functools.partial(jax.jit, static_argnums=0)
def _fresh(model_config: ModelConfig, key: Array) -> Any:
    """Compiled whole, since op by op it takes seconds."""
    return nnx.state(Decoder(model_config, rngs=nnx.Rngs(key)))


def skeleton(model_config: ModelConfig) -> Any:
    """The graph that makes a decoder of its parameters."""
    return nnx.graphdef(nnx.eval_shape(lambda: Decoder(model_config, rngs=nnx.Rngs(0))))


@functools.partial(
    jax.jit,
    static_argnames=("large_graph", "graph", "optimizer", "arm", "response_width", "families"),
    donate_argnames="state",
)
def dispatch(
    state: State,
    batch: Batch,
    *,
    key: Array,
    large: Any,
    large_graph: Any,
    graph: Any,
    frozen: Any,
    optimizer: OptimizerConfig,
    arm: ArmConfig,
    response_width: int,
    families: int = 0,
) -> tuple[State, dict[str, Array]]:
    """S optimiser steps on batches [S, B, ...]: the new state and each metric as [S].

    ``graph`` makes the model of ``state.params`` and of what is ``frozen`` (None = nothing).
    Logits are made at ``response_width`` places of a row, at least its counted targets.

    The key of a step is ``fold_in(key, step)``: resumed or not, a step draws the same.
    """
    rest = () if frozen is None else (frozen,)
    teacher = None if large_graph is None else nnx.merge(large_graph, large)
    transform, schedule = make_optimizer(optimizer), learning_rate(optimizer)

    def step(state: State, batch: Batch) -> tuple[State, dict[str, Array]]:
        params, opt_state, count = state
        drawn = jax.random.fold_in(key, count)

        def model(params: Any) -> Decoder:
            return nnx.merge(graph, params, *rest)

        value, metrics, grads = gradients(
            arm,
            model,
            params,
            teacher,
            batch,
            drawn,
            count,
            response_width,
            optimizer.accumulate,
            families,
        )
        metrics |= {"loss": value, "grad_norm": optax.tree.norm(grads)}
        metrics |= {"learning_rate": jnp.asarray(schedule(updates_done(opt_state)))}
        # Optax multiplies its int32 count by floats; our own code keeps strict promotion.
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = transform.update(grads, opt_state, params)
        new = State(optax.apply_updates(params, updates), opt_state, count + 1)
        return _numbers(state, new, metrics) if optimizer.on_nan == "skip" else new, metrics

    return jax.lax.scan(step, state, batch)


def _numbers(old: State, new: State, metrics: dict[str, Array]) -> State:
    """The new state if loss and gradient are finite, else the old one, one step further."""
    finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
    chosen = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)
    return chosen._replace(step=new.step)


def updates_done(opt_state: Any) -> Array:
    """int32: how many steps the schedule has made; fewer than the run's where some were skipped."""

    def of_schedule(path: Any, _: Any) -> bool:
        return getattr(path[-1], "tuple_name", "") == optax.ScaleByScheduleState.__name__

    return optax.tree.get(opt_state, "count", filtering=of_schedule)


def learning_rate(optimizer: OptimizerConfig) -> optax.Schedule:
    """Linear from peak / warmup to the peak, then a cosine to ``final_fraction`` of it.

    >>> rate = learning_rate(OptimizerConfig(steps=10, warmup_steps=4, learning_rate=1.0))
    >>> [round(float(rate(i)), 2) for i in (0, 1, 3, 9)]
    [0.25, 0.5, 1.0, 0.1]
    """
    peak, warmup = optimizer.learning_rate, max(optimizer.warmup_steps, 1)
    rise = optax.linear_schedule(0.0, peak, warmup)
    fall = optax.cosine_decay_schedule(
        peak, max(optimizer.steps - warmup, 1), optimizer.final_fraction
    )
    joined = optax.join_schedules([rise, fall], [warmup])
    return lambda count: joined(jnp.asarray(count + 1, jnp.float32))


def make_optimizer(optimizer: OptimizerConfig) -> optax.GradientTransformation:
    """AdamW behind a clip by global norm; matrices decay, norm scales do not."""

    def matrices(params: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf.ndim > 1, params)

    decay = optimizer.weight_decay
    adamw = optax.adamw(learning_rate(optimizer), weight_decay=decay, mask=matrices)
    return optax.chain(optax.clip_by_global_norm(optimizer.clip_norm), adamw)
