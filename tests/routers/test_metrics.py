"""Metrics against closed forms, scikit-learn, SciPy and brute force."""

import make
import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from routers import metrics
from routers.base import Outcomes
from routers.curves import Curve, deferral_curve

CLOSE = {"abs": 1e-12}


def curve_of(quality, rate=None, cost=None, small=1.0, large=9.0):
    """A curve given by its points; a response-stage cost unless said otherwise."""
    quality = np.asarray(quality, float)
    rate = np.linspace(0, 1, len(quality)) if rate is None else np.asarray(rate, float)
    cost = small + large * rate if cost is None else np.asarray(cost, float)
    return Curve(np.linspace(1, 0, len(quality)), rate, quality, cost, small, large)


CHORD = curve_of([0.4, 0.8])
HUMP = curve_of([0.4, 0.9, 0.6, 0.8], rate=[0, 0.25, 0.5, 1])  # rises, falls, rises again
WORSE = curve_of([0.8, 0.4])


@pytest.mark.parametrize("seed", range(5))
def test_oracle_area_is_the_closed_form(seed):
    outcomes = make.outcomes(97, seed)
    small, large = outcomes.quality_small, outcomes.quality_large
    b, c = np.mean((small == 0) & (large == 1)), np.mean((small == 1) & (large == 0))
    want = small.mean() + b * (1 - b / 2) - c**2 / 2
    assert metrics.audc_oracle(outcomes) == pytest.approx(want, **CLOSE)


def test_areas_of_the_chord_and_the_oracle():
    assert metrics.audc(CHORD) == pytest.approx(0.6, **CLOSE)
    assert metrics.audc_random(CHORD) == pytest.approx(0.6, **CLOSE)
    assert metrics.audc_normalised(CHORD, 0.7) == pytest.approx(0.0, **CLOSE)
    outcomes = make.outcomes(50)
    best = deferral_curve(outcomes.gain, outcomes)
    oracle = metrics.audc_oracle(outcomes)
    assert metrics.audc_normalised(best, oracle) == pytest.approx(1.0, **CLOSE)
    mirror = deferral_curve(-outcomes.gain, outcomes)
    assert metrics.audc_normalised(mirror, oracle) < 0


def test_audc_is_a_fine_sum():
    grid = np.linspace(0, 1, 400_001)
    values = np.interp(grid, HUMP.deferral_rate, HUMP.quality)
    assert metrics.audc(HUMP) == pytest.approx(np.mean(values), abs=1e-5)


def test_apgr_and_cpt():
    assert metrics.apgr(CHORD) == pytest.approx(0.5, **CLOSE)
    assert metrics.cpt(CHORD, 0.3) == pytest.approx(0.3, **CLOSE)
    assert metrics.cpt(CHORD, 1.0) == pytest.approx(1.0, **CLOSE)
    # First crossing of a curve that falls again: 0.6 lies at .1, not at .5.
    assert metrics.cpt(HUMP, 0.5) == pytest.approx(0.1, **CLOSE)
    assert metrics.cpt(HUMP, 1.0) == pytest.approx(0.2, **CLOSE)


@pytest.mark.parametrize("curve", [WORSE, curve_of([0.5, 0.7, 0.5])])
def test_no_gap_to_recover_is_null(curve):
    assert metrics.apgr(curve) is None
    assert metrics.cpt(curve, 0.5) is None
    assert metrics.flops_saving(curve, 0.5) is None


def test_flops_saving():
    # Chord, S 1, L 9: quality .6 at rate .5 costs 5.5.
    assert metrics.flops_saving(CHORD, 0.5) == pytest.approx(1 - 5.5 / 9, **CLOSE)
    assert metrics.flops_saving(CHORD, 1.0) == pytest.approx(1 - 10 / 9, **CLOSE)  # dearer
    assert metrics.flops_saving(HUMP, 1.0) == pytest.approx(1 - (1 + 9 * 0.2) / 9, **CLOSE)
    assert metrics.flops_saving(curve_of([0.4, 0.8], small=0.0, large=0.0), 0.5) is None


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("stage", ["prompt", "response"])
def test_flops_at_quality_is_a_search_along_the_line(seed, stage):
    outcomes = make.outcomes(30, seed, graded=True)
    if stage == "prompt":  # the large model cheaper on some queries: cost is not monotone
        outcomes = Outcomes(
            outcomes.quality_small,
            outcomes.quality_large,
            outcomes.flops_large[::-1].copy(),
            outcomes.flops_large,
        )
    curve = deferral_curve(make.tied_score(30, seed), outcomes, stage=stage)
    rate = np.linspace(0, 1, 200_001)
    quality = np.interp(rate, curve.deferral_rate, curve.quality)
    cost = np.interp(rate, curve.deferral_rate, curve.cost)
    for target in (curve.quality.min(), curve.quality.mean(), 0.999 * curve.quality.max()):
        want = cost[quality >= target].min()
        assert metrics.flops_at_quality(curve, target) == pytest.approx(want, abs=1e-3)


def test_unreached_quality_is_null():
    assert metrics.flops_at_quality(HUMP, 0.95) is None


def test_the_last_point_always_counts_as_the_large_model():
    """Running sums must not miss the large model's own quality by a rounding error."""
    for seed in range(200):
        outcomes = make.outcomes(101, seed, graded=True)
        curve = deferral_curve(np.zeros(101), outcomes)
        if metrics.apgr(curve) is not None:
            assert metrics.cpt(curve, 1.0) == pytest.approx(1.0, **CLOSE)


def test_aucfc_equals_audc_at_constant_cost():
    outcomes = make.outcomes(60)
    flat = Outcomes(
        outcomes.quality_small, outcomes.quality_large, np.full(60, 2.0), np.full(60, 7)
    )
    curve = deferral_curve(make.tied_score(60), flat)
    assert metrics.aucfc(curve) == pytest.approx(metrics.audc(curve), **CLOSE)


@pytest.mark.parametrize("stage", ["prompt", "response"])
@pytest.mark.parametrize("router", [0.0, 2.5])
def test_aucfc_is_a_fine_sum(stage, router):
    outcomes = make.outcomes(60, graded=True)
    flops = np.full(60, router)
    curve = deferral_curve(make.tied_score(60), outcomes, stage=stage, router_flops=flops)
    x = (curve.cost - outcomes.flops_small.mean()) / outcomes.flops_large.mean()
    grid = np.linspace(0, 1, 400_001)
    want = np.mean(np.interp(grid, x, curve.quality))  # np.interp extends flat
    assert metrics.aucfc(curve) == pytest.approx(want, abs=1e-5)


def test_a_router_that_costs_is_worth_less():
    outcomes = make.outcomes(200)
    areas = [
        metrics.aucfc(deferral_curve(outcomes.gain, outcomes, router_flops=np.full(200, f)))
        for f in (0.0, 1.0, 5.0)
    ]
    assert areas[0] > areas[1] > areas[2]


def test_aucfc_of_a_free_large_model_is_null():
    assert metrics.aucfc(curve_of([0.4, 0.8], large=0.0)) is None


def test_qnc():
    assert metrics.qnc(CHORD) == pytest.approx(10 / 9, **CLOSE)  # defer all: S is paid too
    assert metrics.qnc(HUMP) == pytest.approx((1 + 9 * 0.2) / 9, **CLOSE)
    assert metrics.qnc(WORSE) == pytest.approx(1.0, **CLOSE)  # the small model is the better one
    assert metrics.qnc(curve_of([0.4, 0.8], small=0.0, large=0.0)) is None


def chords(x, y):
    """Upper hull at every x by brute force: the highest chord over it."""
    best = y.copy()
    for i in range(len(x)):
        for j in range(len(x)):
            over = (x[i] < x) & (x < x[j])
            best[over] = np.maximum(best[over], np.interp(x[over], x[[i, j]], y[[i, j]]))
    return best


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("queries", [3, 20, 60])
def test_aiq_is_the_area_under_the_highest_chords(seed, queries):
    outcomes = make.outcomes(queries, seed, graded=True)
    curve = deferral_curve(np.random.default_rng(seed).random(queries), outcomes)
    hull = chords(curve.cost, curve.quality)
    hull = np.maximum.accumulate(hull)
    peak = np.argmax(hull)  # after its peak a non-decreasing hull is flat
    cost, quality = curve.cost[: peak + 1], hull[: peak + 1]
    end = curve.small_cost + curve.large_cost
    area = np.trapezoid(np.append(quality, quality[-1]), np.append(cost, end))
    assert metrics.aiq(curve) == pytest.approx(area / end, **CLOSE)


def test_aiq_prefilter_keeps_the_hull():
    """Thousands of points take the filtered path; a plain monotone chain must agree."""
    from scipy.spatial import ConvexHull

    outcomes = make.outcomes(3000, graded=True)
    curve = deferral_curve(np.random.default_rng(0).random(3000) + outcomes.gain, outcomes)
    points = np.stack([curve.cost, curve.quality], 1)
    corners = points[np.sort(ConvexHull(points).vertices)]
    lower = np.interp(corners[:, 0], corners[[0, -1], 0], corners[[0, -1], 1])
    upper = corners[corners[:, 1] >= lower - 1e-12]
    upper = upper[: np.argmax(upper[:, 1]) + 1]
    end = curve.small_cost + curve.large_cost
    area = np.trapezoid(np.append(upper[:, 1], upper[-1, 1]), np.append(upper[:, 0], end))
    assert len(curve.cost) > 2000
    assert metrics.aiq(curve) == pytest.approx(area / end, abs=1e-9)


def test_aiq_cuts_what_lies_beyond_the_common_cost():
    free, dear = CHORD, curve_of([0.4, 0.8], cost=[3, 12])
    assert metrics.aiq(free) == pytest.approx(9 * 0.6 / 10, **CLOSE)
    at_end = 0.4 + 0.4 * 7 / 9
    assert metrics.aiq(dear) == pytest.approx(7 * (0.4 + at_end) / 2 / 10, **CLOSE)


@pytest.mark.parametrize("levels", [2, 9, 10_000])
def test_auroc_is_scikit_learns(levels):
    score, positive = make.tied_score(300, levels=levels), make.outcomes(300).gain > 0
    assert metrics.auroc(score, positive) == pytest.approx(roc_auc_score(positive, score), **CLOSE)


@pytest.mark.parametrize("label", [False, True])
def test_auroc_of_one_class_is_null(label):
    assert metrics.auroc(np.arange(3.0), np.full(3, label)) is None


@pytest.mark.parametrize("levels", [2, 9, 10_000])
def test_spearman_is_scipys(levels):
    a, b = make.tied_score(200, 0, levels), np.random.default_rng(1).integers(1, 9, 200)
    assert metrics.spearman(a, b) == pytest.approx(spearmanr(a, b).statistic, **CLOSE)


def test_spearman_of_a_constant_is_null():
    assert metrics.spearman(np.arange(3.0), np.ones(3)) is None


def quantile_bins(score, outcomes):
    """RouteLLM's evaluation: eleven thresholds at quantiles of the scores, ``>=`` and at the
    last ``>``; the share sent on and the quality read off our exact curve."""
    edges = np.quantile(score, np.linspace(0, 1, 11))
    curve = deferral_curve(score, outcomes)
    points = [int(np.flatnonzero(curve.threshold >= edge)[-1]) for edge in edges]
    points[-1] = int(np.flatnonzero(curve.threshold > edges[-1])[-1])
    return edges, 100 * curve.deferral_rate[points], 100 * curve.quality[points]


GOLDEN = {"len": ((15.35, 36.70, 69.20), 75.385101, 0.583698),
          "hash": ((20.81, 49.90, 78.72), 74.387645, 0.503873)}  # fmt: skip


@pytest.mark.shared
@pytest.mark.parametrize("name", ["len", "hash"])
def test_routellm_points_and_numbers(shared_data, name):
    """Every point, AUC and APGR that RouteLLM's own evaluator prints, from our exact curve."""
    folder = shared_data / "routing" / "routellm" / "golden"
    weak, strong, *columns = np.loadtxt(
        folder / "mmlu_scores.csv", delimiter=",", skiprows=1, unpack=True,
        converters=lambda cell: float(cell) if cell[0] not in "TF" else float(cell == "True"),
    )  # fmt: skip
    score = dict(zip(("len", "hash"), columns, strict=True))[name]
    ones = np.ones(len(weak))
    outcomes = Outcomes(weak, strong, ones, 10 * ones)
    edges, sent, accuracy = quantile_bins(score, outcomes)
    rows = np.loadtxt(folder / "mmlu_points.csv", delimiter=",", skiprows=1, dtype=str)
    golden = rows[rows[:, 0] == name][:, 1:].astype(float)
    np.testing.assert_allclose(np.stack([edges, sent, accuracy], 1), golden, rtol=0, atol=1e-6)

    (calls, area, gap) = GOLDEN[name]
    binned = Curve(edges[::-1], sent[::-1] / 100, accuracy[::-1], sent[::-1], 1.0, 10.0)
    assert metrics.audc(binned) == pytest.approx(area, abs=1e-6)
    assert metrics.apgr(binned) == pytest.approx(gap, abs=1e-6)
    for x, want in zip((0.2, 0.5, 0.8), calls, strict=True):
        # Printed to 0.01 %; the binned accuracies rise, so first crossing = np.interp.
        assert 100 * metrics.cpt(binned, x) == pytest.approx(want, abs=0.0051)
    # The exact curve agrees with ten bins to what ten bins can resolve.
    assert metrics.apgr(deferral_curve(score, outcomes)) == pytest.approx(gap, abs=0.01)
