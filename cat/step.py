"""The compiled part of training: many optimiser steps in one call.

The batch is split over the mesh, parameters are copied to every device, and losses, keep rates
and gradients are those of the global batch.

Letters: S steps per dispatch, B batch, T tokens, V vocabulary.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float

from cat import losses, masks, response
from cat.config import ArmConfig, ModelConfig, OptimizerConfig
from cat.mesh import shard_params
from cat.models.decoder import Decoder
from cat.teacher import forward, signals
from cat.types import Batch, Teacher


class State(NamedTuple):
    """What a step changes: three trees of arrays."""

    params: Any
    opt_state: Any
    step: Array | Any  # int32, optimiser steps done


def start(params: Any, optimizer: OptimizerConfig) -> State:
    """Step 0 on the current mesh; parameters are copied, since a dispatch reuses its buffers."""
    params = shard_params(jax.tree.map(jnp.copy, params))
    opt_state = make_optimizer(optimizer).init(params)
    return State(params, *shard_params((opt_state, jnp.zeros((), jnp.int32))))


def fresh(model_config: ModelConfig, seed: int) -> Any:
    """New parameters of a decoder."""
    return _fresh(model_config, jax.random.key(seed))


@functools.partial(jax.jit, static_argnums=0)
def _fresh(model_config: ModelConfig, key: Array) -> Any:
    """Compiled whole, since op by op it takes seconds."""
    return nnx.state(Decoder(model_config, rngs=nnx.Rngs(key)))


def skeleton(model_config: ModelConfig) -> Any:
    """The graph that makes a decoder of its parameters."""
    return nnx.graphdef(nnx.eval_shape(lambda: Decoder(model_config, rngs=nnx.Rngs(0))))


@functools.partial(
    jax.jit,
    static_argnames=("large_graph", "graph", "optimizer", "arm", "response_width"),
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

        def loss(params: Any) -> tuple[Array, dict[str, Array]]:
            at_BR = response.places(batch.mask, response_width)
            logits_BRV = forward(nnx.merge(graph, params, *rest), batch, at_BR)
            near = response.narrow(batch, at_BR)
            told = near.teacher if teacher is None else signals(teacher, batch, at_BR)
            return objective(arm, logits_BRV, near, told, jax.random.fold_in(key, count))

        (value, metrics), grads = jax.value_and_grad(loss, has_aux=True)(params)
        metrics |= {"loss": value, "grad_norm": optax.tree.norm(grads)}
        metrics |= {"learning_rate": schedule(count)}
        # Optax multiplies its int32 count by floats; our own code keeps strict promotion.
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = transform.update(grads, opt_state, params)
        return State(optax.apply_updates(params, updates), opt_state, count + 1), metrics

    return jax.lax.scan(step, state, batch)


def objective(
    arm: ArmConfig,
    logits_BTV: Float[Array, "B T V"],
    batch: Batch,
    teacher: Teacher | None,
    key: Array,
) -> tuple[Array, dict[str, Array]]:
    """The arm's loss on one batch, nats per token, and what its mask kept."""
    large_BT = None if teacher is None else teacher.hit
    hits = masks.Hits(losses.hit(logits_BTV, batch.targets), large_BT, batch.mask)
    alpha_BT = masks.get(arm.mask)(hits, key)
    loss_BT = losses.per_token(arm, logits_BTV, batch.targets, teacher)
    metrics = {"keep_rate": losses.masked_mean(alpha_BT, batch.mask, batch.mask)}
    if teacher is not None:
        metrics |= masks.two_by_two(hits)._asdict()
    return losses.masked_mean(loss_BT, alpha_BT, batch.mask, arm.denominator), metrics


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
