"""Diagnoses against scikit-learn, SciPy and literally resampled rows."""

import make
import numpy as np
import pytest
from scipy import stats
from sklearn.calibration import calibration_curve
from sklearn.metrics import roc_auc_score
from test_bootstrap import weights_of

from routers import metrics
from routers.base import Outcomes
from routers.bootstrap import interval
from routers.curves import deferral_curve, oracle_score, rank
from routers.diagnosis import auroc_of_area, detection, length_bias, oracle_gap, reliability
from routers.errors import InputError
from routers.paired import hierarchical_difference


def repeated(weights):
    return np.repeat(np.arange(len(weights)), weights)


@pytest.mark.parametrize("levels", [2, 7, 100_000])
@pytest.mark.parametrize("graded", [False, True])
def test_auroc_of_both_targets_is_scikit_learns(levels, graded):
    """On all queries and on the rows of every resample, written out."""
    outcomes, score = make.outcomes(83, graded=graded), make.tied_score(83, levels=levels)
    found = detection({"r": score}, outcomes, resamples=12, seed=4)["r"]
    targets = {"wrong": outcomes.quality_small < 0.5, "helped": outcomes.gain > 0}
    for name, target in targets.items():
        assert found[name].value == pytest.approx(roc_auc_score(target, score), abs=1e-12)
        rows = [repeated(weights_of(83, b, seed=4)) for b in range(12)]
        want = [roc_auc_score(target[r], score[r]) for r in rows]
        np.testing.assert_allclose(found[name].drawn, want, rtol=0, atol=1e-11)
        assert found[name].interval == interval(found[name].drawn)


def test_finding_errors_is_not_finding_what_the_large_model_mends():
    """Half of the small model's errors are beyond the large one, and look the surest errors."""
    kind = np.arange(400) % 4  # 0, 1: right; 2: mended; 3: beyond both
    outcomes = Outcomes(*(np.isin(kind, k).astype(float) for k in ([0, 1], [0, 1, 2])), kind, kind)
    sees = {"errors": kind + 0.0, "mended": (kind == 2) + 0.0}
    found = detection(sees, outcomes, resamples=100)
    assert found["errors"]["wrong"].value == 1.0
    assert found["errors"]["helped"].value == pytest.approx(2 / 3, abs=1e-12)
    assert found["mended"]["helped"].value == 1.0
    assert found["mended"]["wrong"].value == pytest.approx(3 / 4, abs=1e-12)


def test_auroc_without_both_classes_is_not_defined():
    outcomes = make.outcomes(30)
    perfect = Outcomes(np.ones(30), outcomes.quality_large, np.ones(30), np.ones(30))
    found = detection({"r": make.tied_score(30)}, perfect, resamples=10)["r"]
    assert np.isnan(found["wrong"].value)
    assert np.isnan(found["wrong"].drawn).all()
    assert found["helped"].interval == (None, None)


def test_auroc_from_an_area_by_hand():
    """Scores 1 < 2 = 2 < 3, positives the last two: of 4 pairs 3 are in order and 1 is tied."""
    target = np.array([0.0, 0.0, 1.0, 1.0])
    area = metrics.audc(
        deferral_curve(np.array([1.0, 2.0, 2.0, 3.0]), Outcomes(0 * target, *[target] * 3))
    )
    got = auroc_of_area(np.array([area, 1.0, 0.0]), np.array([0.5, 1.0, 0.0]))
    np.testing.assert_allclose(got, [3.5 / 4, np.nan, np.nan], rtol=0, atol=1e-15)


@pytest.mark.parametrize("levels", [3, 100_000])
def test_length_bias_is_scipys_spearman(levels):
    """On all queries and on the rows of every resample; both columns have ties."""
    length = np.random.default_rng(0).integers(1, 9, 71)
    scores = {"r": make.tied_score(71, levels=levels) + 0.05 * length, "length": length + 0.0}
    found = length_bias(scores, length, resamples=12, seed=4)
    for name, score in scores.items():
        want = stats.spearmanr(score, length).statistic
        assert found[name].value == pytest.approx(want, abs=1e-12)
        rows = [repeated(weights_of(71, b, seed=4)) for b in range(12)]
        resampled = [stats.spearmanr(score[r], length[r]).statistic for r in rows]
        np.testing.assert_allclose(found[name].drawn, resampled, rtol=0, atol=1e-12)


def test_length_bias_sees_a_sum_and_not_a_mean():
    """A sum over tokens grows with length; its mean does not."""
    rng = np.random.default_rng(0)
    length = rng.integers(1, 30, 500)
    mean = rng.random(500)
    found = length_bias({"sum": mean * length, "mean": mean}, length, resamples=200)
    assert found["sum"].interval[0] > 0.5
    assert found["mean"].interval[0] < 0 < found["mean"].interval[1]


def test_a_constant_has_no_rank_correlation():
    length = np.arange(1, 31)
    found = length_bias({"flat": np.zeros(30)}, length, resamples=10)["flat"]
    assert np.isnan(found.value)
    assert found.interval == (None, None)
    same = length_bias({"r": np.arange(30.0)}, np.ones(30, int), resamples=10)["r"]
    assert np.isnan(same.value)


def test_scores_and_lengths_must_be_finite():
    outcomes = make.outcomes(5)
    with pytest.raises(InputError, match="mine: score is nan for 1 of 5"):
        detection({"mine": np.array([0, 1, np.nan, 2, 3])}, outcomes)
    with pytest.raises(InputError, match="length: score is inf for 1 of 2"):
        length_bias({"mine": np.zeros(2)}, np.array([np.inf, 1.0]))
    with pytest.raises(InputError, match="length: no queries"):
        length_bias({"mine": np.zeros(0)}, np.zeros(0))


@pytest.mark.parametrize("bins", [1, 4, 10])
def test_the_reliability_diagram_is_scikit_learns(bins):
    rng = np.random.default_rng(0)
    confidence = np.concatenate([rng.random(300), [0.0, 1.0, 0.5, 0.25, 0.1]])
    right = (rng.random(305) < confidence**2).astype(float)
    found = reliability(confidence, right, bins)
    accuracy, mean = calibration_curve(right, confidence, n_bins=bins)
    np.testing.assert_allclose(found.accuracy, accuracy, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.confidence, mean, rtol=0, atol=1e-12)
    assert found.count.sum() == 305


def test_calibration_error_by_a_loop():
    rng = np.random.default_rng(1)
    confidence, quality = 0.5 + 0.4 * rng.random(200), rng.integers(0, 11, 200) / 10
    found, want = reliability(confidence, quality, bins=5), 0.0
    for low in (0.4, 0.6, 0.8):  # (low, low + .2]; nothing lies below
        inside = [i for i in range(200) if low < confidence[i] <= low + 0.2]
        gap = np.mean(quality[inside]) - np.mean(confidence[inside])
        want += abs(gap) * len(inside) / 200
    assert found.ece == pytest.approx(want, abs=1e-12)
    np.testing.assert_allclose(found.low, [0.4, 0.6, 0.8])
    np.testing.assert_allclose(found.high, [0.6, 0.8, 1.0])


def test_chance_is_the_error_of_a_perfect_confidence():
    """Mean over 2,000 draws; within 3 % (the normal approximation in bins of 30)."""
    rng = np.random.default_rng(0)
    confidence = rng.random(300)
    drawn = [
        reliability(confidence, (rng.random(300) < confidence).astype(float)).ece
        for _ in range(2000)
    ]
    assert reliability(confidence, np.ones(300)).chance == pytest.approx(np.mean(drawn), rel=0.03)


def test_a_sure_and_right_confidence_has_no_error():
    found = reliability(np.ones(3), np.ones(3))
    assert (found.ece, found.chance, found.count.tolist()) == (0.0, 0.0, [3])


@pytest.mark.parametrize(
    ("confidence", "quality", "says"),
    [
        (np.array([0.1, 1.1]), np.ones(2), "confidence runs from 0.1 to 1.1"),
        (np.array([-0.1, 1.0]), np.ones(2), "confidence runs from -0.1 to 1"),
        (np.ones(2), np.array([0.0, 2.0]), "quality runs from 0 to 2"),
        (np.array([np.nan, 1.0]), np.ones(2), "confidence: score is nan"),
        (np.zeros(0), np.zeros(0), "confidence: no queries"),
    ],
)
def test_confidence_and_quality_are_shares(confidence, quality, says):
    with pytest.raises(InputError, match=says):
        reliability(confidence, quality)


STEPS = ("earned", "ranking", "small_model", "both_models")


@pytest.mark.parametrize("graded", [False, True])
def test_the_steps_of_the_gap_lead_from_random_to_one(graded):
    outcomes, score = make.outcomes(90, graded=graded), make.tied_score(90)
    ranked = {"r": rank(score, outcomes), "flat": rank(np.zeros(90), outcomes)}
    found = oracle_gap(ranked, outcomes, resamples=40, seed=2)
    random = (outcomes.quality_small.mean() + outcomes.quality_large.mean()) / 2
    for gap in found.values():
        assert random + sum(getattr(gap, s).value for s in STEPS) == pytest.approx(1, abs=1e-12)
    earned = metrics.audc(ranked["r"].curve()) - random
    assert found["r"].earned.value == pytest.approx(earned, abs=1e-12)
    assert found["flat"].earned.value == pytest.approx(0, abs=1e-12)
    oracle = rank(oracle_score(outcomes), outcomes)
    paired = hierarchical_difference([oracle], [ranked["r"]], resamples=40, seed=2)
    assert found["r"].ranking == paired


def test_the_gap_in_closed_form():
    """0/1 quality: the oracle lies (b^2 + c^2)/2 below the ceiling, on every resample too."""
    outcomes = make.outcomes(60)
    found = oracle_gap({"r": rank(make.tied_score(60), outcomes)}, outcomes, resamples=40)["r"]

    def forms(rows):
        small, large = outcomes.quality_small[rows], outcomes.quality_large[rows]
        b, c = np.mean((small == 0) & (large == 1)), np.mean((small == 1) & (large == 0))
        return (b**2 + c**2) / 2, 1 - np.mean(np.maximum(small, large))

    small_model, both = forms(slice(None))
    assert found.small_model.value == pytest.approx(small_model, abs=1e-12)
    assert found.both_models.value == pytest.approx(both, abs=1e-12)
    drawn = np.array([forms(repeated(weights_of(60, b))) for b in range(40)])
    for step, values in zip(("small_model", "both_models"), drawn.T, strict=True):
        got = getattr(found, step)
        assert (got.low, got.high) == pytest.approx(interval(values), abs=1e-12)


def test_no_step_is_negative_but_a_routers_own():
    outcomes = make.outcomes(50, graded=True)
    worst = rank(-oracle_score(outcomes), outcomes)
    gap = oracle_gap({"worst": worst}, outcomes, resamples=40)["worst"]
    assert gap.earned.high < 0
    assert min(gap.ranking.low, gap.small_model.low, gap.both_models.low) >= 0
