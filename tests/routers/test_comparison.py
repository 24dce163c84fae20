"""Every number of ``cascade compare``, against the functions it comes from."""

import dataclasses
import json

import make
import numpy as np
import pytest

from routers import metrics
from routers.base import Router
from routers.build import build
from routers.comparison import compare_records
from routers.curves import oracle_score
from routers.diagnosis import detection, length_bias, oracle_gap
from routers.drift import score_drift, task_drift
from routers.errors import InputError
from routers.evaluate import evaluate
from routers.paired import hierarchical_difference
from routers.power import detectable_difference, queries_for_difference
from routers.records import Records, pair
from routers.significance import compare

ROUTERS = ["chow_average", "chow_sum", "prompt", "oracle"]
COUNTS = {"resamples": 100, "permutations": 200}


def routers(names=ROUTERS):
    return {name: build(name) for name in names}


@pytest.fixture(scope="module")
def records():
    return make.records(150)


@pytest.fixture(scope="module")
def found(records):
    return compare_records(records, routers(), seed=3, worthwhile=0.02, **COUNTS)


@pytest.fixture(scope="module")
def done(records):
    return evaluate(records, routers(), bootstrap=0)


def test_it_is_json_and_says_how_it_was_made(found):
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["small"], found["large"]) == ("small", "large")
    assert (found["n_fit"], found["n_test"]) == (150, 150)
    asked = {"seed": 3, "worthwhile": 0.02, "power": 0.8, "level": 0.05}
    assert found["settings"] == COUNTS | asked


def test_pairs_are_the_paired_comparisons(found, done):
    _, want = compare(done.ranked, seed=3, **COUNTS)
    assert len(found["comparisons"]) == 6
    for row, pair_ in zip(found["comparisons"], want, strict=True):
        a, b = done.ranked[row["a"]], done.ranked[row["b"]]
        change = hierarchical_difference([a], [b], resamples=100, seed=3)
        assert (row["difference"], row["ci"]) == (change.value, [change.low, change.high])
        names = ("p_bootstrap", "p_permutation", "p_holm")
        assert [row[n] for n in names] == [getattr(pair_, n) for n in names]
        assert row["queries_needed"] == queries_for_difference(pair_.per_query, 0.02)
        assert row["detectable"] == detectable_difference(pair_.per_query, 150)


def test_routers_come_by_falling_area_with_their_diagnoses(found, done):
    areas = [row["audc"] for row in found["routers"].values()]
    assert areas == sorted(areas, reverse=True)
    assert next(iter(found["routers"])) == "oracle"
    draws = {"resamples": 100, "seed": 3}
    aurocs = detection(done.scores, done.outcomes, **draws)
    lengths = length_bias(done.scores, done.inputs.response_tokens, **draws)
    gaps = oracle_gap(done.ranked, done.outcomes, **draws)
    for name, row in found["routers"].items():
        assert row["audc"] == metrics.audc(done.curves[name])
        for key, value in (
            ("auroc_wrong", aurocs[name]["wrong"]),
            ("auroc_helped", aurocs[name]["helped"]),
            ("spearman_length", lengths[name]),
        ):
            assert (row[key], row[f"{key}_ci"]) == (value.value, [*value.interval])
        for step, values in row["oracle_gap"].items():
            want = getattr(gaps[name], step)
            assert values == {"value": want.value, "ci": [want.low, want.high]}
    assert {n: row["peeks"] for n, row in found["routers"].items() if row["peeks"]} == {
        "oracle": True
    }
    assert found["routers"]["prompt"]["learned"] is True


def test_evaluate_says_the_same_of_each_router(found, records):
    entries = evaluate(records, routers(), bootstrap=100, seed=3).summary["routers"]
    for name, row in found["routers"].items():
        other = entries[name]
        assert row["audc"] == other["audc"]
        assert row["audc_ci"] == pytest.approx(other["audc_ci"], abs=1e-12)
        assert row["auroc_helped"] == pytest.approx(other["auroc_deferral"], abs=1e-12)
        assert row["spearman_length"] == other["spearman_length"]


def test_drift_is_between_the_splits_a_threshold_crosses(found, done, records):
    fit, _ = pair(records, "small", "large", "validation")
    for name in ("chow_average", "prompt"):
        router = done.routers[name]
        want = score_drift(router.score(fit.at_stage(router.stage)), done.scores[name])
        row = found["routers"][name]["drift"]
        assert (row["distance"], row["p"], row["psi"]) == (want.distance, want.p, want.psi)
        assert (row["verdict"], row["sentence"]) == (want.verdict, want.sentence)
    assert found["routers"]["oracle"]["drift"] is None
    mix = task_drift(fit.task, done.inputs.task, seed=3)
    assert (found["task_mix"]["p"], found["task_mix"]["sentence"]) == (mix.p, mix.sentence)


def test_the_gain_is_measured_against_length_too(found, done):
    gain = {"gain": oracle_score(done.outcomes)}
    want = length_bias(gain, done.inputs.response_tokens, resamples=100, seed=3)["gain"]
    assert found["length"] == {
        "spearman_gain": want.value,
        "spearman_gain_ci": [*want.interval],
    }


def test_a_ready_made_score_and_no_fit_split(records):
    """The least a log can have: no tokens, no lengths, no validation; two score columns."""
    columns = make.minimal(60)
    columns["score:other"] = [*range(60), *([None] * 60)]
    log = Records(make.table(columns), {})
    found = compare_records(log, {}, small="a", large="b", **COUNTS)
    assert set(found["routers"]) == {"mine", "other"}
    for row in found["routers"].values():
        assert row["drift"] is None
        assert row["spearman_length"] is row["spearman_length_ci"] is None
    assert (found["length"], found["task_mix"], found["n_fit"]) == (None, None, 0)
    assert json.dumps(found, allow_nan=False)


class Flat(Router):
    """The same score for everything."""

    def score(self, inputs):
        return np.zeros(len(inputs))


def test_two_constants_are_the_same_and_nothing_is_nan(records):
    found = compare_records(records, {"a": Flat(), "b": Flat()}, **COUNTS)
    (row,) = found["comparisons"]
    assert (row["difference"], row["ci"], row["p_holm"]) == (0.0, [0.0, 0.0], 1.0)
    assert (row["queries_needed"], row["detectable"]) == (None, 0.0)
    assert found["routers"]["a"]["spearman_length"] is None
    assert found["routers"]["a"]["auroc_wrong"] == pytest.approx(0.5, abs=1e-12)
    assert found["routers"]["a"]["drift"]["distance"] == 0.0
    assert json.dumps(found, allow_nan=False)


@dataclasses.dataclass(frozen=True)
class Warped(Router):
    """Chow-Average on another scale: the same ranking."""

    def score(self, inputs):
        return np.exp(build("chow_average").score(inputs))


def test_a_scale_changes_no_comparison_and_no_diagnosis(records):
    rows = []
    for router in (build("chow_average"), Warped()):
        found = compare_records(records, {"it": router, "margin": build("margin")}, **COUNTS)
        kept = found["routers"]["it"]
        rows.append((found["comparisons"], {k: v for k, v in kept.items() if k != "drift"}))
        assert kept["drift"]["distance"] > 0
    assert rows[0] == rows[1]


def test_it_depends_on_the_seed_alone(records):
    names = routers(["chow_average", "margin"])
    first, again, other = (compare_records(records, names, seed=k, **COUNTS) for k in (0, 0, 1))
    assert first == again
    assert first["comparisons"][0]["ci"] != other["comparisons"][0]["ci"]


@pytest.mark.parametrize(
    ("names", "counts", "says"),
    [
        (["chow_average"], {}, "1 router to compare"),
        (["chow_average", "margin"], {"resamples": 20}, "20 resamples cannot bound"),
        (["chow_average", "margin"], {"worthwhile": 0.0}, "give a positive one"),
        (["chow_average", "margin"], {"fit_split": "test"}, "two different splits"),
    ],
)
def test_what_cannot_be_compared_is_refused(records, names, counts, says):
    with pytest.raises(InputError, match=says):
        compare_records(records, routers(names), **(COUNTS | counts))
