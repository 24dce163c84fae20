"""EdgeInference: a per-token router learned from where the large model would be right."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import numpy as np

from routers import mlp
from routers.base import Inputs, Outcomes, Router
from routers.errors import InputError
from routers.features import column, row_max, row_mean, token_features, top_k, usable_k
from routers.ragged import Ragged

MOST_TOKENS = 100_000
"""Reference tokens used for fitting; more are thinned out evenly at random."""

CHUNK = 65_536
"""Tokens scored at once, so that features of long logs do not fill the memory."""


@dataclasses.dataclass(frozen=True, eq=False)
class EdgeInference(Router):
    """Mean (or greatest) probability that a token is one the large model would fix.

    o_i = 1[small wrong and large right at reference token i], teacher-forced;
    r_i = sigmoid(MLP(z_i)), z_i the entropy, pairwise differences and values of the small
    model's top-K log-probabilities; trained on
    class-weighted BCE(r_i, o_i) + coverage_weight * relu(coverage - mean_i(1 - r_i));
    score = mean_i r_i over the small model's own response, or max_i with ``pool=max``.
    With fewer than 20 tokens, or one class only, every r_i is the same constant.

    Source: Kag et al. 2023 ("Efficient Edge Inference by Selective Query"): the oracle label,
    the coverage constraint, and the features (released code: entropy, differences of the top
    10). Our adaptation to language models, following the CAT paper's (2406.00060) change of
    the input to the logits of every output token (details there were not available to us):
    one decision per token, label by teacher forcing, pooling over the response, log-probability
    in place of probability differences, the hinge on sigmoid(r) and only below ``coverage``
    (the released code's acts on a raw logit, above), two layers of 32, frozen models
    (Kag trains base, global and router in turn).
    """

    learned: ClassVar[bool] = True
    pool: Literal["mean", "max"] = "mean"
    topk: int = 10  # K; fewer if the records hold fewer
    coverage: float = 0.5  # c, the least mean of 1 - r_i
    coverage_weight: float = 1.0  # lambda
    seed: int = 0
    weights_: dict[str, np.ndarray] | None = None

    def __post_init__(self) -> None:
        if self.topk < 2:
            raise InputError(f"edge_inference: topk is {self.topk}; give at least 2")
        if not 0 <= self.coverage <= 1 or self.coverage_weight < 0:
            raise InputError(
                f"edge_inference: coverage is {self.coverage} and coverage_weight "
                f"{self.coverage_weight}; give a fraction in [0, 1] and a weight >= 0"
            )

    def fit(self, inputs: Inputs, outcomes: Outcomes) -> EdgeInference:
        """Train on the reference tokens of the fit split; ``inputs`` only bounds K."""
        from routers import learn

        forced, target_M = _labels(outcomes)
        k = usable_k(forced, usable_k(column(inputs, "topk_logprob"), self.topk))
        kept_M = _thin(len(target_M), self.seed)
        features_MF = token_features(top_k(forced, k)[kept_M])
        target_M = target_M[kept_M]
        share = target_M.mean()
        # Each class weighs the same in all, however rare.
        weight_M = np.where(target_M > 0, 0.5 / max(share, 1e-9), 0.5 / max(1 - share, 1e-9))
        recipe = learn.Recipe(
            epochs=50,
            patience=5,
            batch_size=512,
            coverage=self.coverage,
            coverage_weight=self.coverage_weight,
            seed=self.seed,
        )
        weights = learn.train(features_MF, target_M, recipe, weight_M)
        return dataclasses.replace(self, weights_={**weights, "k": np.array(k)})

    def score(self, inputs: Inputs) -> np.ndarray:
        """[N] in [0, 1]; 0 for a response without tokens."""
        weights = mlp.fitted(self, self.weights_)
        topk = column(inputs, "topk_logprob")
        topk_MK = top_k(topk, int(weights["k"]))
        chunks = [topk_MK[start : start + CHUNK] for start in range(0, len(topk_MK), CHUNK)]
        parts = [mlp.predict(weights, token_features(chunk)) for chunk in chunks]
        r_M = np.concatenate(parts) if parts else np.zeros(0)
        pool = row_max if self.pool == "max" else row_mean
        return pool(Ragged(r_M, topk.offsets))

    def flops_per_query(self, inputs: Inputs) -> np.ndarray:
        """[N] matmul FLOPs of the MLP, once per response token."""
        weights = mlp.fitted(self, self.weights_)
        return mlp.flops(weights) * column(inputs, "topk_logprob").lengths


def _labels(outcomes: Outcomes) -> tuple[Ragged, np.ndarray]:
    """Top-K columns on the reference, and o_i of each of its tokens as float64."""
    forced = outcomes.forced_topk_logprob_small
    small, large = outcomes.forced_hit_small, outcomes.forced_hit_large
    if forced is None or small is None or large is None:
        raise InputError(
            "edge_inference learns from forced_hit of both models and forced_topk_logprob of the "
            "small one, which the records lack; score with teacher forcing or choose post_hoc"
        )
    same = [np.array_equal(forced.offsets, other.offsets) for other in (small, large)]
    if not all(same):
        raise InputError(
            "edge_inference: forced columns of the two models differ in length; score both on the "
            "same references with the same tokenizer"
        )
    if not len(forced.values):
        raise InputError("edge_inference: no reference tokens to fit on; choose another fit split")
    return forced, (~small.values.astype(bool) & large.values.astype(bool)).astype(np.float64)


def _thin(tokens: int, seed: int) -> np.ndarray:
    """Sorted indices of at most ``MOST_TOKENS`` tokens."""
    if tokens <= MOST_TOKENS:
        return np.arange(tokens)
    return np.sort(np.random.default_rng(seed).choice(tokens, MOST_TOKENS, replace=False))
