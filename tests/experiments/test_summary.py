"""Means, intervals, comparisons and curves of planted records, recomputed with plain NumPy."""

import csv
import dataclasses

import numpy as np
import pytest

from cat.config import Config, EvaluationConfig
from experiments import compare, grid, summary
from routers import metrics
from routers.base import Outcomes
from routers.bootstrap import resample_weights
from routers.curves import rank
from routers.metrics import audc

QUERIES, RESAMPLES, SEED = 60, 40, 3
CONFIG = Config(
    arms=("xent", "cat_xent"),
    seeds=(0, 1, 2),
    evaluation=EvaluationConfig(
        routers=("chow_average", "post_hoc:learner=booster"), bootstrap=RESAMPLES, seed=SEED
    ),
)


@dataclasses.dataclass(frozen=True)
class Planted:
    """One seed's test queries: the score and both qualities."""

    score: np.ndarray
    small: np.ndarray
    large: np.ndarray

    @property
    def ranked(self):
        flops = np.full(QUERIES, 1.0), np.full(QUERIES, 10.0)
        return rank(self.score, Outcomes(self.small, self.large, *flops))

    def area(self, rows=slice(None)) -> float:
        """Mean quality over all cuts of the ranking, by loops; the score has no ties.

        Repeated rows are equal scores: they move together, on a straight line.
        """
        score, small, large = self.score[rows], self.small[rows], self.large[rows]
        total, quality = 0.0, small.mean()
        for level in np.unique(score)[::-1]:
            here = score == level
            gain = (large[here] - small[here]).sum() / len(score)
            total += here.mean() * (quality + gain / 2)
            quality += gain
        return total


def planted(noise: float, seeds: int = 3, lift: float = 0.0) -> list[Planted]:
    """Queries whose difficulty the score sees through ``noise``; ``lift`` helps the small model."""
    hard = np.random.default_rng(0).random(QUERIES)
    large = (hard < 0.9).astype(float)
    made = []
    for seed in range(seeds):
        rng = np.random.default_rng([7, seed])
        small = (hard + 0.1 * rng.normal(size=QUERIES) < 0.5 + lift).astype(float)
        made.append(Planted(hard + noise * rng.normal(size=QUERIES), small, large))
    return made


def drawn_rows() -> list[np.ndarray]:
    """The queries of each resample, written out one by one."""
    streams = (np.random.SeedSequence(SEED, spawn_key=(0, b)) for b in range(RESAMPLES))
    weights = (resample_weights(QUERIES, np.random.default_rng(s)) for s in streams)
    return [np.repeat(np.arange(QUERIES), w) for w in weights]


def drawn_seeds() -> np.ndarray:
    """How often each of three seeds is drawn, for each resample."""
    stream = np.random.default_rng(np.random.SeedSequence(SEED, spawn_key=(1,)))
    return stream.multinomial(3, np.full(3, 1 / 3), size=RESAMPLES)


def ends(values) -> list[float]:
    """The 95 % interval of 40 values: one is left out on either side."""
    return [sorted(values)[1], sorted(values)[-2]]


def test_spread_is_the_mean_over_seeds_with_both_resampled():
    arms = planted(0.3)
    found = summary.spread([p.ranked for p in arms], {"audc": audc}, RESAMPLES, SEED)["audc"]
    areas = [p.area() for p in arms]
    assert found["per_seed"] == pytest.approx(areas, abs=1e-12)
    assert found["mean"] == pytest.approx(sum(areas) / 3, abs=1e-12)
    values = [
        sum(count * p.area(rows) for count, p in zip(times, arms, strict=True)) / 3
        for rows, times in zip(drawn_rows(), drawn_seeds(), strict=True)
    ]
    assert found["ci"] == pytest.approx(ends(values), abs=1e-12)


def test_spread_of_one_seed_has_the_width_the_normal_law_gives():
    one = planted(0.3, seeds=1)
    quality = {"quality": lambda curve: float(curve.quality[0])}
    found = summary.spread([one[0].ranked], quality, 4_000, 0)["quality"]
    deviation = one[0].small.std() / np.sqrt(QUERIES)
    low, high = found["ci"]
    assert high - low == pytest.approx(2 * 1.96 * deviation, rel=0.1)
    assert found["mean"] == pytest.approx(one[0].small.mean(), abs=1e-12)


def test_spread_is_none_where_a_seed_has_no_value():
    hopeless = [dataclasses.replace(p, small=np.zeros(QUERIES)) for p in planted(0.3, seeds=1)]
    ranked = [p.ranked for p in (*planted(0.3), *hopeless)]

    def metric(curve):
        return float(curve.quality[0]) or None

    assert summary.spread(ranked, {"m": metric}, 10, 0) == {"m": None}
    assert summary.spread(ranked[:3], {"m": metric}, 10, 0)["m"]["mean"] > 0


def test_without_resamples_there_is_no_interval():
    found = summary.spread([p.ranked for p in planted(0.3)], {"audc": audc}, 0, 0)["audc"]
    assert found["ci"] is None
    assert found["mean"] > 0


def rankings(**arms: list[Planted]) -> compare.Rankings:
    """The same ranking under two routers, and the reference lines."""
    made = {}
    for arm, seeds in arms.items():
        ranked = [p.ranked for p in seeds]
        constant = [dataclasses.replace(p, score=np.zeros(QUERIES)).ranked for p in seeds]
        learned = {"post_hoc:learner=booster": ranked}
        made[arm] = {"chow_average": ranked, **learned, "oracle": ranked, "random": constant}
    return made


def compared(made: compare.Rankings) -> list[dict]:
    return compare.compare(CONFIG, made, compare.areas(CONFIG, made))


def test_areas_are_compared_query_by_query_and_seed_by_seed():
    ours, theirs = planted(0.1, lift=0.05), planted(0.6)
    rows = compared(rankings(xent=theirs, cat_xent=ours))
    row = rows[0]
    named = {key: row[key] for key in ("arm", "against", "router", "metric")}
    assert named == {
        "arm": "cat_xent",
        "against": "xent",
        "router": "chow_average",
        "metric": "audc",
    }
    gap = np.mean([a.area() - b.area() for a, b in zip(ours, theirs, strict=True)])
    assert row["difference"] == pytest.approx(gap, abs=1e-12)
    values = [
        sum(
            count * (a.area(rows) - b.area(rows)) / 3
            for count, a, b in zip(times, ours, theirs, strict=True)
        )
        for rows, times in zip(drawn_rows(), drawn_seeds(), strict=True)
    ]
    assert row["ci"] == pytest.approx(ends(values), abs=1e-12)


def test_flops_at_equal_quality_are_read_off_both_curves():
    ours, theirs = planted(0.1, lift=0.05), planted(0.6)
    rows = compared(rankings(xent=theirs, cat_xent=ours))
    row = next(r for r in rows if r["metric"] == "flops_at_equal_quality")
    small = np.mean([p.small.mean() for p in theirs])
    target = small + 0.9 * (theirs[0].large.mean() - small)
    assert row["at_quality"] == pytest.approx(target, abs=1e-12)
    costs = [np.mean([first_cost(p, target) for p in side]) for side in (ours, theirs)]
    assert row["difference"] == pytest.approx(costs[0] / costs[1] - 1, abs=1e-9)


def test_resampled_flops_are_asked_for_a_quality_of_their_own_sample():
    ours, theirs = planted(0.1, seeds=1, lift=0.05), planted(0.6, seeds=1)
    ranked = [[p.ranked for p in side] for side in (ours, theirs)]
    for rows in drawn_rows()[:5]:
        weights = np.bincount(rows, minlength=QUERIES)
        target, found = compare.relative_flops(*ranked, weights)
        small, large = theirs[0].small[rows].mean(), theirs[0].large[rows].mean()
        assert target == pytest.approx(small + 0.9 * (large - small), abs=1e-12)
        flops = np.full(QUERIES, 1.0), np.full(QUERIES, 10.0)
        literal = [
            [rank(p.score[rows], Outcomes(p.small[rows], p.large[rows], *flops))]
            for p in (ours[0], theirs[0])
        ]
        again = compare.relative_flops(*literal)[1]
        assert found == pytest.approx(again, abs=1e-12)


def test_flops_of_a_quality_never_reached_are_not_compared():
    weak = [dataclasses.replace(p, large=p.small) for p in planted(0.3)]
    target, value = compare.relative_flops(
        [p.ranked for p in weak], [p.ranked for p in planted(0.6)]
    )
    assert target > weak[0].small.mean()
    assert value is None


def first_cost(p: Planted, target: float) -> float:
    """FLOPs where the curve first reaches a quality, on a grid of many points."""
    order = np.argsort(-p.score)
    gain = (p.large - p.small)[order]
    quality = p.small.mean() + np.append(0, np.cumsum(gain)) / QUERIES
    share = np.linspace(0, 1, QUERIES * 10_000 + 1)
    fine = np.interp(share, np.arange(QUERIES + 1) / QUERIES, quality)
    reached = share[np.flatnonzero(fine >= target - 1e-12)[0]]
    return 1.0 + 10.0 * reached


def test_which_pairs_are_compared():
    three = rankings(xent=planted(0.5), random_mask=planted(0.4), cat_xent=planted(0.3))
    rows = compared(three)
    told = [(r["arm"], r["against"], r["router"], r.get("against_router")) for r in rows]
    same = ("chow_average", "post_hoc:learner=booster")
    expected = [("random_mask", "xent", r, None) for r in (*same, "chow_average")]
    for against in ("xent", "random_mask"):
        expected += [("cat_xent", against, r, None) for r in (*same, "chow_average")]
    expected += [("cat_xent", "xent", "chow_average", "post_hoc:learner=booster")]
    assert told == expected
    assert [r["metric"] for r in rows].count("flops_at_equal_quality") == 3


def test_no_comparison_without_a_baseline_or_the_main_router():
    assert compared(rankings(cat_xent=planted(0.3))) == []
    both = rankings(xent=planted(0.5), cat_xent=planted(0.3))
    for arm in both.values():
        del arm["chow_average"]
    rows = compared(both)
    assert [(r["router"], r["metric"]) for r in rows] == [("post_hoc:learner=booster", "audc")]


def row(**changes) -> dict:
    base = {"arm": "cat_xent", "against": "xent", "router": "chow_average", "metric": "audc"}
    return base | {"difference": 0.02, "ci": [0.01, 0.03]} | changes


def test_findings_say_what_the_interval_says():
    above, below, nothing = compare.findings(
        [
            row(),
            row(difference=-0.02, ci=[-0.03, -0.01], against="random_mask"),
            row(difference=0.005, ci=[-0.01, 0.02], against_router="cat_router"),
        ]
    )
    assert above.endswith("+0.0200 [+0.0100, +0.0300] (above)")
    assert "against xent with chow_average" in above
    assert below.endswith("-0.0200 [-0.0300, -0.0100] (below)")
    assert "against random_mask" in below
    assert nothing.endswith("(no difference shown: the interval covers zero)")
    assert "against xent with cat_router" in nothing


@pytest.mark.parametrize("ci", [[0.0, 0.04], [-0.04, 0.0]])
def test_an_interval_that_touches_zero_shows_nothing(ci):
    assert "no difference shown" in compare.findings([row(difference=0.02, ci=ci)])[0]


def test_findings_leave_out_what_is_no_headline():
    others = [
        row(arm="gatekeeper"),
        row(router="length"),
        row(metric="flops_at_equal_quality"),
        row(ci=None),
        row(difference=None, ci=None),
    ]
    assert compare.findings(others) == []


def test_mean_curve_is_the_interpolated_curve_of_each_seed():
    arms = planted(0.3)
    found = grid.mean_curve([p.ranked.curve() for p in arms])
    rate = np.linspace(0, 1, 101)
    assert found["deferral_rate"] == pytest.approx(rate.tolist(), abs=1e-15)
    quality, flops = [], []
    for p in arms:
        gain = (p.large - p.small)[np.argsort(-p.score)]
        cuts = p.small.mean() + np.append(0, np.cumsum(gain)) / QUERIES
        quality.append(np.interp(rate, np.arange(QUERIES + 1) / QUERIES, cuts))
        flops.append(1 + 10 * rate)
    assert found["quality"] == pytest.approx(np.mean(quality, axis=0).tolist(), abs=1e-12)
    assert found["flops"] == pytest.approx(np.mean(flops, axis=0).tolist(), abs=1e-12)


def test_a_threshold_of_the_grid_defers_at_least_its_rate():
    one = planted(0.3)[0]
    made = grid.on_grid(one.ranked.curve())
    for rate, threshold in zip(grid.GRID, made["threshold"], strict=True):
        sent = np.mean(one.score >= threshold)
        assert rate - 1e-12 <= sent < rate + 1 / QUERIES


def test_resampled_away_points_change_nothing():
    one = planted(0.3)[0]
    rows = drawn_rows()[0]
    weighted = grid.on_grid(one.ranked.curve(np.bincount(rows, minlength=QUERIES)))
    literal = Planted(one.score[rows], one.small[rows], one.large[rows])
    flops = np.full(QUERIES, 1.0), np.full(QUERIES, 10.0)
    curve = rank(literal.score, Outcomes(literal.small, literal.large, *flops)).curve()
    np.testing.assert_allclose(weighted["quality"], grid.on_grid(curve)["quality"], atol=1e-12)


def test_the_file_of_a_curve(tmp_path):
    ranked = [p.ranked for p in planted(0.3)]
    grid.write_curve(tmp_path / "arm" / "r.csv", ranked, 100, 0)
    columns = read_csv(tmp_path / "arm" / "r.csv")
    mean = grid.mean_curve([r.curve() for r in ranked])
    assert columns["quality"] == pytest.approx(mean["quality"], rel=1e-8)
    assert columns["flops"] == pytest.approx(mean["flops"], rel=1e-8)
    low, high = np.array(columns["quality_lo"]), np.array(columns["quality_hi"])
    assert (low < high).all()
    inside = (low <= columns["quality"]) & (columns["quality"] <= high)
    assert inside.all()
    assert columns["threshold"][0] == np.inf
    # at full deferral nothing but the draw of the queries is left
    spread = planted(0.3)[0].large.std() / np.sqrt(QUERIES)
    assert high[-1] - low[-1] == pytest.approx(2 * 1.96 * spread, rel=0.3)


def test_a_curve_without_resamples_has_no_band(tmp_path):
    grid.write_curve(tmp_path / "r.csv", [p.ranked for p in planted(0.3)], 0, 0)
    columns = read_csv(tmp_path / "r.csv")
    assert np.isnan(columns["quality_lo"]).all()
    assert np.isnan(columns["quality_hi"]).all()
    assert np.isfinite(columns["quality"]).all()


def read_csv(path) -> dict[str, list[float]]:
    with path.open() as file:
        rows = list(csv.DictReader(file))
    return {name: [float(r[name]) for r in rows] for name in rows[0]}


def test_notes_warn_of_few_seeds_and_of_the_friendly_mix():
    data = {"notes": ["train: 3 examples left out"], "parameters": {"small": 10, "large": 200}}
    few = " ".join(summary.notes(CONFIG, data, {"hit_rate": None}))
    assert "3 seed(s)" in few
    assert "full mix" in few
    assert few.endswith("train: 3 examples left out")
    assert "5.0% of the large one per token" in few
    assert "memorised" not in few
    plain = dataclasses.replace(
        CONFIG,
        seeds=tuple(range(5)),
        data=dataclasses.replace(CONFIG.data, mix="feasible"),
    )
    calm = " ".join(summary.notes(plain, data | {"notes": []}, {"hit_rate": None}))
    assert "seed(s)" not in calm
    assert "full mix" not in calm
    for text in (few, calm):
        assert "sweep" in text
        assert "transfer points" in text
        assert "forward matmul FLOPs" in text


@pytest.mark.parametrize(("train", "said"), [(0.99, True), (0.51, False)])
def test_notes_warn_of_a_large_model_that_has_memorised(train, said):
    data = {"notes": [], "parameters": {"small": 10, "large": 200}}
    large = {"hit_rate": {"train": train, "validation": 0.5}}
    told = " ".join(summary.notes(CONFIG, data, large))
    assert ("memorised" in told) == said
    assert (f"{train:.1%} of its own training tokens" in told) == said


def test_savings_of_the_summary_are_those_of_the_curves():
    arms = planted(0.2)
    entry = {key: 0.5 for key in ("audc_random", "audc_oracle", "audc_normalised", "aucfc")}
    entry |= {"auroc_deferral": 0.5, "spearman_length": None, "transfer_at": None}
    found = summary._router(CONFIG, [p.ranked for p in arms], [entry] * 3)
    for level in ("0.5", "0.9", "1.0"):
        each = [metrics.flops_saving(p.ranked.curve(), float(level)) for p in arms]
        assert found["flops_saving_at_quality"][level]["per_seed"] == each
    assert found["transfer"] == []
    assert found["spearman_length"] is None
    assert found["aucfc"] == 0.5
