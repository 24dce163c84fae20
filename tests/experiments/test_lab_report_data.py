import dataclasses

import fake_lab
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments import lab_data
from routers.build import build
from routers.diagnosis import oracle_gap
from routers.errors import InputError
from routers.evaluate import evaluate
from routers.operating_point import calibrate
from routers.paired import hierarchical_difference
from routers.records import pair, read
from routers.targets import Target
from routers.thresholds import achieved, for_deferral_rate


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return fake_lab.make(tmp_path_factory.mktemp("lab") / "log.parquet")


@pytest.fixture(scope="module")
def lab(made):
    return made[0]


def by_name(lab):
    return {router.name: router for router in lab.routers}


def test_routers_come_by_area_and_references_last(lab):
    areas = [router.entry["audc"] for router in lab.deployable]
    assert areas == sorted(areas, reverse=True)
    assert [router.name for router in lab.routers][-1] == "oracle"
    assert {router.name for router in lab.deployable} == {"mine", "length", "knn:k=20", "random"}
    assert by_name(lab)["mine"].spec == "score:mine"
    assert by_name(lab)["length"].spec == "length"


def test_short_curves_are_drawn_whole(lab, made):
    _, done, _ = made
    for router in lab.routers:
        curve = done.curves[router.name]
        assert len(curve.threshold) <= lab_data.SWEEP_POINTS
        np.testing.assert_array_equal(router.sweep.threshold, curve.threshold)
        np.testing.assert_allclose(router.sweep.quality, curve.quality, rtol=1e-12)
        np.testing.assert_allclose(router.sweep.cost, curve.cost, rtol=1e-12)
    np.testing.assert_allclose(lab.oracle.quality, done.references["oracle"].quality, rtol=1e-12)
    np.testing.assert_allclose(lab.random.cost, done.references["random"].cost, rtol=1e-12)


def test_long_curves_are_thinned_onto_themselves(tmp_path, monkeypatch):
    monkeypatch.setattr(lab_data, "SWEEP_POINTS", 20)
    lab, done, _ = fake_lab.make(tmp_path / "log.parquet", ["random"], bootstrap=0)
    curve, drawn = done.curves["random"], by_name(lab)["random"].sweep
    assert len(curve.threshold) == fake_lab.N_TEST + 1
    assert len(drawn.threshold) == 20
    at = np.searchsorted(curve.deferral_rate, drawn.deferral_rate - 1e-9)
    np.testing.assert_allclose(drawn.quality, curve.quality[at], rtol=1e-12)


@pytest.mark.parametrize("name", ["length", "knn:k=20", "random"])
def test_operating_points_are_what_calibrate_deploys(lab, made, name):
    _, _, records = made
    inputs, outcomes = pair(records, "S", "L", "test")
    points = by_name(lab)[name].operate
    for k in (0, 7, 29, 50, 93, 100):
        policy = calibrate(records, build(name), Target(deferral_rate=lab_data.RATES[k]))
        assert points.threshold[k] == policy.threshold
        sent = policy.decide(inputs)
        assert points.deferral_rate[k] == sent.mean()
        served = np.where(sent, outcomes.quality_large, outcomes.quality_small)
        assert points.quality[k] == pytest.approx(served.mean(), abs=1e-12)
        assert points.change[k] == pytest.approx(np.mean(served - outcomes.quality_large), abs=1e-9)
        assert points.large_cost[k] == pytest.approx(np.mean(sent * outcomes.flops_large), rel=1e-9)


def test_a_columns_threshold_comes_from_the_fit_split(lab, made):
    _, done, records = made
    fit, _ = pair(records, "S", "L", "validation")
    points = by_name(lab)["mine"].operate
    for k in (10, 55):
        threshold = for_deferral_rate(fit.scores["mine"], k / 100)
        assert points.threshold[k] == threshold
        wanted = achieved(threshold, done.scores["mine"], done.outcomes)
        assert points.quality[k] == pytest.approx(wanted.quality, abs=1e-12)


def test_test_outcomes_move_no_threshold(made, tmp_path):
    lab, _, records = made
    table = records.table
    is_test = np.array(table["split"].to_pylist()) == "test"
    quality = np.where(is_test, 1 - table["quality"].to_numpy(), table["quality"].to_numpy())
    place = table.schema.get_field_index("quality")
    flipped = table.set_column(place, "quality", pa.array(quality, table.schema.types[place]))
    other = dataclasses.replace(records, table=flipped)
    settings = {"fit_split": "validation", "test_split": "test", "bootstrap": 0, "seed": 0}
    done = evaluate(other, {"knn:k=20": build("knn:k=20")}, **settings)
    found = by_name(lab_data.gather(done, other, [], **settings))
    for name in ("mine", "knn:k=20"):
        ours, theirs = by_name(lab)[name].operate, found[name].operate
        np.testing.assert_array_equal(ours.threshold, theirs.threshold)
        assert not np.array_equal(ours.quality, theirs.quality)


def test_routers_that_peek_have_no_operating_point(lab):
    oracle = by_name(lab)["oracle"]
    assert oracle.peeks
    assert oracle.operate is None
    assert oracle.behind is None


def test_without_a_fit_split_the_sweep_is_read(tmp_path):
    log = fake_lab.columns(n_fit=0)
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table(log), path)
    records = read([path])
    settings = {"fit_split": "validation", "test_split": "test", "bootstrap": 0, "seed": 0}
    done = evaluate(records, {"length": build("length")}, **settings)
    lab = lab_data.gather(done, records, [path], **settings)
    assert not lab.transfer
    assert not lab.intervals
    points = by_name(lab)["length"].operate
    policy = calibrate(records, build("length"), Target(deferral_rate=0.4), split="test")
    assert points.threshold[40] == policy.threshold
    assert points.quality[40] == pytest.approx(policy.about["quality"], abs=1e-12)


def test_gaps_and_distances_are_those_of_the_statistics(lab, made):
    _, done, _ = made
    gaps = oracle_gap(done.ranked, done.outcomes, resamples=100, seed=0)
    first, *others = lab.deployable
    assert first.behind is None
    for router in others:
        assert router.gap == gaps[router.name]
        wanted = hierarchical_difference(
            [done.ranked[first.name]], [done.ranked[router.name]], resamples=100, seed=0
        )
        assert router.behind == wanted
        assert router.behind.value == pytest.approx(first.entry["audc"] - router.entry["audc"])


def test_the_four_steps_lead_from_random_to_one(lab):
    for router in lab.routers:
        steps = [step.value for step in vars(router.gap).values()]
        assert router.entry["audc_random"] + sum(steps) == pytest.approx(1, abs=1e-12)
        room = router.gap.earned.value + router.gap.ranking.value
        share = router.gap.earned.value / room
        assert router.entry["audc_normalised"] == pytest.approx(share, abs=1e-9)


def test_panels_are_the_tasks_the_largest_effect_first(lab, made):
    _, done, _ = made
    assert {panel.task for panel in lab.panels} == set(fake_lab.TASKS)
    effects = [panel.effect for panel in lab.panels]
    assert effects == sorted(effects, reverse=True)
    leader = lab.routers[0].name
    for panel in lab.panels:
        rows = np.flatnonzero(done.inputs.task == panel.task)
        assert panel.n == len(rows)
        entry = done.summary["tasks"][panel.task]["routers"][leader]
        assert panel.effect == pytest.approx(entry["audc"] - entry["audc_random"], abs=1e-15)
        assert set(panel.curves) == {router.name for router in lab.routers}
        for name, curve in panel.curves.items():
            assert len(curve.threshold) <= lab_data.TASK_POINTS
            score = done.scores[name][rows]
            for k in (0, len(curve.threshold) // 2, -1):
                sent = score >= curve.threshold[k]
                part = done.outcomes.take(rows)
                served = np.where(sent, part.quality_large, part.quality_small)
                assert curve.quality[k] == pytest.approx(served.mean(), abs=1e-12)
        ends = done.summary["tasks"][panel.task]["quality"]
        assert panel.random.quality.tolist() == pytest.approx([ends["small"], ends["large"]])


def test_without_tasks_there_are_no_panels(tmp_path):
    lab, _, _ = fake_lab.make(tmp_path / "log.parquet", ["length"], by_task=False, bootstrap=0)
    assert lab.panels == []


def test_too_few_queries_to_halve_is_one_line(tmp_path):
    with pytest.raises(InputError, match="too few to fit a learned router") as caught:
        fake_lab.make(tmp_path / "log.parquet", ["knn:k=20"], n_fit=1, bootstrap=0)
    assert "\n" not in str(caught.value)
