"""Thresholds of a cascade chosen jointly.

A cascade of K tiers has K - 1 thresholds, and what one of them should be depends on the others:
who arrives at tier k is decided before it, what going on brings is decided after it.

Letters: N queries, K tiers, D = K - 1 thresholds, A settings tried, C candidates, S starts.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float64, Int64

from routers.base import Outcomes, Router
from routers.cascade import check_router, score
from routers.curves import deferral_curve
from routers.frontier import Frontier, pareto
from routers.tiers import Tiers

CANDIDATES = 256
"""Values tried for each threshold: all the scores, or as many quantiles of them."""

EXACT_LINES = 1024
"""Up to so many combinations of all thresholds but the last are tried one by one."""

STARTS = 64
"""Settings drawn at random that a local search begins with."""

KEPT = 512
"""Settings a local search keeps, evenly in cost."""


@dataclasses.dataclass(frozen=True)
class Chain:
    """A cascade's logged queries, ready for any thresholds.

    Args:
        score: [N, D] deferral score of each tier's answer but the last.
        quality: [N, K].
        paid: [N, K] cost of a query that stops at tier k: all tiers up to it and their routers.
    """

    score: Float64[np.ndarray, "N D"]
    quality: Float64[np.ndarray, "N K"]
    paid: Float64[np.ndarray, "N K"]

    def stops(self, thresholds: Sequence[float]) -> Int64[np.ndarray, " N"]:
        """The tier at which each query stops."""
        return _first_stop(self.score >= np.asarray(thresholds, np.float64)[None, :])

    def means(self, thresholds: Sequence[float]) -> tuple[float, float]:
        """Mean quality and mean cost of a query."""
        stop_N1 = self.stops(thresholds)[:, None]
        found = (np.take_along_axis(a, stop_N1, axis=1) for a in (self.quality, self.paid))
        quality, cost = (float(values.mean()) for values in found)
        return quality, cost


def chain(tiers: Tiers, routers: Sequence[Router]) -> Chain:
    """Score every tier but the last with its (fitted) router and add up what is paid."""
    scores, spent_NK = [np.zeros((len(tiers), 0))], tiers.cost.copy()
    for k, router in enumerate(routers):
        check_router(router)
        scores.append(score(router, tiers.inputs[k], tiers.models[k])[:, None])
        if tiers.unit == "flops":
            spent_NK[:, k] += router.flops_per_query(tiers.inputs[k])
    return Chain(np.concatenate(scores, axis=1), tiers.quality, np.cumsum(spent_NK, axis=1))


def frontier(
    chain: Chain, *, candidates: int = CANDIDATES, exact_lines: int = EXACT_LINES
) -> Frontier:
    """The thresholds worth setting: every budget's best cascade among those tried.

    - One tier: that model alone.
    - Two tiers: the exact curve of ``routers.curves``, every score a threshold.
    - More: thresholds among the scores of the tier, or ``candidates`` quantiles of them. A *line*
      is all values of one threshold with the others fixed; its points come from one running sum,
      as a two-tier curve's do. Up to ``exact_lines`` combinations of all thresholds but the last,
      each line of the last is drawn: that is every setting, hence exact (three tiers always are,
      for the candidates). Above, Pareto local search: draw all lines through "stop at tier k" for
      each k and through 64 settings drawn at random (seed 0), then all lines through each setting
      of the frontier found so far, until no line improves it; of more than 512 settings only the
      best in each of 512 intervals of cost are kept.

    A threshold that sends everything on is -inf, one that keeps everything +inf.

    Source: Pareto local search, Paquete, Chiarandini and Stuetzle 2004; lines as neighbourhood,
    candidates and limits are our choice.
    """
    if chain.score.shape[1] == 0:
        settings = np.zeros((1, 0))
        return Frontier.of(settings, *(np.array([mean]) for mean in chain.means(())))
    if chain.score.shape[1] == 1:
        return _two_tiers(chain)
    grid = _Grid.of(chain, candidates)
    lines = int(np.prod(grid.sizes[:-1], dtype=np.float64))
    found = grid.every_setting() if lines <= exact_lines else grid.local_search()
    thresholds = np.stack([c[found.setting[:, k]] for k, c in enumerate(grid.candidates)], axis=1)
    means_A2 = np.array([chain.means(setting) for setting in thresholds.tolist()])  # not rounded
    return Frontier.of(thresholds, means_A2[:, 0], means_A2[:, 1])


def _two_tiers(chain: Chain) -> Frontier:
    """Exact, from the deferral curve; its last point sends on whatever scores lower, too."""
    small_N, both_N = chain.paid[:, 0], chain.paid[:, 1]
    outcomes = Outcomes(chain.quality[:, 0], chain.quality[:, 1], small_N, both_N - small_N)
    curve = deferral_curve(chain.score[:, 0], outcomes)
    threshold = np.append(curve.threshold[:-1], -np.inf)
    return Frontier.of(threshold[:, None], curve.quality, curve.cost)


def _first_stop(on_ND: np.ndarray) -> np.ndarray:
    """[N] the first tier whose answer is kept; the last where every router sends on."""
    return np.argmin(np.column_stack([on_ND, np.zeros(len(on_ND), bool)]), axis=1)


@dataclasses.dataclass(frozen=True)
class _Points:
    """A settings, as places in the candidates, and their mean quality and cost."""

    setting: np.ndarray  # [A, D] int
    quality: np.ndarray  # [A]
    cost: np.ndarray  # [A]

    @classmethod
    def best_of(cls, many: Sequence[_Points]) -> _Points:
        """The nondominated points of all, by rising cost."""
        fields = [[getattr(p, f.name) for p in many] for f in dataclasses.fields(cls)]
        setting, quality, cost = (np.concatenate(values) for values in fields)
        rows = pareto(quality, cost)
        return cls(setting[rows], quality[rows], cost[rows])

    def thinned(self, most: int) -> _Points:
        """The best of each of ``most`` equal intervals of cost, if there are more points."""
        if len(self.cost) <= most:
            return self
        edges = np.linspace(self.cost[0], self.cost[-1], most + 1)[1:-1]
        interval = np.searchsorted(edges, self.cost, side="left")
        last = np.append(interval[1:] != interval[:-1], True)
        return _Points(self.setting[last], self.quality[last], self.cost[last])


@dataclasses.dataclass(frozen=True)
class _Grid:
    """Candidate thresholds, and the place at which each query's score begins to be sent on."""

    chain: Chain
    candidates: list[np.ndarray]  # D arrays [C], falling from +inf to -inf
    place: np.ndarray  # [N, D]: a query is sent on iff place <= the setting
    scale: float  # power of ten that no cost exceeds

    @classmethod
    def of(cls, chain: Chain, most: int) -> _Grid:
        """At most ``most`` values between +inf and -inf for each threshold."""
        candidates, places = [], []
        for score_N in chain.score.T:
            rising = np.unique(score_N)
            if len(rising) > most:
                rows = np.linspace(0, len(score_N) - 1, most).round().astype(int)
                rising = np.unique(np.sort(score_N)[rows])
            falling = np.append(rising[:0:-1], -np.inf)  # the lowest score: everything
            places.append(1 + np.searchsorted(-falling, -score_N, side="left"))
            candidates.append(np.append(np.inf, falling))
        largest = float(chain.paid.max())
        scale = 10.0 ** np.ceil(np.log10(largest)) if largest > 0 else 1.0
        return cls(chain, candidates, np.stack(places, axis=1), scale)

    @property
    def sizes(self) -> list[int]:
        return [len(values) for values in self.candidates]

    def line(self, setting: Sequence[int], k: int) -> _Points:
        """Every value of threshold k, the others as they are."""
        on_ND = self.place <= np.asarray(setting)[None, :]
        arrives_N = on_ND[:, :k].all(axis=1)
        on_ND[:, k] = False
        stays_N = _first_stop(on_ND)
        on_ND[:, k] = True
        goes_N = np.where(arrives_N, _first_stop(on_ND), stays_N)
        place_N, size = self.place[:, k], self.sizes[k]
        means = []
        for values_NK in (self.chain.quality, self.chain.paid):
            kept_N, sent_N = (
                np.take_along_axis(values_NK, stop[:, None], axis=1)[:, 0]
                for stop in (stays_N, goes_N)
            )
            step_C = np.bincount(place_N, weights=sent_N - kept_N, minlength=size)
            means.append((kept_N.sum() + np.cumsum(step_C)) / len(place_N))
        # Sums in another order differ in the last digits; such points must not look better.
        quality_C = means[0].round(12)
        cost_C = (means[1] / self.scale).round(12) * self.scale
        setting_CD = np.tile(np.asarray(setting), (size, 1))
        setting_CD[:, k] = np.arange(size)
        return _Points(setting_CD, quality_C, cost_C)

    def every_setting(self) -> _Points:
        """The frontier of all combinations of candidates."""
        last = len(self.sizes) - 1
        firsts = itertools.product(*(range(size) for size in self.sizes[:-1]))
        return self._best(self.line((*first, 0), last) for first in firsts)

    def local_search(self) -> _Points:
        """The frontier at which no line through any of its points leads further."""
        top = [size - 1 for size in self.sizes]
        corners = [(*top[:k], *(0 for _ in top[k:])) for k in range(len(top) + 1)]
        random_SD = np.random.default_rng(0).integers(0, self.sizes, (STARTS, len(top)))
        drawn = set[tuple[int, ...]]()
        found: _Points | None = None
        fresh = [*corners, *map(tuple, random_SD.tolist())]
        while fresh:
            drawn.update(fresh)
            lines = (self.line(setting, k) for setting in fresh for k in range(len(top)))
            new = self._best(lines)
            found = new if found is None else _Points.best_of([found, new])
            found = found.thinned(KEPT)
            fresh = [s for s in map(tuple, found.setting.tolist()) if s not in drawn]
        assert found is not None
        return found

    def _best(self, lines: Iterator[_Points]) -> _Points:
        """The nondominated points of many lines, merged a few at a time."""
        found: list[_Points] = []
        for line in lines:
            found.append(line)
            if len(found) > 64:
                found = [_Points.best_of(found)]
        return _Points.best_of(found)
