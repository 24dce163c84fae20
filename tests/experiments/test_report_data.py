import json

import fake_run
import numpy as np
import pytest

from experiments import report_data
from experiments.report_data import Curve, choose, flops_at_quality, read
from routers.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return fake_run.make(tmp_path_factory.mktemp("run"))


@pytest.fixture
def own(tmp_path):
    """A run of its own, for a test that changes files."""
    return fake_run.make(tmp_path / "own", queries=90, steps=3)


def changed(folder, **parts):
    """The run with parts of its summary replaced; None removes one."""
    summary = json.loads((folder / "summary.json").read_text()) | parts
    fake_run.write(folder, {k: v for k, v in summary.items() if v is not None})
    return read(folder)


def straight(quality, flops=None):
    k = len(quality)
    rate = np.linspace(0, 1, k)
    flops = 1.0 + 9.0 * rate if flops is None else np.array(flops, float)
    nothing = np.full(k, np.nan)
    return Curve(rate, np.array(quality, float), nothing, nothing, flops, nothing)


def test_reads_arms_routers_and_curves_in_the_summarys_order_and_names(folder):
    run = read(folder)
    assert run.arms == list(fake_run.ARMS)
    assert run.routers == ["chow_average", "chow_sum", "post_hoc:learner=mlp"]
    assert set(run.curves["xent"]) == {*fake_run.ROUTERS, "oracle", "random"}
    assert (folder / "curves" / "xent" / "post_hoc-learner=mlp.csv").exists()
    assert run.points("xent")[0] == fake_run.SMALL_FLOPS
    assert run.large_flops == fake_run.LARGE_FLOPS
    for arm in run.arms:
        for router in run.routers:
            said = run.result(arm, router)["audc"]["mean"]
            assert run.curves[arm][router].audc == pytest.approx(said, abs=1e-12)


def test_baseline_is_xent_or_the_first_arm(folder):
    run = read(folder)
    assert run.baseline == "xent"
    kept = {arm: run.summary["arms"][arm] for arm in ("random_mask", "cat_xent")}
    assert changed_copy(run, arms=kept).baseline == "random_mask"


def changed_copy(run, **parts):
    import dataclasses

    return dataclasses.replace(run, summary=run.summary | parts)


def test_flops_at_quality_is_the_first_crossing_of_the_drawn_line():
    rng = np.random.default_rng(1)
    for _ in range(50):
        curve = straight(rng.uniform(size=12).cumsum() / 12 + rng.normal(0, 0.05, 12))
        target = float(rng.uniform(0, 1))
        dense = np.linspace(1.0, 10.0, 900_001)
        reached = np.interp(dense, curve.flops, curve.quality) >= target
        expected = dense[np.argmax(reached)] if reached.any() else None
        assert flops_at_quality(curve, target) == (
            None if expected is None else pytest.approx(expected, abs=2e-5)
        )


@pytest.mark.parametrize(
    ("quality", "target", "expected"),
    [
        ([0.2, 0.6, 0.4, 0.8], 0.6, 4.0),  # reached exactly at a point
        ([0.2, 0.6, 0.4, 0.8], 0.5, 1 + 3 * 0.75),  # first of three crossings
        ([0.5, 0.6], 0.5, 1.0),  # the small model alone is enough
        ([0.5, 0.6], 0.61, None),  # never: no extrapolation
        ([0.5, 0.5, 0.5], 0.5, 1.0),
    ],
)
def test_flops_at_quality_at_its_edges(quality, target, expected):
    found = flops_at_quality(straight(quality), target)
    assert found == (None if expected is None else pytest.approx(expected, abs=1e-12))


def test_choose_takes_chow_average_everywhere_and_the_best_learned_router_on_the_baseline(folder):
    pairs = choose(read(folder))
    assert pairs == [
        ("xent", "chow_average"),
        ("cat_xent", "chow_average"),
        ("random_mask", "chow_average"),
        ("xent", "post_hoc:learner=mlp"),
    ]


def test_choose_prefers_the_learned_router_with_the_larger_area(own):
    best = (own / "curves" / "xent" / "oracle.csv").read_text()
    (own / "curves" / "xent" / "cat_router.csv").write_text(best)
    assert choose(read(own))[-1] == ("xent", "cat_router")


def test_choose_draws_what_was_asked_for(folder):
    run = read(folder)
    assert choose(run, arms=["cat_xent"]) == [("cat_xent", "chow_average")]
    assert choose(run, ["xent"], ["chow_sum"]) == [("xent", "chow_sum")]
    assert len(choose(run, routers=["chow_sum", "chow_average"])) == 6


@pytest.mark.parametrize("asked", [{"arms": ["cat_xnet"]}, {"routers": ["chow_avrage"]}])
def test_choose_names_the_nearest_known_word(folder, asked):
    with pytest.raises(InputError, match=r"did you mean '(cat_xent|chow_average)'") as caught:
        choose(read(folder), **asked)
    assert "\n" not in str(caught.value)


def test_choose_without_any_curve_says_what_to_do(own):
    for path in (own / "curves").rglob("*.csv"):
        path.unlink()
    with pytest.raises(InputError, match="run evaluation first"):
        choose(read(own))


def test_training_log_sums_counts_over_seeds_before_dividing(folder):
    run = read(folder)
    for arm in run.arms:
        rows = [
            json.loads(line)
            for seed in (0, 1)
            for line in (folder / f"arms/{arm}/seed{seed}/metrics.jsonl").read_text().splitlines()
        ]
        log = run.training[arm]
        assert log.step.tolist() == list(range(1, 61))
        for t, step in enumerate(log.step):
            here = [row for row in rows if row["step"] == step]
            total = sum(row[cell] for row in here for cell in report_data.CELLS)
            for c, cell in enumerate(report_data.CELLS):
                expected = sum(row[cell] for row in here) / total
                assert log.shares[c, t] == pytest.approx(expected, abs=1e-12)
            kept = [row["keep_rate"] for row in here]
            assert log.keep_rate[t] == pytest.approx(sum(kept) / len(kept), abs=1e-12)


def test_long_logs_are_binned_without_losing_a_count(tmp_path):
    rng = np.random.default_rng(2)
    counts = rng.integers(1, 50, (1000, 4))
    path = tmp_path / "metrics.jsonl"
    rows = [
        {"step": s, "keep_rate": 0.5, **dict(zip(report_data.CELLS, map(int, row), strict=True))}
        for s, row in enumerate(counts)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    log = report_data._log([report_data._steps(path)])
    assert len(log.step) == report_data.LOG_POINTS
    np.testing.assert_allclose(log.shares.sum(0), 1.0, rtol=0, atol=1e-12)
    edges = np.cumsum([len(b) for b in np.array_split(np.arange(1000), report_data.LOG_POINTS)])
    first = counts[: edges[0]].sum(0)
    np.testing.assert_allclose(log.shares[:, 0], first / first.sum(), rtol=0, atol=1e-12)


def test_a_step_written_twice_counts_once_with_its_last_row(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "keep_rate": 0.1}\n{"step": 1, "keep_rate": 0.7}\n')
    log = report_data._log([report_data._steps(path)])
    assert log.keep_rate.tolist() == [0.7]
    assert np.isnan(log.shares).all()


def test_an_empty_log_is_an_empty_line(own):
    (own / "arms" / "xent" / "seed0" / "metrics.jsonl").write_text("")
    (own / "arms" / "xent" / "seed1" / "metrics.jsonl").write_text("")
    assert read(own).training["xent"].shares.shape == (4, 0)


def test_a_broken_log_line_is_named(own):
    (own / "arms" / "xent" / "seed1" / "metrics.jsonl").write_text('{"step": 1}\n{"st')
    with pytest.raises(InputError, match=r"seed1/metrics\.jsonl: line 2 .*delete"):
        read(own)


def test_a_folder_that_is_no_run_says_so(tmp_path):
    with pytest.raises(InputError, match=r"summary\.json: not found; run `cascade run`"):
        read(tmp_path)


@pytest.mark.parametrize("part", ["name", "arms", "large"])
def test_required_parts_are_required(own, part):
    with pytest.raises(InputError, match=f"no '{part}'"):
        changed(own, **{part: None})


def test_large_needs_its_point(own):
    with pytest.raises(InputError, match=r"lacks quality\.mean or flops|needs quality\.mean"):
        changed(own, large={"flops": 1.0})


def test_everything_else_may_be_missing(tmp_path):
    large = {"quality": {"mean": 0.5}, "flops": 2.0}
    fake_run.write(tmp_path, {"name": "bare", "arms": {"a": {}}, "large": large})
    run = read(tmp_path)
    assert (run.config, run.curves, run.training, run.routers) == ({}, {"a": {}}, {}, [])
    assert run.points("a") is None


def test_broken_json_names_file_and_line(own):
    (own / "summary.json").write_text('{"name":\n nope')
    with pytest.raises(InputError, match=r"summary\.json: not JSON \(line 2\)"):
        read(own)


def test_a_curve_without_a_column_or_with_a_word_is_named(own):
    path = own / "curves" / "xent" / "chow_sum.csv"
    path.write_text("deferral_rate,quality\n0,0.1\n")
    with pytest.raises(InputError, match=r"chow_sum\.csv: no column quality_lo, quality_hi"):
        read(own)
    path.write_text("deferral_rate,quality,quality_lo,quality_hi,flops,threshold\n0,a,,,1,inf\n")
    with pytest.raises(InputError, match=r"chow_sum\.csv: could not convert"):
        read(own)


def test_blank_intervals_and_infinite_thresholds_are_read(own):
    path = own / "curves" / "xent" / "chow_sum.csv"
    path.write_text("deferral_rate,quality,quality_lo,quality_hi,flops,threshold\n0,0.1,,,1,inf\n")
    curve = read(own).curves["xent"]["chow_sum"]
    assert np.isnan(curve.quality_lo).all()
    assert np.isposinf(curve.threshold).all()
