"""Fitting the small perceptrons of learned routers: JAX and optax, imported only by ``fit``.

One jitted loop: AdamW on shuffled mini-batches, stopped when the loss on a held-out tenth of
the rows has not improved for a while; the best epoch's weights are kept. Deterministic: the
seed sets the split, the initial weights and the order. What comes out is NumPy
(``routers.mlp``), batch norm folded into the weights.

Letters: N rows, F features, H hidden width.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from routers import mlp

Layers = list[dict[str, Any]]
NORM_EPS = 1e-5


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a perceptron is trained. All values are our choice unless its router says otherwise.

    ``coverage_weight`` times relu(coverage - mean(1 - sigmoid)) is added to the loss: a router
    that keeps less than ``coverage`` of the rows pays (``edge_inference``).
    """

    hidden: tuple[int, ...] = (32, 32)
    loss: mlp.Loss = "bce"
    batch_norm: bool = False
    epochs: int = 200
    patience: int = 20  # epochs without a better held-out loss
    batch_size: int = 256
    learning_rate: float = 3e-3
    weight_decay: float = 1e-3
    coverage: float = 0.0
    coverage_weight: float = 0.0
    seed: int = 0
    objective: Callable[[Any, Any], Any] | None = None  # (logits, targets) → loss, for ``loss``


class Rows(NamedTuple):
    """Standardised features, targets, and weights of mean 1, all float32."""

    features: Any  # [N, F]
    target: Any  # [N]
    weight: Any  # [N]

    def take(self, rows: Any) -> Rows:
        """These rows, in this order."""
        return Rows(self.features[rows], self.target[rows], self.weight[rows])


class State(NamedTuple):
    """What the epoch loop carries."""

    epoch: Any
    stale: Any  # epochs since the held-out loss was best
    layers: Layers
    optimizer: Any
    best: Layers
    best_loss: Any


def train(
    features_NF: Float[np.ndarray, "N F"],
    target_N: Float[np.ndarray, " N"],
    recipe: Recipe,
    weight_N: Float[np.ndarray, " N"] | None = None,
) -> mlp.Arrays:
    """A fitted perceptron; a constant where ``mlp.learnable`` says there is nothing to learn."""
    if not mlp.learnable(target_N):
        return mlp.constant(features_NF.shape[1], target_N, recipe.loss)
    scaler = mlp.standardiser(features_NF)
    weights_N = np.ones(len(target_N)) if weight_N is None else weight_N / weight_N.mean()
    standard_NF = mlp.standardise(scaler, features_NF)
    rows = Rows(*(a.astype(np.float32) for a in (standard_NF, target_N, weights_N)))
    generator = np.random.default_rng(recipe.seed)
    order_N = generator.permutation(len(target_N))
    held = max(1, len(target_N) // 10)
    layers = _initial(generator, features_NF.shape[1], recipe)
    # Explicit transfers, so that a training process may forbid implicit ones.
    arguments = jax.device_put((layers, rows.take(order_N[held:]), rows.take(order_N[:held])))
    best = jax.device_get(_fit(*arguments, recipe=recipe))
    arrays = _fold(best, standard_NF[order_N[held:]])
    return {**scaler, **arrays, "sigmoid": np.array(recipe.loss == "bce")}


def _initial(generator: np.random.Generator, features: int, recipe: Recipe) -> Layers:
    """He initialisation, drawn by NumPy so that it is the same on every device."""
    widths = [features, *recipe.hidden, 1]
    layers: Layers = []
    for ins, outs in itertools.pairwise(widths):
        w = generator.normal(0.0, np.sqrt(2.0 / ins), (ins, outs)).astype(np.float32)
        layers.append({"w": w, "b": np.zeros(outs, np.float32)})
    if recipe.batch_norm:
        for layer, width in zip(layers, recipe.hidden, strict=False):
            layer |= {"scale": np.ones(width, np.float32), "shift": np.zeros(width, np.float32)}
    return layers


@functools.partial(jax.jit, static_argnames="recipe")
def _fit(layers: Layers, rows: Rows, held: Rows, *, recipe: Recipe) -> Layers:
    """The best layers by held-out loss."""
    optimizer = optax.adamw(recipe.learning_rate, weight_decay=recipe.weight_decay)
    key = jax.random.key(recipe.seed)

    def running(state: State) -> Any:
        return (state.epoch < recipe.epochs) & (state.stale < recipe.patience)

    def one(state: State) -> State:
        layers, moved = _epoch(
            state.layers,
            state.optimizer,
            rows,
            jax.random.fold_in(key, state.epoch),
            optimizer,
            recipe,
        )
        moments = _forward(layers, rows.features)[1]
        loss = _loss(_forward(layers, held.features, moments)[0], held, recipe)
        better = loss < state.best_loss
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), layers, state.best)
        stale = jnp.where(better, 0, state.stale + 1)
        least = jnp.minimum(loss, state.best_loss)
        return State(state.epoch + 1, stale, layers, moved, best, least)

    start = State(
        jnp.int32(0), jnp.int32(0), layers, optimizer.init(layers), layers, jnp.float32(jnp.inf)
    )
    return jax.lax.while_loop(running, one, start).best


def _epoch(
    layers: Layers, state: Any, rows: Rows, key: Any, optimizer: Any, recipe: Recipe
) -> tuple[Layers, Any]:
    """One pass over the rows in a fresh order; the last partial batch is left out."""
    size = min(recipe.batch_size, len(rows.target))
    steps = len(rows.target) // size
    order_SB = jax.random.permutation(key, len(rows.target))[: steps * size].reshape(steps, size)

    def step(carry: tuple[Layers, Any], batch_B: Any) -> tuple[tuple[Layers, Any], None]:
        layers, state = carry
        batch = rows.take(batch_B)
        slope = jax.grad(lambda p: _loss(_forward(p, batch.features)[0], batch, recipe))(layers)
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an int32 count
            change, state = optimizer.update(slope, state, layers)
        moved: Any = optax.apply_updates(layers, change)
        return (moved, state), None

    return jax.lax.scan(step, (layers, state), order_SB)[0]


def _forward(layers: Layers, x_NF: Any, moments: Any = None) -> tuple[Any, Any]:
    """Logits [N] and the moments each batch norm used: the batch's own unless given."""
    used = []
    for i, layer in enumerate(layers[:-1]):
        x_NF = x_NF @ layer["w"] + layer["b"][None]
        if "scale" in layer:
            mean, var = (x_NF.mean(0), x_NF.var(0)) if moments is None else moments[i]
            used.append((mean, var))
            x_NF = (x_NF - mean[None]) * jax.lax.rsqrt(var + NORM_EPS)[None]
            x_NF = x_NF * layer["scale"][None] + layer["shift"][None]
        x_NF = jax.nn.relu(x_NF)
    return (x_NF @ layers[-1]["w"] + layers[-1]["b"][None])[:, 0], used


def _loss(logit_N: Any, rows: Rows, recipe: Recipe) -> Any:
    """Weighted mean loss plus the coverage term, or the recipe's own objective."""
    if recipe.objective is not None:
        return recipe.objective(logit_N, rows.target)
    if recipe.loss == "bce":
        each_N = optax.sigmoid_binary_cross_entropy(logit_N, rows.target)
    else:
        each_N = jnp.square(logit_N - rows.target)
    kept = jnp.mean(1.0 - jax.nn.sigmoid(logit_N))
    return jnp.mean(rows.weight * each_N) + recipe.coverage_weight * jax.nn.relu(
        recipe.coverage - kept
    )


def _fold(layers: Layers, x_NH: np.ndarray) -> mlp.Arrays:
    """Layers as ``w0, b0, ...`` in float64, batch norm multiplied into them.

    Its moments are those of all training rows, not a running average of batches.
    """
    arrays: mlp.Arrays = {}
    for i, layer in enumerate(layers):
        w, b = layer["w"].astype(np.float64), layer["b"].astype(np.float64)
        if "scale" in layer:
            before_NH = x_NH @ w + b
            factor_H = layer["scale"] / np.sqrt(before_NH.var(axis=0) + NORM_EPS)
            w, b = w * factor_H, (b - before_NH.mean(axis=0)) * factor_H + layer["shift"]
        arrays |= {f"w{i}": w, f"b{i}": b}
        x_NH = np.maximum(x_NH @ w + b, 0.0)
    return arrays
