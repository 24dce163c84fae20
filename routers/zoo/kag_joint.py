"""Kag's gate: the router part of the joint objective, both models frozen."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np

from routers import mlp
from routers.base import Inputs, Outcomes, Router
from routers.errors import InputError
from routers.features import column, row_mean, token_features, top_k, usable_k
from routers.ragged import Ragged

MOST_SENT = 0.55
MOST_KEPT = 0.65
HINGE_WEIGHT = 100.0
HINGE_STEP = 0.1
BATCH = 256
EPS = 1e-7


@dataclasses.dataclass(frozen=True, eq=False)
class KagJoint(Router):
    """Probability that a query should go on, from a gate trained with focal loss and hinges.

    Label o = 1 (keep) unless the small model is wrong and the large one right; gate logit d
    (send minus keep), p = sigmoid(d); per batch of B
        0.5 sum [ 2 o p^2 (-log(1 - p)) + (1 - o) (1 - p)^2 (-log p) ]
        + 100 relu(mean(min(relu(d), .1)) - .1 most_sent)
        + 100 relu(mean(min(relu(-d), .1)) - .1 most_kept);
    score = p. A graded gain counts as that much of a 0 and the rest of a 1. Features: entropy,
    pairwise differences and values of the top-K log-probabilities, averaged over the response,
    and the response's embedding; two hidden layers of 32. With fewer than 20 fitting queries,
    or all alike, the score is a constant. Raises InputError unless topk >= 2 and both shares
    are in [0, 1].

    Source: Kag et al. 2023 ("Efficient Edge Inference by Selective Query"), the gate step of the
    released ``train_hybrid.py``: label, focal loss with gamma 2 and weights 2 and 1, both
    hinges and their defaults .55 and .65; the penultimate feature and the entropy and
    differences of the top K as inputs. One decision per query, pooling over tokens, values
    beside differences, widths and AdamW are our choice. What records cannot give is the rest of
    the joint objective, which retrains the models between gate steps (the small one with weight
    10 on kept queries and 1 on others, the large one with 1.5 on those sent on): the gate then
    adapts to models that adapt to it. ``edge_inference`` decides per token instead.
    """

    learned: ClassVar[bool] = True
    most_sent: float = MOST_SENT
    most_kept: float = MOST_KEPT
    topk: int = 10  # K; fewer if the records hold fewer
    seed: int = 0
    weights_: dict[str, np.ndarray] | None = None

    def __post_init__(self) -> None:
        if self.topk < 2:
            raise InputError(f"kag_joint: topk is {self.topk}; give at least 2")
        if not (0 <= self.most_sent <= 1 and 0 <= self.most_kept <= 1):
            raise InputError(
                f"kag_joint: most_sent is {self.most_sent} and most_kept {self.most_kept}; "
                "give fractions in [0, 1]"
            )

    def fit(self, inputs: Inputs, outcomes: Outcomes) -> KagJoint:
        """Train the gate."""
        from routers import learn

        gain_N, _ = mlp.target(outcomes, "gain")
        k = usable_k(column(inputs, "topk_logprob"), self.topk)
        objective = Objective(self.most_sent, self.most_kept)
        recipe = learn.Recipe(batch_size=BATCH, objective=objective, seed=self.seed)
        send_N = np.maximum(gain_N, 0.0)
        weights = learn.train(self._features(inputs, k), send_N, recipe)
        return dataclasses.replace(self, weights_={**weights, "k": np.array(k)})

    def score(self, inputs: Inputs) -> np.ndarray:
        """[N] in (0, 1); the gate itself sends on at 1/2."""
        weights = mlp.fitted(self, self.weights_)
        return mlp.predict(weights, self._features(inputs, int(weights["k"])))

    def flops_per_query(self, inputs: Inputs) -> np.ndarray:
        """[N] matmul FLOPs of the gate, once per query."""
        return np.full(len(inputs), mlp.flops(mlp.fitted(self, self.weights_)))

    def _features(self, inputs: Inputs, k: int) -> np.ndarray:
        """[N, 1 + K (K - 1) / 2 + K + E]."""
        topk = column(inputs, "topk_logprob")
        inputs.need("response_embedding")
        assert inputs.response_embedding is not None
        pooled = row_mean(Ragged(token_features(top_k(topk, k)), topk.offsets))
        return np.column_stack([pooled, inputs.response_embedding.astype(np.float64)])


@dataclasses.dataclass(frozen=True)
class Objective:
    """The gate's loss on one batch: JAX arrays in, a scalar out."""

    most_sent: float
    most_kept: float

    def __call__(self, logit_N: Any, send_N: Any) -> Any:
        """Focal loss, scaled to the sum over a batch of 256 as released, plus both hinges."""
        import jax
        import jax.numpy as jnp

        p_N = jnp.clip(jax.nn.sigmoid(logit_N), EPS, 1.0 - EPS)
        keep_N = 2.0 * (1.0 - send_N) * jnp.square(p_N) * -jnp.log1p(-p_N)
        sent_N = send_N * jnp.square(1.0 - p_N) * -jnp.log(p_N)

        def hinge(lean_N: Any, most: float) -> Any:
            share = jnp.mean(jnp.minimum(jax.nn.relu(lean_N), HINGE_STEP))
            return HINGE_WEIGHT * jax.nn.relu(share - HINGE_STEP * most)

        focal = 0.5 * BATCH * jnp.mean(keep_N + sent_N)
        return focal + hinge(logit_N, self.most_sent) + hinge(-logit_N, self.most_kept)
