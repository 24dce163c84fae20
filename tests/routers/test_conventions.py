"""Published conventions, each against a literal version and RouteLLM's own output."""

import itertools
import json
import statistics

import make
import numpy as np
import pytest

from routers import conventions, metrics
from routers.base import Outcomes
from routers.curves import Curve, deferral_curve
from routers.evaluate import evaluate
from routers.records import Records

CLOSE = {"abs": 1e-12}


def smooth_score(queries, seed=0):
    return np.random.default_rng([seed, 7]).random(queries)


def curve_of(quality, rate=None, small=1.0, large=9.0):
    """Response-stage curve through these qualities, evenly spaced rates unless given."""
    quality = np.array(quality, float)
    rate = np.linspace(0, 1, len(quality)) if rate is None else np.array(rate, float)
    return Curve(1 - rate, rate, quality, small + large * rate, small, large)


def literal_routellm(score, small, large):
    """One threshold after another, one query after another; quantiles by the standard library."""
    edges = [min(score), *statistics.quantiles(score, n=10, method="inclusive"), max(score)]
    points = []
    for b, edge in enumerate(edges):
        routed = [s > edge if b == 10 else s >= edge for s in score]
        right = [
            q_l if strong else q_s for strong, q_s, q_l in zip(routed, small, large, strict=True)
        ]
        points.append((edge, sum(routed) / len(score), sum(right) / len(score)))
    area = 0.0
    for (_, r1, q1), (_, r0, q0) in itertools.pairwise(points):
        area += (r1 - r0) * (q1 + q0) / 2
    low, high = sum(small) / len(small), sum(large) / len(large)
    return points, area, (area - low) / (high - low)


@pytest.mark.parametrize("queries", [4, 23, 200])
@pytest.mark.parametrize("graded", [False, True])
def test_routellm_is_its_loop_over_thresholds(queries, graded):
    outcomes = make.outcomes(queries, 3, graded)
    score = smooth_score(queries)
    found = conventions.routellm(score, outcomes)
    sides = (outcomes.quality_small.tolist(), outcomes.quality_large.tolist())
    points, area, gap = literal_routellm(score.tolist(), *sides)
    got = [(p["threshold"], p["deferral_rate"], p["quality"]) for p in found["points"]]
    np.testing.assert_allclose(got, points, rtol=0, atol=1e-12)
    assert found["auc"] == pytest.approx(area, **CLOSE)
    assert found["apgr"] == pytest.approx(gap, **CLOSE)


def test_routellm_points_lie_on_the_exact_curve():
    outcomes, score = make.outcomes(137), smooth_score(137)
    curve = deferral_curve(score, outcomes)
    for point in conventions.routellm(score, outcomes)["points"]:
        here = np.isclose(curve.deferral_rate, point["deferral_rate"], rtol=0, atol=1e-12)
        assert curve.quality[here] == pytest.approx(point["quality"], **CLOSE)


def test_routellm_with_many_bins_comes_to_the_exact_curve():
    outcomes, score = make.outcomes(2000), smooth_score(2000)
    area = metrics.audc(deferral_curve(score, outcomes))
    off = [abs(conventions.routellm(score, outcomes, bins)["auc"] - area) for bins in (5, 500)]
    assert off[1] < 1e-4 < off[0]


def test_routellm_cpt_is_interpolation_with_quality_as_abscissa():
    """Where quality rises it is the first crossing; where it falls again the two part."""
    flat = np.ones(100)
    rising = Outcomes(np.zeros(100), np.ones(100), flat, flat)
    score = smooth_score(100)
    for x, share in conventions.routellm(score, rising)["cpt"].items():
        points = conventions.routellm(score, rising)["points"]
        binned = curve_of(
            [p["quality"] for p in points[::-1]], [p["deferral_rate"] for p in points[::-1]]
        )
        assert share == pytest.approx(metrics.cpt(binned, float(x)), **CLOSE)
    order = np.argsort(-score)
    small, large = np.zeros(100), np.zeros(100)
    small[order[60:80]], large[order[40:60]], large[order[80:]] = 1, 1, 1
    waves = Outcomes(small, large, flat, flat)  # .2, .4 at rate .6, .2 at .8, .4 at 1
    assert metrics.cpt(deferral_curve(score, waves), 0.5) == pytest.approx(0.5, **CLOSE)
    # np.interp asks for rising abscissae and here returns the last of three crossings.
    assert conventions.routellm(score, waves)["cpt"]["0.5"] == pytest.approx(0.9, **CLOSE)


def test_routellm_stops_at_tied_quantiles():
    assert conventions.routellm(make.tied_score(100), make.outcomes(100)) is None


def test_routellm_without_a_gap():
    same = Outcomes(np.ones(40), np.ones(40), np.ones(40), np.ones(40))
    assert conventions.routellm(smooth_score(40), same)["apgr"] is None


GOLDEN = {"len": ((15.35, 36.70, 69.20), 75.385101, 0.583698),
          "hash": ((20.81, 49.90, 78.72), 74.387645, 0.503873)}  # fmt: skip


@pytest.mark.shared
@pytest.mark.parametrize("name", ["len", "hash"])
def test_routellm_reproduces_its_own_program(shared_data, name):
    """Every point to the last bit or two; AUC and APGR to the digits that it prints."""
    folder = shared_data / "routing" / "routellm" / "golden"
    rows = np.loadtxt(folder / "mmlu_scores.csv", delimiter=",", skiprows=1, dtype=str)
    small, large = (rows[:, :2] == "True").astype(float).T
    score = rows[:, 2 + ["len", "hash"].index(name)].astype(float)
    found = conventions.routellm(score, Outcomes(small, large, small, large))
    golden = np.loadtxt(folder / "mmlu_points.csv", delimiter=",", skiprows=1, dtype=str)
    want = golden[golden[:, 0] == name][:, 1:].astype(float)
    got = [(p["threshold"], 100 * p["deferral_rate"], 100 * p["quality"]) for p in found["points"]]
    np.testing.assert_array_equal(np.array(got)[:, 0], want[:, 0])
    np.testing.assert_allclose(got, want, rtol=1e-14)
    calls, area, gap = GOLDEN[name]
    assert 100 * found["auc"] == pytest.approx(area, abs=1e-6)
    assert found["apgr"] == pytest.approx(gap, abs=1e-6)
    assert [f"{100 * share:.2f}" for share in found["cpt"].values()] == [f"{c:.2f}" for c in calls]


def test_percent_over_random():
    assert conventions.percent_over_random(curve_of([0.4, 0.8])) == pytest.approx(0.0, abs=1e-10)
    tent = curve_of([0.2, 0.6, 0.4])  # area .45 over chord .3
    assert conventions.percent_over_random(tent) == pytest.approx(50.0, abs=1e-10)
    assert conventions.percent_over_random(curve_of([0.0, 0.0])) is None


def literal_s_d(curve):
    """Both areas over the chord on a fine grid."""
    rate = np.linspace(0, 1, 200_001)
    low, high = curve.quality[0], curve.quality[-1]
    chord = low + rate * (high - low)
    ideal = np.minimum(low + rate, high)
    achieved = np.interp(rate, curve.deferral_rate, curve.quality)
    return np.sum(achieved - chord) / np.sum(ideal - chord)


@pytest.mark.parametrize("seed", range(4))
def test_gatekeeper_deferral_is_a_ratio_of_areas(seed):
    outcomes = make.outcomes(80, seed)
    better = Outcomes(
        outcomes.quality_small * (np.arange(80) % 2),
        outcomes.quality_large,
        outcomes.flops_small,
        outcomes.flops_large,
    )
    curve = deferral_curve(smooth_score(80) + better.gain, better)
    assert conventions.gatekeeper_deferral(curve) == pytest.approx(literal_s_d(curve), abs=1e-4)
    ours = metrics.audc_normalised(curve, metrics.audc_oracle(better))
    assert conventions.gatekeeper_deferral(curve) >= ours > 0


def test_gatekeeper_deferral_of_ideal_chord_and_complements():
    ones = np.ones(10)
    small, large = (np.arange(10) >= 6).astype(float), ones
    ideal = deferral_curve(1 - small, Outcomes(small, large, ones, ones))
    assert conventions.gatekeeper_deferral(ideal) == pytest.approx(1.0, **CLOSE)
    flat = deferral_curve(ones, Outcomes(small, large, ones, ones))
    assert conventions.gatekeeper_deferral(flat) == pytest.approx(0.0, **CLOSE)
    mending = Outcomes(small, (np.arange(10) < 7).astype(float), ones, ones)
    assert conventions.gatekeeper_deferral(deferral_curve(mending.gain, mending)) > 1
    assert conventions.gatekeeper_deferral(curve_of([0.8, 0.4])) is None


def test_gatekeeper_overlap_is_a_loop_over_bins():
    score = smooth_score(300)
    correct = smooth_score(300, 1) > score
    low, high, total = min(score), max(score), 0.0
    where = [min(int((s - low) / (high - low) * 100), 99) for s in score]
    for b in range(100):
        inside = [i for i in range(300) if where[i] == b]
        right = sum(correct[i] for i in inside) / correct.sum()
        wrong = sum(not correct[i] for i in inside) / (~correct).sum()
        total += min(right, wrong)
    assert conventions.gatekeeper_overlap(score, correct) == pytest.approx(total, abs=0.01)
    assert 0 < total < 1


def test_gatekeeper_overlap_ends():
    apart = np.array([0.0, 0.1, 0.9, 1.0])
    right = np.array([False, False, True, True])
    assert conventions.gatekeeper_overlap(apart, right) == 0
    assert conventions.gatekeeper_overlap(np.ones(4), right) == 1
    assert conventions.gatekeeper_overlap(apart, np.ones(4, bool)) is None


def pareto(curve):
    """Points better than every cheaper one, by comparing all pairs."""
    points = list(zip(curve.cost.tolist(), curve.quality.tolist(), strict=True))
    kept = [
        p
        for p in points
        if not any((c <= p[0] and q > p[1]) or (c < p[0] and q >= p[1]) for c, q in points)
    ]
    return np.array(sorted(set(kept))).T


@pytest.mark.parametrize("share", [1.0, 0.5])
@pytest.mark.parametrize("stage", ["prompt", "response"])
@pytest.mark.parametrize("seed", range(3))
def test_uniroute_area_is_the_mean_over_budgets(seed, stage, share):
    outcomes = make.outcomes(40, seed, graded=True)
    curve = deferral_curve(smooth_score(40, seed), outcomes, stage=stage)
    cost, quality = pareto(curve)
    budget = (np.arange(400_000) + 0.5) / 400_000 * share * curve.large_cost
    want = np.interp(budget, cost, quality).mean()  # np.interp extends flat
    assert conventions.uniroute_area(curve, share) == pytest.approx(want, abs=1e-5)


def test_uniroute_area_normalises_by_the_dearer_model():
    a, b = curve_of([0.4, 0.8], small=9.0, large=1.0), curve_of([0.4, 0.8], small=18.0, large=2.0)
    assert conventions.uniroute_area(a) == pytest.approx(conventions.uniroute_area(b), **CLOSE)
    assert conventions.uniroute_area(a) == pytest.approx(0.4, **CLOSE)  # nothing cheaper is there
    assert conventions.uniroute_area(curve_of([0.4, 0.8], small=0.0, large=0.0)) is None


def literal_aiq(curves):
    """Highest chord over every point, rising part, flat to the greatest peak of all."""
    hulls = []
    for curve in curves:
        x, y = curve.cost, curve.quality
        best = np.array([
            max([q, *(
                np.interp(c, [x[i], x[j]], [y[i], y[j]])
                for i in range(len(x)) for j in range(len(x)) if x[i] < c < x[j]
            )])
            for c, q in zip(x, y, strict=True)
        ])  # fmt: skip
        peak = int(np.argmax(best))
        hulls.append((x[: peak + 1], best[: peak + 1]))
    end = max(x[-1] for x, _ in hulls)
    return [np.trapezoid(np.append(y, y[-1]), np.append(x, end)) / end for x, y in hulls]


@pytest.mark.parametrize("seed", range(3))
def test_routerbench_aiq_is_the_area_under_the_highest_chords(seed):
    outcomes = make.outcomes(30, seed)
    curves = {
        name: deferral_curve(smooth_score(30, k), outcomes, router_flops=np.full(30, 2.0 * k))
        for k, name in enumerate("abc")
    }
    want = literal_aiq(list(curves.values()))
    assert list(conventions.routerbench_aiq(curves).values()) == pytest.approx(want, abs=1e-9)


def test_routerbench_aiq_depends_on_the_company():
    chord, dear = curve_of([0.4, 0.8]), curve_of([0.4, 0.9], large=90.0)
    alone = conventions.routerbench_aiq({"chord": chord})["chord"]
    together = conventions.routerbench_aiq({"chord": chord, "dear": dear})["chord"]
    assert alone == pytest.approx(metrics.aiq(chord), **CLOSE)  # its peak is at F_S + F_L
    assert together > alone
    free = curve_of([0.4, 0.8], small=0.0, large=0.0)
    assert conventions.routerbench_aiq({"free": free}) == {"free": None}


def test_routerarena():
    assert conventions.routerarena(1.0, 0.0044e-3) == pytest.approx(1.0, **CLOSE)
    assert conventions.routerarena(0.0, 0.01) == 0.0
    assert conventions.routerarena(0.7, 0.2) == 0.0
    halfway = (200 * 0.0044) ** 0.5 / 1000  # C = 1/2
    want = 1.1 * 0.7 * 0.5 / (0.07 + 0.5)
    assert conventions.routerarena(0.7, halfway) == pytest.approx(want, abs=1e-9)
    # Held in range: no score above that of the cheapest, none below 0.
    assert conventions.routerarena(0.7, 0.0) == conventions.routerarena(0.7, 0.0044e-3)
    assert conventions.routerarena(0.7, 99.0) == 0.0
    # A hundredfold price moves the score less than ten points of accuracy.
    assert conventions.routerarena(0.8, 1e-3) > conventions.routerarena(0.7, 1e-5)


def found_by(convention, unit="dollars"):
    columns = make.minimal() | {"score:other": [0.5] * 80}
    columns[unit] = columns.pop("dollars")
    records = Records(make.table(columns))
    return evaluate(records, {}, bootstrap=0, convention=convention).summary["routers"]


def test_evaluate_adds_conventions_only_when_asked():
    assert "conventions" not in found_by("exact")["mine"]
    assert set(found_by("routellm")["mine"]["conventions"]) == {"routellm"}
    entry = found_by("all")["mine"]
    assert set(entry["conventions"]) == {
        "routellm", "gupta", "gatekeeper", "uniroute", "routerbench", "routerarena",
    }  # fmt: skip
    assert json.loads(json.dumps(entry, allow_nan=False)) == entry
    assert entry | {"conventions": None} == found_by("exact")["mine"] | {"conventions": None}


def test_conventions_that_are_not_defined_are_null():
    flat = found_by("all")["other"]["conventions"]  # a constant score
    assert flat["routellm"] is None
    assert found_by("all", "flops")["mine"]["conventions"]["routerarena"] is None
    best = found_by("all")["mine"]["conventions"]["routerarena"]
    assert 0 <= best["deferral_rate"] <= 1
    assert best["score"] > 0
