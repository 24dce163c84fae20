"""Few labels, unseen tasks, a skewed mix: which queries each uses, and areas by hand."""

import dataclasses
import json
from collections import Counter

import numpy as np
import pytest
from tiny_run import ARMS, SEEDS, TEST

from cat.config import Config, from_dict
from experiments import robustness
from experiments.evaluation import load_pair
from experiments.rundir import RunDirectory, read_json
from routers.base import Inputs, Outcomes, Router
from routers.curves import rank
from routers.metrics import audc

TASKS = ("add", "copy", "flip")


@dataclasses.dataclass(frozen=True)
class TaskGain(Router):
    """Mean gain of the task among the queries it was fitted on; 0 for an unseen task."""

    learned = True
    gain_: dict | None = None
    saw_: tuple = ()

    def fit(self, inputs, outcomes):
        names = sorted(set(inputs.task.tolist()))
        gain = {t: float(outcomes.gain[inputs.task == t].mean()) for t in names}
        return dataclasses.replace(self, gain_=gain, saw_=tuple(inputs.query_id.tolist()))

    def score(self, inputs):
        return np.array([self.gain_.get(t, 0.0) for t in inputs.task.tolist()])


def split(queries: int, seed: int) -> robustness.Split:
    rng = np.random.default_rng(seed)
    task = np.array(TASKS)[rng.integers(0, 3, queries)]
    inputs = Inputs(np.array([f"q{seed}-{i}" for i in range(queries)]), task, np.full(queries, 4))
    inputs = dataclasses.replace(inputs, response_tokens=rng.integers(1, 9, queries))
    hard = np.where(task == "copy", 0.2, 0.7)
    small, large = (rng.random(queries) > hard).astype(float), (rng.random(queries) > 0.2)
    flops = np.full(queries, 1.0), np.full(queries, 9.0)
    return inputs, Outcomes(small, large.astype(float), *flops)


FIT, TEST_SPLIT = split(120, 1), split(90, 2)


def made(seed: int = 0) -> dict[str, robustness.Rows]:
    return robustness.conditions(FIT[0].task, TEST_SPLIT[0].task, seed)


def test_budgets_draw_that_many_labels_and_none_beyond_the_split():
    found = made()
    assert [name for name in found if "labels" in name] == ["50 labels"]
    fit_rows, test_rows = found["50 labels"]
    assert len(set(fit_rows.tolist())) == 50
    assert fit_rows.max() < 120
    assert test_rows.tolist() == list(range(90))


def test_a_seed_draws_its_own_labels_and_a_larger_budget_contains_the_smaller():
    task = np.array(["a", "b"] * 300)
    first, second = (robustness.conditions(task, task, seed) for seed in (0, 1))
    assert first["50 labels"][0].tolist() != second["50 labels"][0].tolist()
    assert set(first["50 labels"][0].tolist()) < set(first["500 labels"][0].tolist())
    again = robustness.conditions(task, task, 0)
    assert first["500 labels"][0].tolist() == again["500 labels"][0].tolist()


def test_unseen_tasks_are_never_fitted_on():
    fit_rows, test_rows = made()["unseen"]
    fitted = {FIT[0].task[i] for i in fit_rows}
    tested = {TEST_SPLIT[0].task[i] for i in test_rows}
    assert (fitted, tested) == ({"add", "flip"}, {"copy"})
    assert len(test_rows) == sum(t == "copy" for t in TEST_SPLIT[0].task)
    assert len(fit_rows) == sum(t != "copy" for t in FIT[0].task)


def test_the_skewed_mix_has_every_other_task_four_times_as_often():
    fit_rows, test_rows = made()["skewed"]
    assert fit_rows.tolist() == list(range(120))
    assert len(set(test_rows.tolist())) == len(test_rows)
    whole = Counter(TEST_SPLIT[0].task.tolist())
    mix = Counter(TEST_SPLIT[0].task[test_rows].tolist())
    assert (mix["add"], mix["flip"]) == (whole["add"], whole["flip"])
    assert mix["copy"] == -(-whole["copy"] // robustness.SKEW)


def test_one_task_can_only_be_asked_about_labels():
    task = np.array(["only"] * 60)
    assert list(robustness.conditions(task, task, 0)) == ["50 labels"]


@pytest.mark.parametrize("condition", ["50 labels", "unseen", "skewed"])
def test_rankings_are_those_of_the_router_fitted_for_the_condition(condition):
    found = robustness.rankings(TaskGain(), FIT, TEST_SPLIT, 0)[condition]
    fit_rows, test_rows = made()[condition]
    gains: dict[str, list[float]] = {}
    for i in fit_rows:
        gain = FIT[1].quality_large[i] - FIT[1].quality_small[i]
        gains.setdefault(str(FIT[0].task[i]), []).append(float(gain))
    score = np.array([np.mean(gains.get(t, [0.0])) for t in TEST_SPLIT[0].task[test_rows]])
    small, large = (
        q[test_rows] for q in (TEST_SPLIT[1].quality_small, TEST_SPLIT[1].quality_large)
    )
    area, quality = 0.0, small.mean()
    for level in np.unique(score)[::-1]:
        here = score == level
        gain = (large - small)[here].sum() / len(score)
        area += here.mean() * (quality + gain / 2)
        quality += gain
    assert audc(found.curve()) == pytest.approx(area, abs=1e-12)


def test_a_training_free_rule_does_not_care_for_labels():
    from routers.build import build

    found = robustness.rankings(build("length"), FIT, TEST_SPLIT, 0)
    direct = rank(TEST_SPLIT[0].response_tokens.astype(float), TEST_SPLIT[1])
    assert audc(found["50 labels"].curve()) == pytest.approx(audc(direct.curve()), abs=1e-12)


def test_the_file_holds_every_side_and_the_paired_lead(run_copy):
    config = from_dict(Config, read_json(run_copy / "config.json"))
    run = RunDirectory(run_copy)
    specs = ("chow_average", "post_hoc:learner=booster")
    robustness.write(config, run, ARMS, specs)
    answers = json.loads((run_copy / "robustness.json").read_text())
    assert answers["ours"] == ["cat_xent", "chow_average"]
    rows = {(r["arm"], r["router"], r["condition"]): r for r in answers["rows"]}
    conditions = ["unseen", "skewed"]  # the validation split is smaller than every budget
    assert list(rows) == [(a, r, c) for a in ARMS for r in specs for c in conditions]
    areas = {key: row["audc"]["mean"] for key, row in rows.items()}
    for (arm, spec, condition), row in rows.items():
        ours = areas["cat_xent", "chow_average", condition]
        if (arm, spec) == ("cat_xent", "chow_average"):
            assert "ours_minus_this" not in row
            continue
        assert row["ours_minus_this"] == pytest.approx(
            ours - areas[arm, spec, condition], abs=1e-12
        )
        assert row["ci"][0] <= row["ci"][1]
    inputs, outcomes = load_pair(config, run, "xent", SEEDS[0], "test")
    assert len(inputs) == TEST
    unseen = np.isin(inputs.task, sorted(set(inputs.task.tolist()))[1::2])
    doubt = np.array([-np.mean(inputs.token_logprob[i]) for i in range(TEST)])[unseen]
    direct = rank(doubt, outcomes.take(np.flatnonzero(unseen)))
    per_seed = rows["xent", "chow_average", "unseen"]["audc"]["per_seed"]
    assert per_seed[0] == pytest.approx(audc(direct.curve()), abs=1e-6)
