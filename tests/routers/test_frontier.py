"""Frontiers, hulls and mixtures against comparisons of all pairs."""

import itertools

import numpy as np
import pytest

from routers.frontier import Frontier, pareto


def test_the_hull_is_what_every_mixture_of_two_reaches():
    rng = np.random.default_rng(0)
    found = Frontier.of(np.arange(30.0)[:, None], rng.random(30), rng.random(30))
    hull = found.hull()
    assert 2 < len(hull) < len(found)
    for cost in np.linspace(found.cost[0], found.cost[-1], 40).tolist():
        best = 0.0
        for (qa, ca), (qb, cb) in itertools.product(
            zip(found.quality, found.cost, strict=True), repeat=2
        ):
            if ca <= cost <= cb:
                share = (cost - ca) / (cb - ca) if cb > ca else 0.0
                best = max(best, qa + share * (qb - qa))
        assert np.interp(cost, hull.cost, hull.quality) == pytest.approx(best, abs=1e-12)


def test_mixtures_fill_the_hull():
    found = Frontier.of(
        np.array([[7.0], [8.0], [9.0]]), np.array([0.2, 0.4, 0.9]), np.array([1.0, 2.0, 3.0])
    )
    mixed = found.mixtures()
    assert mixed.settings[0].tolist() == [7.0, 9.0, 0.0]  # the middle one lies below the line
    place = mixed.within(2.0)
    np.testing.assert_allclose(mixed.settings[place], [7.0, 9.0, 0.5])
    assert mixed.quality[place] == pytest.approx(0.55, abs=1e-12)
    assert mixed.settings[-1].tolist() == [7.0, 9.0, 1.0]
    alone = Frontier.of(np.array([[7.0]]), np.array([0.2]), np.array([1.0])).mixtures()
    assert alone.settings.tolist() == [[7.0, 7.0, 0.0]]


def test_pareto_by_comparing_all_pairs():
    rng = np.random.default_rng(0)
    quality, cost = rng.integers(0, 6, 60) / 6, rng.integers(0, 6, 60) / 6
    beaten = [
        any(
            q2 >= q and c2 <= c and (q2 > q or c2 < c) for q2, c2 in zip(quality, cost, strict=True)
        )
        for q, c in zip(quality, cost, strict=True)
    ]
    want = {(q, c) for q, c, b in zip(quality, cost, beaten, strict=True) if not b}
    rows = pareto(quality, cost)
    assert {(quality[i], cost[i]) for i in rows} == want
    assert len(rows) == len(want)  # equal ones once
