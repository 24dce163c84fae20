"""What each tier's answer would be worth and cost, before and after some tiers have answered.

Letters: N queries, K tiers, F features. A *signal* is the deferral score of a tier's answer; all
tiers but the last have one.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float64

from routers import calibration, linear, mlp
from routers.base import Inputs, Router
from routers.cascade import check_router, score
from routers.crossfit import cross_fit, fold_of
from routers.errors import InputError
from routers.tier_policy import Seen, prompt_of
from routers.tiers import Tiers

FOLDS = 5
MOST_TIERS = 6
"""Every set of tiers has estimates of its own: 2^K of them."""

PENALTY = 1.0
"""lambda in sum of losses + lambda / 2 |w|^2 of the logistic regressions."""

SURE = 0.02
"""Chances are kept this far from 0 and 1: a step of an isotonic fit rests on few queries."""

Sets = tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Estimates:
    """Quality and cost of every tier, estimated from the prompt and the signals seen so far.

    Args:
        routers: K - 1, fitted; each reads its tier's answer.
        prompt_quality, prompt_cost: K linear regressions each, on the prompt's features.
        signal: K - 1 maps from a score to the chance that this tier's answer is wrong.
        after: by the signals seen, K logistic regressions of quality, on the K linear ones and
            the log-odds of those chances.
        change: by the signals seen before and after, [K, K] covariance of how much the estimates
            of quality change.
        cost_unit: mean cost of the last tier's answer; costs are estimated as multiples of it.
    """

    routers: tuple[Router, ...]
    prompt_quality: tuple[mlp.Arrays, ...]
    prompt_cost: tuple[mlp.Arrays, ...]
    signal: tuple[mlp.Arrays, ...]
    after: dict[Sets, tuple[mlp.Arrays, ...]]
    change: dict[tuple[Sets, Sets], np.ndarray]
    cost_unit: float

    def quality(self, prompt: Inputs, seen: Seen, models: Sequence[str]) -> np.ndarray:
        """[N, K] expected quality of each tier's answer."""
        columns = [*predictions(self.prompt_quality, prompt_features(prompt)).T]
        signals = self.signals(seen)
        for k in signals:
            score_N = score(self.routers[k], seen[k], models[k])
            columns.append(_log_odds(self.signal[k], score_N))
        return predictions(self.after[signals], np.stack(columns, axis=1))

    def cost(self, prompt: Inputs) -> np.ndarray:
        """[N, K] expected cost of each tier's answer, in the last tier's mean; at least 0."""
        return np.maximum(predictions(self.prompt_cost, prompt_features(prompt)), 0.0)

    def signals(self, seen: Iterable[int]) -> Sets:
        """The tiers among these whose answers have a signal."""
        return tuple(k for k in sorted(seen) if k < len(self.routers))

    def change_of(self, before: Sets, after: Sets) -> np.ndarray:
        """[K, K] covariance of what seeing these signals and not only those changes."""
        if before == after:
            return np.zeros((len(self.prompt_quality),) * 2)
        return self.change[before, after]

    def own_flops(self, prompt: Inputs, seen: Seen) -> np.ndarray:
        """[N] FLOPs of the estimates: the routers read, and 2 per weight of each regression."""
        once = sum(mlp.flops(line) for line in (*self.prompt_quality, *self.prompt_cost))
        spent_N = np.full(len(prompt), once)
        for k in self.signals(seen):
            spent_N = spent_N + self.routers[k].flops_per_query(seen[k])
            spent_N = spent_N + calibration.flops(self.signal[k])
        steps = [self.signals(sorted(seen)[:step]) for step in range(len(seen) + 1)]
        lines = [line for signals in steps for line in self.after[signals]]
        return spent_N + sum(mlp.flops(line) for line in lines)


def fit_estimates(tiers: Tiers, routers: Sequence[Router]) -> Estimates:
    """Regress every tier's quality on the prompt and each set of signals.

    First ridge regressions of quality and cost on the prompt: its embedding and the log of its
    length, as far as logged. A signal becomes the log-odds that its tier is wrong, by isotonic
    regression. Quality given signals V is then a logistic regression on the K ridge predictions
    and the log-odds of V. Ridge predictions, and the scores of learned routers, are out of fold
    here, so that the second step sees them as unsure as they are on new queries. The change from
    signals V to W is the covariance of ``q_W - q_V`` over these queries. With fewer than 20
    queries every estimate is a constant.

    Args:
        tiers: the fitting queries, logged for every tier.
        routers: K - 1, fitted; what ``after`` reads at decision time.

    Raises:
        InputError: more than 6 tiers, a router that does not judge an answer, or too few queries.

    Source: Gaussian quality estimates before and after a model is run, as in cascade routing
    (2410.10347); its reference program takes the covariance of the change to the estimates after
    *all* models. The regressions are our choice.
    """
    if len(tiers.models) > MOST_TIERS:
        raise InputError(f"{len(tiers.models)} tiers; name at most {MOST_TIERS}")
    for router in routers:
        check_router(router)
    features_NF = prompt_features(prompt_of(tiers.inputs[0]))
    cost_unit = float(tiers.cost[:, -1].mean()) or 1.0
    prompt_NK = _out_of_fold(features_NF, tiers)
    signal, wrong_ND = _signals(tiers, routers)
    after: dict[Sets, tuple[mlp.Arrays, ...]] = {}
    known: dict[Sets, np.ndarray] = {}
    for signals in subsets(range(len(routers))):
        seen_NF = np.column_stack([prompt_NK, wrong_ND[:, list(signals)]])
        after[signals] = tuple(
            linear.logistic(seen_NF, quality_N, PENALTY) for quality_N in tiers.quality.T
        )
        known[signals] = predictions(after[signals], seen_NF)
    return Estimates(
        routers=tuple(routers),
        prompt_quality=_ridges(features_NF, tiers.quality),
        prompt_cost=_ridges(features_NF, tiers.cost / cost_unit),
        signal=signal,
        after=after,
        change=_changes(known),
        cost_unit=cost_unit,
    )


def prompt_features(prompt: Inputs) -> Float64[np.ndarray, "N F"]:
    """The embedding and log(1 + prompt tokens), as far as logged; else one column of zeros."""
    columns = [np.zeros((len(prompt), 1))]
    if prompt.prompt_embedding is not None:
        columns.append(prompt.prompt_embedding.astype(np.float64))
    if prompt.prompt_tokens is not None:
        columns.append(np.log1p(prompt.prompt_tokens)[:, None])
    return np.concatenate(columns, axis=1)


def predictions(
    lines: Sequence[mlp.Arrays], features_NF: Float64[np.ndarray, "N F"]
) -> Float64[np.ndarray, "N K"]:
    """One column per regression."""
    return np.stack([mlp.predict(line, features_NF) for line in lines], axis=1)


def subsets(of: Sequence[int]) -> list[Sets]:
    """All subsets, the empty one first, smaller ones before larger.

    >>> subsets([0, 2])
    [(), (0,), (2,), (0, 2)]
    """
    sizes = range(len(of) + 1)
    return [chosen for size in sizes for chosen in itertools.combinations(of, size)]


def _ridges(features_NF: np.ndarray, target_NK: np.ndarray) -> tuple[mlp.Arrays, ...]:
    return tuple(linear.ridge(features_NF, target_N) for target_N in target_NK.T)


def _log_odds(arrays: mlp.Arrays, score_N: np.ndarray) -> np.ndarray:
    """[N] of a wrong answer, at this score."""
    wrong_N = np.clip(calibration.predict(arrays, score_N), SURE, 1.0 - SURE)
    return np.log(wrong_N) - np.log1p(-wrong_N)


def _out_of_fold(features_NF: np.ndarray, tiers: Tiers) -> np.ndarray:
    """[N, K] ridge predictions of quality, each query's by regressions that have not seen it."""
    fold_N = fold_of(tiers.inputs[0].query_id, FOLDS)
    found_NK = np.empty(tiers.quality.shape)
    for fold in range(FOLDS):
        held = fold_N == fold
        lines = _ridges(features_NF[~held], tiers.quality[~held])
        found_NK[held] = predictions(lines, features_NF[held])
    return found_NK


def _signals(
    tiers: Tiers, routers: Sequence[Router]
) -> tuple[tuple[mlp.Arrays, ...], Float64[np.ndarray, "N D"]]:
    """The maps from scores to chances of a wrong answer, and the log-odds of those."""
    maps, wrong = [], [np.zeros((len(tiers), 0))]
    for k, router in enumerate(routers):
        score_N = cross_fit(router, tiers.inputs[k], tiers.outcomes(k, k + 1), FOLDS)
        maps.append(calibration.isotonic(score_N.astype(np.float64), 1.0 - tiers.quality[:, k]))
        wrong.append(_log_odds(maps[-1], score_N)[:, None])
    return tuple(maps), np.concatenate(wrong, axis=1)


def _changes(known: dict[Sets, np.ndarray]) -> dict[tuple[Sets, Sets], np.ndarray]:
    """Covariance of the change of the estimates, for more signals than before."""
    return {
        (before, after): np.atleast_2d(np.cov((known[after] - known[before]).T))
        for before, after in itertools.product(known, known)
        if set(before) < set(after)
    }
