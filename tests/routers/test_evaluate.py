"""The whole evaluation, against its parts and against scikit-learn-like expectations."""

import csv
import dataclasses
import json
import subprocess
import sys

import make
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from routers import metrics, thresholds
from routers.base import Router
from routers.bootstrap import interval, replicates
from routers.column import Column
from routers.curves import deferral_curve
from routers.errors import InputError
from routers.evaluate import evaluate, write_curves
from routers.paired import hierarchical_difference
from routers.records import Records, pair
from routers.schema import normalise

KEYS = {
    "audc", "audc_ci", "audc_random", "audc_oracle", "audc_normalised", "apgr", "cpt", "aucfc",
    "aucfc_ci", "qnc", "aiq", "auroc_deferral", "spearman_length", "flops_saving_at_quality",
    "flops_saving_at_quality_ci", "transfer", "transfer_at", "stage", "peeks", "curve_csv",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Average(Router):
    """Mean negative log-probability; nothing learned."""

    def score(self, inputs):
        sums = np.add.reduceat(inputs.token_logprob.values, inputs.token_logprob.offsets[:-1])
        return -(sums / inputs.token_logprob.lengths).astype(np.float64)


@dataclasses.dataclass(frozen=True)
class TaskMean(Router):
    """Mean gain of the task on the fit split; prompt stage; costs 5 FLOPs a query."""

    stage = "prompt"
    learned = True
    gain_: dict | None = None

    def fit(self, inputs, outcomes):
        assert inputs.token_logprob is None  # at prompt stage nothing else is known
        tasks = set(inputs.task.tolist())
        means = {t: float(outcomes.gain[inputs.task == t].mean()) for t in tasks}
        return dataclasses.replace(self, gain_=means)

    def score(self, inputs):
        assert inputs.token_logprob is None
        return np.array([self.gain_[t] for t in inputs.task.tolist()])

    def flops_per_query(self, inputs):
        return np.full(len(inputs), 5.0)


@dataclasses.dataclass(frozen=True)
class Oracle(Router):
    """Looks at the answers."""

    learned = True
    peeks = True
    gain_: dict | None = None

    def fit(self, inputs, outcomes):
        known = dict(zip(inputs.query_id.tolist(), outcomes.gain.tolist(), strict=True))
        return dataclasses.replace(self, gain_=known)

    def score(self, inputs):
        return np.array([self.gain_[q] for q in inputs.query_id.tolist()])


@dataclasses.dataclass(frozen=True)
class Broken(Router):
    def score(self, inputs):
        return np.where(np.arange(len(inputs)) == 2, np.nan, 0.0)


ROUTERS = {"average": Average(), "task": TaskMean(), "oracle": Oracle()}


@pytest.fixture(scope="module")
def records():
    return make.records(90)


@pytest.fixture(scope="module")
def found(records):
    return evaluate(records, ROUTERS, bootstrap=50, by_task=True)


def test_summary_has_the_documented_shape(found):
    summary = json.loads(json.dumps(found.summary, allow_nan=False))
    assert summary == found.summary  # JSON values already: nothing is converted or lost
    head = {"small", "large", "n_fit", "n_test", "quality", "flops", "cost_unit", "routers"}
    assert set(summary) == head | {"tasks", "macro"}
    assert (summary["small"], summary["large"]) == ("small", "large")
    assert (summary["n_fit"], summary["n_test"]) == (90, 90)
    assert set(summary["quality"]) == {"small", "large", "oracle"}
    assert set(summary["flops"]) == {"small", "large"}
    assert set(summary["routers"]) == set(ROUTERS)
    for entry in summary["routers"].values():
        assert set(entry) == KEYS
        assert set(entry["cpt"]) == {"0.2", "0.5", "0.8"}
        assert set(entry["flops_saving_at_quality"]) == {"0.5", "0.9", "1.0"}
        assert len(entry["audc_ci"]) == 2


def test_numbers_are_those_of_the_parts(records, found):
    inputs, outcomes = pair(records, "small", "large", "test")
    score = Average().score(inputs)
    curve = deferral_curve(score, outcomes)
    entry = found.summary["routers"]["average"]
    close = {"abs": 1e-12}
    assert entry["audc"] == pytest.approx(metrics.audc(curve), **close)
    assert entry["audc_random"] == pytest.approx(metrics.audc_random(curve), **close)
    assert entry["audc_oracle"] == pytest.approx(metrics.audc_oracle(outcomes), **close)
    assert entry["apgr"] == pytest.approx(metrics.apgr(curve), **close)
    assert entry["cpt"]["0.8"] == pytest.approx(metrics.cpt(curve, 0.8), **close)
    assert entry["aucfc"] == pytest.approx(metrics.aucfc(curve), **close)
    assert entry["qnc"] == pytest.approx(metrics.qnc(curve), **close)
    assert entry["aiq"] == pytest.approx(metrics.aiq(curve), **close)
    assert entry["auroc_deferral"] == pytest.approx(
        metrics.auroc(score, outcomes.gain > 0), **close
    )
    saving = metrics.flops_saving(curve, 0.9)
    assert entry["flops_saving_at_quality"]["0.9"] == pytest.approx(saving, **close)
    rank_length = metrics.spearman(score, inputs.response_tokens)
    assert entry["spearman_length"] == pytest.approx(rank_length, **close)
    both = np.stack([outcomes.quality_small, outcomes.quality_large])
    assert list(found.summary["quality"].values()) == pytest.approx(
        [both[0].mean(), both[1].mean(), both.max(axis=0).mean()], **close
    )
    np.testing.assert_array_equal(found.scores["average"], score)
    np.testing.assert_array_equal(found.curves["average"].quality, curve.quality)


def test_intervals_are_the_paired_bootstrap(found):
    measured = {"audc": metrics.audc, "aucfc": metrics.aucfc}
    drawn = replicates(found.ranked, measured, resamples=50)
    for name, entry in found.summary["routers"].items():
        assert entry["audc_ci"] == list(interval(drawn[name]["audc"]))
        assert entry["aucfc_ci"] == list(interval(drawn[name]["aucfc"]))
        low, high = entry["audc_ci"]
        assert low <= entry["audc"] <= high
        assert high > low


def test_peeking_router_reaches_the_oracle_and_has_no_transfer(found):
    entry = found.summary["routers"]["oracle"]
    assert entry["audc"] == pytest.approx(entry["audc_oracle"], abs=1e-12)
    assert entry["audc_normalised"] == pytest.approx(1.0, abs=1e-12)
    assert entry["peeks"]
    assert entry["transfer"] is None
    assert entry["transfer_at"] is None
    for other in found.summary["routers"].values():
        assert other["audc"] <= entry["audc"] + 1e-12


def test_prompt_stage_router_is_fitted_blind_and_charged(found):
    curve, tiers = found.curves["task"], found.summary["flops"]
    assert curve.cost[0] == pytest.approx(tiers["small"] + 5, rel=1e-12)
    assert curve.cost[-1] == pytest.approx(tiers["large"] + 5, rel=1e-12)
    assert len(curve.cost) == 4  # three tasks, three scores
    response = found.curves["average"]
    assert response.cost[-1] == pytest.approx(tiers["small"] + tiers["large"], rel=1e-12)


def test_transfer_takes_its_threshold_from_the_fit_split(records, found):
    (fit, _), (test, outcomes) = (
        pair(records, "small", "large", split) for split in ("validation", "test")
    )
    for rate in (0.2, 0.5, 0.8):
        threshold = thresholds.for_deferral_rate(Average().score(fit), rate)
        defer = Average().score(test) >= threshold
        point = found.summary["routers"]["average"]["transfer_at"][str(rate)]
        assert point["target_rate"] == rate
        assert point["threshold"] == threshold
        assert point["deferral_rate"] == pytest.approx(defer.mean(), abs=1e-12)
        quality = np.where(defer, outcomes.quality_large, outcomes.quality_small).mean()
        assert point["quality"] == pytest.approx(quality, abs=1e-12)
        flops = (outcomes.flops_small + defer * outcomes.flops_large).mean()
        assert point["flops"] == pytest.approx(flops, rel=1e-12)
    main = found.summary["routers"]["average"]["transfer"]
    assert main == found.summary["routers"]["average"]["transfer_at"]["0.5"]


def test_transfer_threshold_of_nothing_deferred_is_null():
    """Three tied groups: no threshold defers at most a fifth, and JSON has no infinity."""
    entry = evaluate(make.records(30), {"t": TaskMean()}, bootstrap=0).summary["routers"]["t"]
    assert entry["transfer_at"]["0.2"]["threshold"] is None
    assert entry["transfer_at"]["0.2"]["deferral_rate"] == 0.0


def test_each_task_is_an_evaluation_of_its_rows(records, found):
    inputs, outcomes = pair(records, "small", "large", "test")
    assert set(found.summary["tasks"]) == {"copy", "facts", "sum"}
    for task, part in found.summary["tasks"].items():
        rows = np.flatnonzero(inputs.task == task)
        curve = deferral_curve(Average().score(inputs)[rows], outcomes.take(rows))
        assert part["n_test"] == len(rows)
        entry = part["routers"]["average"]
        assert entry["audc"] == pytest.approx(metrics.audc(curve), abs=1e-12)
        oracle = metrics.audc_oracle(outcomes.take(rows))
        assert entry["audc_oracle"] == pytest.approx(oracle, abs=1e-12)
        # One score per task: within a task it ranks nothing.
        flat = part["routers"]["task"]
        assert flat["audc"] == pytest.approx(flat["audc_random"], abs=1e-12)


def test_conventions_of_a_task_are_those_of_its_rows_alone(records):
    """Against an evaluation of a log that holds nothing else."""
    asked = {"average": Average()}
    options = {"bootstrap": 0, "convention": "all"}
    whole = evaluate(records, asked, by_task=True, **options).summary
    assert len(whole["tasks"]) > 1
    for task, entry in whole["tasks"].items():
        table = records.table
        alone = Records(table.filter(pc.equal(table["task"], task)))
        want = evaluate(alone, asked, **options).summary["routers"]["average"]["conventions"]
        assert entry["routers"]["average"]["conventions"] == want
        assert want != whole["routers"]["average"]["conventions"]
    plain = evaluate(records, asked, bootstrap=0, by_task=True).summary
    assert all("conventions" not in t["routers"]["average"] for t in plain["tasks"].values())
    assert plain["macro"] == whole["macro"]


def test_macro_is_the_plain_mean_over_tasks(found):
    for name in ROUTERS:
        for key in ("audc", "audc_random", "aucfc"):
            each = [t["routers"][name][key] for t in found.summary["tasks"].values()]
            assert found.summary["macro"][name][key] == pytest.approx(np.mean(each), abs=1e-12)


def test_macro_leaves_out_tasks_where_a_metric_is_undefined():
    columns = make.minimal(8) | {
        "task": ["x"] * 4 + ["y"] * 4 + ["x"] * 4 + ["y"] * 4,
        "quality": [0.0] * 4 + [1.0] * 4 + [1.0] * 4 + [0.0] * 4,  # large better on x only
    }
    found = evaluate(Records(make.table(columns)), {}, bootstrap=0, by_task=True).summary
    apgr = {task: part["routers"]["mine"]["apgr"] for task, part in found["tasks"].items()}
    assert apgr["y"] is None
    assert found["macro"]["mine"]["apgr"] == apgr["x"] == pytest.approx(0.5, abs=1e-12)
    assert found["macro"]["mine"]["auroc_deferral"] is None


def test_references_are_the_chord_and_the_best(found):
    chord, best = found.references["random"], found.references["oracle"]
    assert len(chord.quality) == 2
    assert metrics.audc(chord) == pytest.approx(metrics.audc_random(chord), abs=1e-12)
    top = found.summary["routers"]["average"]["audc_oracle"]
    assert metrics.audc(best) == pytest.approx(top, abs=1e-12)


def test_plain_log_with_a_ready_made_score():
    columns = make.minimal(40)
    found = evaluate(Records(make.table(columns)), {}, bootstrap=20).summary
    assert (found["small"], found["large"], found["n_fit"]) == ("a", "b", 0)
    assert found["cost_unit"] == "dollars"
    entry = found["routers"]["mine"]
    quality, score = np.array(columns["quality"], np.float32), np.array(columns["score:mine"][:40])
    outcomes = make.Outcomes(quality[:40], quality[40:], np.full(40, 0.1), np.full(40, 1.0))
    assert entry["audc"] == pytest.approx(metrics.audc(deferral_curve(score, outcomes)), abs=1e-12)
    assert entry["transfer"] is None
    assert entry["spearman_length"] is None  # no response_tokens


def test_router_flops_are_not_added_to_dollars():
    columns = make.minimal(20) | {"split": (["validation"] * 10 + ["test"] * 10) * 2}
    found = evaluate(Records(make.table(columns)), {"task": TaskMean()}, bootstrap=0)
    assert found.curves["task"].cost[0] == pytest.approx(0.1, abs=1e-12)


def test_two_evaluations_compare_arm_against_arm(records):
    """Another small model on the same queries: paired through ``Evaluation.ranked``."""
    column = records.table.column_names.index("token_logprob")
    noisy = pa.array([[0.0] * len(row.as_py()) for row in records.table["token_logprob"]])
    blind = records.table.set_column(column, "token_logprob", noisy.cast(pa.list_(pa.float32())))
    arms = [evaluate(r, {"a": Average()}, bootstrap=0) for r in (records, Records(blind))]
    ours, theirs = ([arm.ranked["a"]] for arm in arms)
    found = hierarchical_difference(ours, theirs, resamples=50)
    each = [arm.summary["routers"]["a"]["audc"] for arm in arms]
    assert found.value == pytest.approx(each[0] - each[1], abs=1e-12)
    assert found.low < found.value < found.high


def test_nothing_depends_on_the_row_order(records, found):
    rows = np.random.default_rng(0).permutation(len(records))
    again = evaluate(
        Records(records.table.take(pa.array(rows))), ROUTERS, bootstrap=50, by_task=True
    )
    assert again.summary == found.summary


def test_seed_changes_intervals_only(records, found):
    other = evaluate(records, ROUTERS, bootstrap=50, seed=1).summary["routers"]["average"]
    entry = found.summary["routers"]["average"]
    assert other["audc"] == entry["audc"]
    assert other["audc_ci"] != entry["audc_ci"]


def test_no_resamples_no_intervals(records):
    entry = evaluate(records, {"a": Average()}, bootstrap=0).summary["routers"]["a"]
    assert entry["audc_ci"] is None
    assert entry["flops_saving_at_quality_ci"] == {"0.5": None, "0.9": None, "1.0": None}


def test_curves_are_written(tmp_path, found):
    saved = write_curves(found, tmp_path / "curves")
    assert found.summary["routers"]["average"]["curve_csv"] is None  # the argument is unchanged
    path = saved.summary["routers"]["average"]["curve_csv"]
    with open(path, encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    curve = found.curves["average"]
    assert list(rows[0]) == ["threshold", "deferral_rate", "quality", "flops"]
    for key, column in zip(
        rows[0], (curve.threshold, curve.deferral_rate, curve.quality, curve.cost), strict=True
    ):
        np.testing.assert_array_equal([float(row[key]) for row in rows], column)  # exact
    names = sorted(p.name for p in (tmp_path / "curves").iterdir())
    assert names == [f"{n}.csv" for n in ("average", "oracle", "reference_oracle",
                                          "reference_random", "task")]  # fmt: skip


def test_router_specs_make_safe_file_names(tmp_path, records):
    found = evaluate(records, {"chow_quantile:alpha=0,x=a/b": Average()}, bootstrap=0)
    write_curves(found, tmp_path)
    assert (tmp_path / "chow_quantile-alpha=0-x=a-b.csv").is_file()


@pytest.mark.parametrize(
    ("records_of", "routers", "options", "message"),
    [
        (("test",), {"t": TaskMean()}, {}, "router 't' learns from split 'validation', which"),
        (("validation",), {"a": Average()}, {}, "no rows in split 'test'"),
        (("validation", "test"), {}, {}, "no router to evaluate"),
        (("test",), {"a": Average()}, {"fit_split": "test"}, "fit and test split are both 'test'"),
        (("test",), {"a": Average()}, {"small": "smal"}, "no model 'smal'"),
        (("test",), {"b": Broken()}, {}, "^b: score is nan for 1 of 9 queries, first at row 2"),
        (("test",), {"c": Column("x")}, {}, "records lack column 'score:x'"),
    ],
)
def test_what_cannot_be_evaluated(records_of, routers, options, message):
    with pytest.raises(InputError, match=message):
        evaluate(make.records(9, splits=records_of), routers, **options)


def test_a_name_cannot_be_a_router_and_a_column():
    with pytest.raises(InputError, match="'mine' is both a router and a column 'score:mine'"):
        evaluate(Records(make.table(make.minimal())), {"mine": Average()})


def test_training_free_router_needs_no_fit_split():
    found = evaluate(make.records(9, splits=("test",)), {"a": Average()}, bootstrap=0)
    assert found.summary["n_fit"] == 0
    assert found.summary["routers"]["a"]["transfer"] is None


def test_import_is_light():
    """Evaluating logs needs neither an accelerator library nor a plotting one."""
    heavy = "{'jax', 'flax', 'sklearn', 'scipy', 'matplotlib', 'torch', 'optax'}"
    code = f"import sys, routers.evaluate; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def routellm(folder):
    """RouteLLM's golden MMLU scores as plain records: two models, costs 1 and 10."""
    rows = np.loadtxt(folder / "mmlu_scores.csv", delimiter=",", skiprows=1, dtype=str)
    queries = len(rows)
    return Records(normalise(pa.table({
        "query_id": [f"q{i:05d}" for i in range(queries)] * 2,
        "model": ["mixtral"] * queries + ["gpt-4"] * queries,
        "quality": np.concatenate([rows[:, 0] == "True", rows[:, 1] == "True"]),
        "flops": [1.0] * queries + [10.0] * queries,
        "score:len": pa.array([*rows[:, 2].astype(float), *[None] * queries], pa.float64()),
        "score:hash": pa.array([*rows[:, 3].astype(float), *[None] * queries], pa.float64()),
    }), "routellm"))  # fmt: skip


@pytest.mark.shared
def test_real_logs_end_to_end(shared_data):
    records = routellm(shared_data / "routing" / "routellm" / "golden")
    found = evaluate(records, {}, bootstrap=20).summary
    assert (found["small"], found["large"], found["n_test"]) == ("mixtral", "gpt-4", 14037)
    assert found["quality"]["small"] == pytest.approx(0.6809147253686685, abs=1e-12)
    assert found["quality"]["large"] == pytest.approx(0.8058702001852248, abs=1e-12)
    length, hashed = (found["routers"][name] for name in ("len", "hash"))
    # Ten quantile bins give .5837 and .5039; the exact curve differs in the third digit.
    assert length["apgr"] == pytest.approx(0.583698, abs=0.01)
    assert hashed["apgr"] == pytest.approx(0.503873, abs=0.01)
    assert hashed["audc_ci"][0] < hashed["audc_random"] < hashed["audc_ci"][1]
    assert length["audc_ci"][0] > length["audc_random"]
