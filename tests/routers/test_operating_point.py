"""From records to a policy: targets are met, promises are tested, fit and calibration disjoint."""

import dataclasses
import hashlib
from typing import ClassVar

import make
import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import binom

from routers.base import Router
from routers.build import build
from routers.errors import InputError
from routers.guarantees import NotSupported
from routers.operating_point import SPLIT_SEED, calibrate
from routers.policy import Policy
from routers.records import Records, pair
from routers.schema import normalise
from routers.targets import Target

RATES = [0.0, 0.05, 0.3, 0.5, 0.99, 1.0]
LEARNED = ["post_hoc:learner=booster", "prompt"]


@pytest.fixture(scope="module")
def records() -> Records:
    return make.records(80)


@pytest.fixture(scope="module")
def many() -> Records:
    return make.records(600)


def fits(query_id):
    """Whether a query fits a learned router: the top bit of its hash is 0."""
    digest = hashlib.blake2b(f"{SPLIT_SEED}\0{query_id}".encode(), digest_size=8).digest()
    return digest[-1] < 128  # little-endian: the last byte is the highest


def calibration(records, router=None, split="validation"):
    """The queries a threshold is chosen on."""
    inputs, outcomes = pair(records, "small", "large", split)
    if router is None or not router.learned:
        return inputs, outcomes
    rows = np.flatnonzero([not fits(query) for query in inputs.query_id.tolist()])
    return inputs.take(rows), outcomes.take(rows)


@pytest.mark.parametrize("spec", ["chow_average", *LEARNED])
@pytest.mark.parametrize("rate", RATES)
def test_the_rate_is_never_exceeded_and_nearly_met(records, spec, rate):
    policy = calibrate(records, build(spec), Target(deferral_rate=rate))
    inputs, _ = calibration(records, policy.router)
    sent = policy.decide(inputs)
    assert sent.mean() <= rate + 1e-12
    assert sent.mean() == pytest.approx(policy.about["deferral_rate"], abs=1e-12)
    score = policy.router.score(inputs.at_stage(policy.router.stage))
    kept = score[~sent]
    if len(kept):  # the next group of equal scores would have been too many
        assert sent.mean() + np.mean(score == kept.max()) > rate


def test_what_it_reached_is_the_mean_of_the_chosen_answers(records):
    policy = calibrate(records, build("chow_average"), Target(deferral_rate=0.4))
    inputs, outcomes = calibration(records)
    sent = policy.decide(inputs).tolist()
    small, large = outcomes.quality_small.tolist(), outcomes.quality_large.tolist()
    rows = list(zip(sent, small, large, strict=True))
    about = policy.about
    assert about["quality"] == pytest.approx(np.mean([b if d else a for d, a, b in rows]))
    lost = [0.0 if d or a >= b else b - a for d, a, b in rows]
    assert about["quality_lost"] == pytest.approx(np.mean(lost), abs=1e-12)
    assert about["quality_large"] == pytest.approx(np.mean(large), abs=1e-12)
    spent = outcomes.flops_small + np.array(sent) * outcomes.flops_large
    spent = spent + policy.router.flops_per_query(inputs)
    assert about["cost"] == pytest.approx(np.mean(spent), rel=1e-12)
    told = {key: about[key] for key in ("small", "large", "fit_split", "n_fit", "n_calibration")}
    assert told == {
        "small": "small",
        "large": "large",
        "fit_split": "validation",
        "n_fit": 0,
        "n_calibration": 80,
    }


@dataclasses.dataclass(frozen=True)
class Memory(Router):
    """Remembers the queries it was fitted on, and sends on those where the large model gained."""

    learned: ClassVar[bool] = True
    known_: dict | None = None

    def fit(self, inputs, outcomes):
        known = zip(inputs.query_id.tolist(), outcomes.gain.tolist(), strict=True)
        return dataclasses.replace(self, known_=dict(known))

    def score(self, inputs):
        return np.array([self.known_.get(query, 0.0) for query in inputs.query_id.tolist()])


def test_a_learned_router_is_not_calibrated_on_what_it_was_fitted_on(many):
    """Perfect on its own queries and clueless on others: nothing may be promised for it."""
    inputs, outcomes = calibration(many)
    inner = Memory().fit(inputs, outcomes)
    fooled = calibrate(many, dataclasses.replace(inner), Target(deferral_rate=0.5))
    assert fooled.router.known_.keys() == {q for q in inputs.query_id.tolist() if fits(q)}
    assert fooled.about["n_fit"] == len(fooled.router.known_)
    assert fooled.about["n_fit"] + fooled.about["n_calibration"] == 600
    assert 240 < fooled.about["n_fit"] < 360  # fair halves leave this range with P < 1e-6
    assert "one half of 'validation'" in fooled.about["data"]
    with pytest.raises(NotSupported, match="more queries would not help"):
        calibrate(many, Memory(), Target(max_quality_loss=0.05, delta=0.1))


def test_refitting_does_not_touch_the_calibration_outcomes(many):
    """The same router comes out when the answers of the calibration half are replaced."""
    table = many.table
    flip = np.array([not fits(query) for query in table["query_id"].to_pylist()])
    quality = np.where(flip, 1 - table["quality"].to_numpy(), table["quality"].to_numpy())
    at = table.column_names.index("quality")
    other = dataclasses.replace(
        many, table=table.set_column(at, "quality", pa.array(quality.astype(np.float32)))
    )
    target = Target(deferral_rate=0.5)
    ours, theirs = (calibrate(r, build(LEARNED[0]), target) for r in (many, other))
    test, _ = pair(many, "small", "large", "test")
    np.testing.assert_array_equal(ours.router.score(test), theirs.router.score(test))
    assert ours.threshold == theirs.threshold  # a rate needs no outcome
    assert ours.about["quality"] != theirs.about["quality"]


def slow_promise(score, loss, epsilon, delta):
    """The highest threshold whose exact upper confidence bound is within epsilon."""
    best = None
    for tau in [*sorted(set(score.tolist())), np.inf]:
        errors = sum(b for a, b in zip(score.tolist(), loss.tolist(), strict=True) if a < tau)
        if binom.cdf(errors, len(score), epsilon) > delta:
            break
        best = tau
    return best


@pytest.mark.parametrize("spec", ["chow_average", "length", LEARNED[0]])
def test_a_promise_is_the_exact_test(many, spec):
    target = Target(max_quality_loss=0.15, delta=0.1)
    policy = calibrate(many, build(spec), target)
    inputs, outcomes = calibration(many, policy.router)
    loss = np.maximum(outcomes.quality_large - outcomes.quality_small, 0)
    assert policy.threshold == slow_promise(policy.router.score(inputs), loss, 0.15, 0.1)
    assert policy.about["bound"] == "binomial"
    assert policy.about["target"] == {"max_quality_loss": 0.15, "delta": 0.1}
    assert "0.15 below 'large', with probability 0.9" in policy.about["promise"]
    assert 0 < policy.about["quality_lost"] <= 0.15
    assert policy.about["quality"] >= policy.about["quality_large"] - 0.15


def graded(records):
    """The same log with a metric that is not 0 or 1, but only for one row of another split."""
    table = records.table
    quality = table["quality"].to_numpy().copy()
    test = np.array(table["split"].to_pylist()) == "test"
    quality[np.flatnonzero(test)[0]] = 0.5
    at = table.column_names.index("quality")
    return dataclasses.replace(
        records, table=table.set_column(at, "quality", pa.array(quality.astype(np.float32)))
    )


def test_the_metric_decides_the_bound(many):
    target = Target(max_quality_loss=0.15, delta=0.1)
    exact = calibrate(many, build("chow_average"), target)
    general = calibrate(graded(many), build("chow_average"), target)
    assert general.about["bound"] == "hoeffding_bentkus"
    assert general.threshold <= exact.threshold
    assert general.about["quality_lost"] < exact.about["quality_lost"]


def test_on_average_keeps_more_than_with_confidence(many):
    sure = calibrate(many, build("chow_average"), Target(max_quality_loss=0.2, delta=0.05))
    mean = calibrate(many, build("chow_average"), Target(max_quality_loss=0.2, in_expectation=True))
    assert mean.about["deferral_rate"] < sure.about["deferral_rate"]
    assert mean.about["bound"] is None
    n = mean.about["n_calibration"]
    assert mean.about["quality_lost"] * n + 1 <= 0.2 * (n + 1) + 1e-9


def tasks_of(inputs, policy):
    for task in sorted(policy.task_thresholds):
        yield task, inputs.take(np.flatnonzero(inputs.task == task))


@pytest.mark.parametrize("spec", ["chow_average", LEARNED[0]])
def test_every_task_has_its_own_rate(many, spec):
    policy = calibrate(many, build(spec), Target(deferral_rate=0.3), per_task=True)
    inputs, _ = calibration(many, policy.router)
    assert set(policy.task_thresholds) == {"copy", "sum", "facts"}
    for task, here in tasks_of(inputs, policy):
        rate = policy.decide(here).mean()
        assert 0.25 < rate <= 0.3
        assert rate == pytest.approx(policy.about["tasks"][task]["deferral_rate"], abs=1e-12)
        assert policy.about["tasks"][task]["n"] == len(here)
    together = policy.decide(inputs).mean()
    assert together == pytest.approx(policy.about["deferral_rate"], abs=1e-12)
    assert policy.about["n"] == len(inputs)
    pooled = calibrate(many, build(spec), Target(deferral_rate=0.3))
    assert pooled.task_thresholds == {}
    assert pooled.about["tasks"] == {}
    assert policy.threshold == pooled.threshold  # for tasks not seen here
    other = policy.about["other_tasks"]
    assert other["deferral_rate"] == pytest.approx(pooled.about["deferral_rate"], abs=1e-12)


def test_tasks_share_the_chance_of_a_broken_promise(many):
    target = Target(max_quality_loss=0.2, delta=0.09)
    policy = calibrate(many, build("length"), target, per_task=True)
    inputs, outcomes = calibration(many)
    loss = np.maximum(outcomes.quality_large - outcomes.quality_small, 0)
    for task, threshold in policy.task_thresholds.items():
        rows = inputs.task == task
        want = slow_promise(policy.router.score(inputs)[rows], loss[rows], 0.2, 0.03)
        assert threshold == want
    assert policy.about["target"]["delta"] == 0.09
    assert "each of 3 tasks at once, with probability 0.91" in policy.about["promise"]


def with_task(records, query, task):
    """The log with one query moved to a task of its own."""
    table = records.table
    names = [
        task if q == query else t
        for q, t in zip(table["query_id"].to_pylist(), table["task"].to_pylist(), strict=True)
    ]
    at = table.column_names.index("task")
    return dataclasses.replace(records, table=table.set_column(at, "task", pa.array(names)))


def test_a_task_too_small_for_the_promise_is_sent_on_whole(many):
    log = with_task(many, "validation-00000", "rare")
    target = Target(max_quality_loss=0.3, delta=0.1)
    policy = calibrate(log, build("length"), target, per_task=True)
    assert policy.task_thresholds["rare"] == -np.inf
    assert policy.about["tasks"]["rare"]["deferral_rate"] == 1
    # 0.7 ** 11 <= 0.1 / 4 tasks < 0.7 ** 10
    assert "takes 11; log 10 more" in policy.about["tasks"]["rare"]["not_supported"]
    assert max(policy.task_thresholds.values()) > 0
    inputs, _ = calibration(log)
    rare = inputs.take(np.flatnonzero(inputs.task == "rare"))
    assert policy.decide(rare).tolist() == [True]


def test_refusals_count_the_queries_that_are_missing(records):
    target = Target(max_quality_loss=0.01, delta=0.05)
    with pytest.raises(NotSupported, match=r"^80 calibration .* takes 299; log 219 more"):
        calibrate(records, build("length"), target)
    with pytest.raises(NotSupported, match="no task can be kept even in part; task 'copy'"):
        calibrate(records, build("length"), target, per_task=True)
    with pytest.raises(NotSupported, match="half of the split fits the router") as refusal:
        calibrate(records, build(LEARNED[0]), target)
    assert refusal.value.more is not None
    assert f"{2 * refusal.value.more} more in it" in str(refusal.value)
    mean = Target(max_quality_loss=0.01, in_expectation=True)
    with pytest.raises(NotSupported, match="takes 99; log 19 more"):
        calibrate(records, build("length"), mean)


def costed(queries=40):
    """A log with FLOPs, dollars and seconds that order queries in the same way."""
    columns = make.minimal(queries) | {
        "split": ["validation"] * 2 * queries,
        "response_tokens": [*range(1, queries + 1)] * 2,
        "flops": [1.0] * queries + [100.0] * queries,
        "latency_s": [0.5] * queries + [2.0] * queries,
    }
    columns["quality"] = [0.0] * queries + [1.0] * queries
    return Records(normalise(pa.table(columns), "log"), {})


@pytest.mark.parametrize(
    ("name", "unit", "small", "large"),
    [
        ("budget_flops", "flops", 1.0, 100.0),
        ("budget_dollars", "dollars", 0.1, 1.0),
        ("budget_latency", "latency_s", 0.5, 2.0),
    ],
)
def test_budgets_in_every_unit(name, unit, small, large):
    """A quarter of 40 queries can be paid for; each sent on costs both models."""
    target = Target(**{name: small + 0.26 * large})
    policy = calibrate(costed(), build("length"), target)
    assert policy.about["deferral_rate"] == 0.25
    assert policy.about["cost_unit"] == unit
    assert policy.about["cost"] == pytest.approx(small + 0.25 * large, abs=1e-12)
    with pytest.raises(InputError, match=f"mean {unit} within 0.01; the least is {small:g}"):
        calibrate(costed(), build("length"), Target(**{name: 0.01}))


def test_a_routers_flops_are_not_added_to_dollars(many):
    table = many.table.append_column("dollars", pa.array([1.0] * len(many)))
    log = dataclasses.replace(many, table=table)
    policy = calibrate(log, build(LEARNED[0]), Target(budget_dollars=1.5))
    assert policy.router.flops_per_query(calibration(log)[0]).min() > 0
    assert policy.about["cost"] == pytest.approx(1 + policy.about["deferral_rate"], abs=1e-12)


@pytest.mark.parametrize("name", ["budget_dollars", "budget_latency"])
def test_a_cost_that_is_not_logged(records, name):
    target = Target(**{name: 1.0})
    with pytest.raises(InputError, match=f"column '{target.unit}' is empty for model 'small'"):
        calibrate(records, build("length"), target)


def test_a_log_in_dollars_has_no_flops():
    table = costed().table.drop_columns(["flops"])
    log = Records(normalise(table, "log"), {})
    about = calibrate(log, build("length"), Target(deferral_rate=0.25)).about
    assert about["cost_unit"] == "dollars"
    assert about["cost"] == pytest.approx(0.1 + 0.25 * 1.0, abs=1e-9)
    with pytest.raises(InputError, match="column 'flops' is empty"):
        calibrate(log, build("length"), Target(budget_flops=5.0))


def test_a_quality_is_reached_at_least_cost(many):
    policy = calibrate(many, build("chow_average"), Target(quality=0.7))
    assert policy.about["quality"] >= 0.7
    inputs, outcomes = calibration(many)
    score = policy.router.score(inputs)
    for threshold in sorted(set(score.tolist())):
        if threshold > policy.threshold:  # cheaper, and short of it
            sent = score >= threshold
            kept = np.where(sent, outcomes.quality_large, outcomes.quality_small)
            assert kept.mean() < 0.7


def test_a_refusal_of_one_task_names_it(many):
    with pytest.raises(InputError, match=r"^task '\w+': no threshold reaches quality 0.99"):
        calibrate(many, build("length"), Target(quality=0.99), per_task=True)


def test_the_fit_split_is_the_one_that_is_named(records):
    target = Target(deferral_rate=0.3)
    on_test = calibrate(records, build("chow_average"), target, split="test")
    inputs, _ = pair(records, "small", "large", "test")
    assert on_test.decide(inputs).mean() == pytest.approx(on_test.about["deferral_rate"])
    assert on_test.about["fit_split"] == "test"
    with pytest.raises(InputError, match="train"):
        calibrate(records, build("chow_average"), target, split="train")


@pytest.mark.parametrize("rate", [-0.1, 1.5])
def test_a_rate_outside_zero_to_one(records, rate):
    with pytest.raises(InputError, match="deferral rate"):
        calibrate(records, build("length"), Target(deferral_rate=rate))


def test_too_few_queries_to_halve():
    with pytest.raises(InputError, match="has 1 queries, too few to fit"):
        calibrate(make.records(1), build(LEARNED[0]), Target(deferral_rate=0.5))


@pytest.mark.parametrize("spec", ["chow_average", "length", *LEARNED])
@pytest.mark.parametrize("per_task", [False, True])
def test_saved_and_loaded_decides_the_same(records, spec, per_task, tmp_path):
    policy = calibrate(records, build(spec), Target(deferral_rate=0.37), per_task=per_task)
    policy.save(tmp_path / "policy.json")
    loaded = Policy.load(tmp_path / "policy.json")
    assert (loaded.threshold, loaded.about) == (policy.threshold, policy.about)
    assert loaded.task_thresholds == policy.task_thresholds
    test, _ = pair(records, "small", "large", "test")
    np.testing.assert_array_equal(loaded.decide(test), policy.decide(test))
