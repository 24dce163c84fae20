"""The comparison as a whole: what it chooses on, what it reports, and that nothing leaks."""

import dataclasses
import json
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pytest
import tiers_planted as planted

from routers.base import Router
from routers.build import build
from routers.cascade import Cascade, decide, judge
from routers.compare_tiers import SHARES, compare_tiers
from routers.errors import InputError
from routers.evaluate import Column
from routers.families import families
from routers.importers.gsm8k_openai import read
from routers.importers.options import Options
from routers.joint_thresholds import chain, frontier
from routers.records import Records
from routers.tiers import join


@pytest.fixture(scope="module", autouse=True)
def few_prices():
    """A quarter of the prices: most of the time of a comparison this small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("routers.cascade_routing.PRICES", 24)
        yield


@pytest.fixture(scope="module")
def records() -> Records:
    return planted.records(300, clue=0.2)


@pytest.fixture(scope="module")
def found(records):
    return compare_tiers(records, planted.MODELS, {}, bootstrap=60)


def rows(found, policy):
    return [row for row in found["policies"] if row["policy"] == policy]


def permuted(records, split, name):
    """The records with one column of a split dealt out anew among each model's rows."""
    table = records.table
    rows = np.arange(len(table))
    of_split = np.array(table["split"].to_pylist()) == split
    for model in planted.MODELS:
        block = np.flatnonzero(of_split & (np.array(table["model"].to_pylist()) == model))
        rows[block] = np.random.default_rng(0).permutation(block)
    place = table.column_names.index(name)
    return Records(table.set_column(place, name, table[name].take(pa.array(rows))))


def test_every_way_to_use_three_models_is_there(found):
    kinds = [(row["policy"], row["models"]) for row in found["policies"]]
    s, m, la = planted.MODELS
    assert kinds == [
        ("alone", [s]),
        ("alone", [m]),
        ("alone", [la]),
        ("static", [s, m, la]),
        ("routing", [s, m, la]),
        ("cascade", [s, m, la]),
        ("pair", [s, m]),
        ("pair", [s, la]),
        ("pair", [m, la]),
        ("cascade_routing", [s, m, la]),
    ]
    json.dumps(found, allow_nan=False)


def test_budgets_run_from_the_cheapest_to_the_dearest(records, found):
    fit = join(records, planted.MODELS, "validation").cost.mean(axis=0)
    want = [fit[0] + share * (fit[-1] - fit[0]) for share in SHARES]
    np.testing.assert_allclose(found["budgets"], want, rtol=1e-12)
    assert rows(found, "alone")[2]["points"][-1]["setting"] == []
    assert rows(found, "alone")[2]["points"][-2] is None
    assert rows(found, "pair")[2]["points"][0] is None  # the medium tier alone is above it
    assert rows(found, "pair")[2]["mean_quality"] is None


def test_settings_are_within_the_budget_on_the_fit_split(found):
    for row in found["policies"]:
        spent = [
            (point["fit"]["cost"], budget, point["fit"]["quality"])
            for point, budget in zip(row["points"], found["budgets"], strict=True)
            if point is not None
        ]
        assert all(cost <= budget * (1 + 1e-9) for cost, budget, _ in spent)
        assert (np.diff([quality for *_, quality in spent]) >= 0).all()


def test_the_cascades_numbers_are_those_of_its_thresholds(records, found):
    test = join(records, planted.MODELS, "test")
    for point in rows(found, "cascade")[0]["points"][::3]:
        thresholds = tuple(float(value) for value in point["setting"])
        done = decide(Cascade(test.models, (Column("unsure"),) * 2, thresholds), test.inputs)
        judged = judge(done, test)
        assert point["quality"] == pytest.approx(judged.quality.mean(), abs=1e-12)
        assert point["cost"] == pytest.approx(judged.cost.mean(), rel=1e-12)
        np.testing.assert_allclose(point["visited"], done.visited.mean(axis=0))
        assert sum(point["answered"]) == pytest.approx(1.0)


def test_on_planted_tiers_knowing_more_pays(found):
    mean = {
        row["policy"]: row["mean_quality"] for row in found["policies"] if len(row["models"]) == 3
    }
    assert mean["cascade"] > mean["static"] + 0.02
    assert mean["cascade_routing"] > mean["static"] + 0.04
    assert mean["cascade_routing"] > mean["cascade"]
    assert mean["cascade_routing"] > mean["routing"] - 0.01


def test_intervals_hold_their_values_and_differences_are_paired(found):
    reference = rows(found, "cascade")[0]
    assert reference["mean_minus_cascade"] == {"value": 0.0, "ci": [0.0, 0.0]}
    for row in found["policies"]:
        for point, base in zip(row["points"], reference["points"], strict=True):
            if point is None:
                continue
            for name in ("quality", "cost"):
                low, high = point[f"{name}_ci"]
                assert low <= point[name] <= high
            difference = point["minus_cascade"]
            want = point["quality"] - base["quality"]
            assert difference["value"] == pytest.approx(want, abs=1e-12)
            assert difference["ci"][0] <= difference["value"] <= difference["ci"][1]


def test_an_interval_is_that_of_the_bootstrap(records, found):
    """The same resamples drawn again, the same order statistics, by a loop."""
    from routers.bootstrap import draws

    test = join(records, planted.MODELS, "test")
    quality = test.quality[:, 1]
    drawn = sorted(float(w @ quality) / len(quality) for w in draws(len(quality), range(60), 0))
    point = rows(found, "alone")[1]["points"][4]
    np.testing.assert_allclose(point["quality_ci"], [drawn[1], drawn[58]], atol=1e-12)


def test_without_resamples_there_are_no_intervals(records):
    found = compare_tiers(records, planted.MODELS[:2], {}, bootstrap=0)
    point = rows(found, "cascade")[0]["points"][3]
    assert point["quality_ci"] is None
    assert point["minus_cascade"]["ci"] is None
    assert rows(found, "pair") == []  # the cascade of all two is the pair


def test_the_test_split_chooses_nothing(records, found):
    """Its outcomes dealt out anew: every setting and every fit figure stays."""
    again = compare_tiers(permuted(records, "test", "quality"), planted.MODELS, {}, bootstrap=0)
    for before, after in zip(found["policies"], again["policies"], strict=True):
        for old, new in zip(before["points"], after["points"], strict=True):
            assert (old is None) == (new is None)
            if old is not None:
                assert (old["setting"], old["fit"]) == (new["setting"], new["fit"])
                assert old["visited"] == new["visited"]


def test_outcomes_that_mean_nothing_give_no_better_than_a_static_mixture():
    """Scores and prompts dealt out anew: on new queries nothing beats drawing at random."""
    records = planted.records(500, clue=0.3)
    for split in ("validation", "test"):
        for name in ("score:unsure", "prompt_embedding"):
            records = permuted(records, split, name)
    found = compare_tiers(records, planted.MODELS, {}, bootstrap=0)
    static = rows(found, "static")[0]["mean_quality"]
    for kind in ("routing", "cascade", "cascade_routing"):
        assert rows(found, kind)[0]["mean_quality"] < static + 0.03


@dataclasses.dataclass(frozen=True, eq=False)
class Spy(Router):
    """A learned router that keeps the queries it was fitted on, and scores by the column."""

    learned: ClassVar[bool] = True
    seen_: np.ndarray | None = None

    def fit(self, inputs, outcomes):
        return Spy(inputs.query_id)

    def score(self, inputs):
        return inputs.scores["unsure"]


def test_learned_routers_are_fitted_on_one_half_and_tuned_on_the_other():
    fit = join(planted.records(60), planted.MODELS, "validation")
    cascade = next(f for f in families(fit, {"spy": Spy()}) if f.kind == "cascade")
    fitted = cascade.make(cascade.frontier.settings[0]).routers[0].seen_.tolist()
    rest = np.flatnonzero(~np.isin(fit.inputs[0].query_id, fitted))
    assert (len(fitted), len(rest)) == (30, 30)
    tuned = frontier(chain(fit.take(rest), (Column("unsure"),) * 2))
    np.testing.assert_array_equal(cascade.frontier.settings, tuned.settings)
    np.testing.assert_array_equal(cascade.frontier.quality, tuned.quality)


def test_training_free_routers_are_tuned_on_the_whole_split():
    fit = join(planted.records(60), planted.MODELS, "validation")
    cascade = next(f for f in families(fit, {"u": Column("unsure")}) if f.kind == "cascade")
    tuned = frontier(chain(fit, (Column("unsure"),) * 2))
    np.testing.assert_array_equal(cascade.frontier.settings, tuned.settings)


def test_routers_asked_for_stand_beside_the_columns(records):
    found = compare_tiers(records, planted.MODELS[:2], {"random": build("random")}, bootstrap=0)
    assert [row["router"] for row in rows(found, "cascade")] == ["random", "unsure"]
    assert rows(found, "cascade")[0]["mean_minus_cascade"]["value"] == 0.0


def test_a_log_in_dollars(records):
    """The same comparison; the decisions' own FLOPs have no unit to be added in."""
    table = records.table
    dollars = pa.array(table["flops"].to_numpy() / 1e6)
    table = table.drop_columns(["flops"]).append_column("dollars", dollars)
    found = compare_tiers(Records(table), planted.MODELS, {}, bootstrap=0)
    assert found["cost_unit"] == "dollars"
    assert (
        rows(found, "cascade_routing")[0]["mean_quality"] > rows(found, "static")[0]["mean_quality"]
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test_split": "validation"}, "both 'validation'"),
        ({"fit_split": "train"}, "no rows in split 'train'"),
        ({"bootstrap": -1}, "bootstrap=-1"),
        ({"routers": {"unsure": build("random")}}, "both a router and a column"),
        ({"routers": {"oracle": build("oracle")}}, "Oracle sees the outcomes"),
        ({"routers": {"prompt": build("prompt")}}, "Prompt decides before"),
    ],
)
def test_what_cannot_be_compared(records, change, message):
    with pytest.raises(InputError, match=message):
        compare_tiers(records, planted.MODELS, change.pop("routers", {}), **change)


def test_no_router_at_all(records):
    plain = Records(records.table.drop_columns(["score:unsure"]))
    with pytest.raises(InputError, match="no router to stop a cascade with"):
        compare_tiers(plain, planted.MODELS, {})


@pytest.mark.shared
def test_four_real_models(shared_data):
    """OpenAI's GSM8K solutions; the only signal is how long the solution is.

    A verifier samples and ranks 100 solutions: 6 and 175 (billion parameters) for an answer of
    the fine-tuned models, 600 and 17,500 for the verified ones.
    """
    cost = {
        "6b_finetuning": 6.0,
        "175b_finetuning": 175.0,
        "6b_verification": 600.0,
        "175b_verification": 17500.0,
    }
    records = read([shared_data / "routing" / "gsm8k-openai"], Options(query_cost=cost))
    length = [float(len(text)) for text in records.table["response"].to_pylist()]
    records = Records(records.table.append_column("score:characters", pa.array(length)))
    found = compare_tiers(records, tuple(cost), {}, bootstrap=100)
    test = join(records, tuple(cost), "test")
    right = {"6b_finetuning": 286, "175b_finetuning": 458, "6b_verification": 515}
    both = found["n_fit"] + found["n_test"]
    assert both == 1319
    for k, (name, count) in enumerate(right.items()):
        on_fit = join(records, tuple(cost), "validation").quality[:, k].sum()
        assert found["quality"][name] * found["n_test"] + on_fit == pytest.approx(count, abs=1e-3)
    assert found["quality_oracle"] == pytest.approx(test.quality.max(axis=1).mean(), abs=1e-12)
    # A long solution is often wrong (AUROC .69 for the smallest model), but then the larger models
    # fail, too: sending long ones on is worse than drawing at random, and the table says so.
    assert rows(found, "static")[0]["mean_minus_cascade"]["ci"][0] > 0
    assert rows(found, "cascade_routing")[0]["mean_minus_cascade"]["ci"][0] > 0
    # Nothing is logged of the prompts, so routing is a static mixture.
    static, routing = (rows(found, kind)[0]["mean_quality"] for kind in ("static", "routing"))
    assert routing == pytest.approx(static, abs=0.02)
    last = rows(found, "alone")[3]["points"][-1]
    assert last["quality"] == pytest.approx(found["quality"]["175b_verification"], abs=1e-12)
