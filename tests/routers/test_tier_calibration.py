"""From records of K models to a policy: targets met, promises kept, halves that do not leak."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
import tiers_planted as planted
from scipy.stats import binom

from routers.build import build
from routers.cascade import Cascade, decide, judge
from routers.column import Column
from routers.compare_tiers import compare_tiers
from routers.crossfit import fold_of
from routers.errors import InputError
from routers.families import HALVES_SEED
from routers.guarantees import NotSupported
from routers.records import Records
from routers.targets import Target
from routers.tier_calibration import TEST_SEED, calibrate, passed_in_order
from routers.tier_policy import TierPolicy
from routers.tiers import join

MODELS, UNSURE = planted.MODELS, Column("unsure")
ROUTER = {"cascade": UNSURE, "cascade_routing": UNSURE, "routing": None, "static": None}
SURE = Target(max_quality_loss=0.2, delta=0.1)


@pytest.fixture(scope="module", autouse=True)
def few_prices():
    """A quarter of the prices: most of the time of routing this small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("routers.cascade_routing.PRICES", 24)
        yield


@pytest.fixture(scope="module")
def records() -> Records:
    return planted.records(200, clue=0.3)


def replayed(policy, tiers):
    """(mean quality, mean cost) of a policy on logged queries."""
    judged = judge(decide(policy, tiers.inputs), tiers)
    return judged.quality.mean(), judged.cost.mean()


def half(records, tested):
    """The queries of either half of the split under a promise."""
    tiers = join(records, MODELS, "validation")
    fold = fold_of(tiers.inputs[0].query_id, 2, TEST_SEED)
    return tiers.take(np.flatnonzero(fold == int(tested)))


def test_a_budget_picks_what_trying_every_pair_of_thresholds_does():
    records = planted.records(16)
    tiers = join(records, MODELS, "validation")
    budget = 9e6
    best = 0.0
    levels = [[-np.inf, *np.unique(tiers.inputs[k].scores["unsure"]), np.inf] for k in (0, 1)]
    for first in levels[0]:
        for second in levels[1]:
            quality, cost = replayed(Cascade(MODELS, (UNSURE,) * 2, (first, second)), tiers)
            if cost <= budget:
                best = max(best, quality)
    policy = calibrate(records, MODELS, Target(budget_flops=budget), router=UNSURE)
    quality, cost = replayed(policy, tiers)
    assert quality == pytest.approx(best, abs=1e-12)
    assert cost <= budget


@pytest.mark.parametrize("kind", ROUTER)
def test_what_is_found_is_what_the_saved_policy_does(records, tmp_path, kind):
    target = Target(budget_flops=1e7)
    made = calibrate(records, MODELS, target, kind=kind, router=ROUTER[kind], name="u")
    made.save(tmp_path / "p.json")
    policy = TierPolicy.load(tmp_path / "p.json")
    about = policy.about
    assert about == made.about
    chosen_on = join(records, MODELS, "validation")
    fold = fold_of(chosen_on.inputs[0].query_id, 2, HALVES_SEED)
    if kind in ("routing", "cascade_routing"):
        chosen_on = chosen_on.take(np.flatnonzero(fold == 1))
    assert (about["n_fit"], about["n_chosen_on"]) == (200 - len(chosen_on), len(chosen_on))
    quality, cost = replayed(policy, chosen_on)
    found = about["found"]
    assert found["quality"] == pytest.approx(quality, abs=1e-12)
    assert found["cost"] == pytest.approx(cost, rel=1e-12)
    assert found["quality_last"] == pytest.approx(chosen_on.quality[:, 2].mean(), abs=1e-12)
    done = decide(policy, chosen_on.inputs)
    lost = [max(0.0, q[2] - q[k]) for q, k in zip(chosen_on.quality, done.answer, strict=True)]
    assert found["quality_lost"] == pytest.approx(np.mean(lost), abs=1e-12)
    assert found["visited"] == done.visited.mean(axis=0).tolist()
    assert found["answered"] == [float((done.answer == k).mean()) for k in range(3)]
    assert about["expected"]["cost"] <= 1e7 * (1 + 1e-9)
    drawn = kind != "cascade"  # mixtures expect a mean over draws, and find one draw
    # 5 standard errors of the mean of draws from [0, 1] and [1e6, 2.5e7]
    spread = 5 / np.sqrt(len(chosen_on)) if drawn else 1e-12
    assert about["expected"]["quality"] == pytest.approx(found["quality"], abs=0.5 * spread)
    assert about["expected"]["cost"] == pytest.approx(found["cost"], abs=max(1.2e7 * spread, 1e-3))


def test_a_policy_does_on_the_test_split_what_the_comparison_says(records):
    """Each kind at one budget: the row of ``cascade evaluate --tiers``."""
    compared = compare_tiers(records, MODELS, {"u": UNSURE}, bootstrap=0)
    test = join(records, MODELS, "test")
    rows = {row["policy"]: row for row in compared["policies"] if row["models"] == list(MODELS)}
    target = Target(budget_flops=compared["budgets"][5])
    for kind, router in ROUTER.items():
        policy = calibrate(records, MODELS, target, kind=kind, router=router)
        point = rows[kind]["points"][5]
        assert replayed(policy, test) == pytest.approx((point["quality"], point["cost"]), rel=1e-12)


@pytest.mark.parametrize("kind", ROUTER)
def test_a_quality_is_reached_at_the_least_cost(records, kind):
    """What is expected reaches it; the next cheaper budget's best does not."""

    def expected(target):
        made = calibrate(records, MODELS, target, kind=kind, router=ROUTER[kind])
        return made.about["expected"]

    reached = expected(Target(quality=0.7))
    assert reached["quality"] >= 0.7
    cheaper = expected(Target(budget_flops=reached["cost"] * (1 - 1e-6)))
    assert cheaper["quality"] < 0.7


@pytest.mark.parametrize("kind", ROUTER)
def test_a_promise_is_tested_on_queries_that_did_not_choose(records, kind, monkeypatch):
    monkeypatch.setattr("routers.tier_calibration.STEPS", 9)
    policy = calibrate(records, MODELS, SURE, kind=kind, router=ROUTER[kind])
    tested, found = half(records, tested=True), policy.about["found"]
    assert found["n"] == len(tested) == 100
    assert policy.about["bound"] == "binomial"
    quality, cost = replayed(policy, tested)
    assert (found["quality"], found["cost"]) == pytest.approx((quality, cost), rel=1e-12)
    losses = found["quality_lost"] * found["n"]
    assert binom.cdf(round(losses), 100, 0.2) <= 0.1
    assert policy.about["promise"] == (
        "mean quality at most 0.2 below 'large', with probability 0.9"
    )


def test_the_cascade_promised_is_the_last_in_order_that_passes(records):
    """Walked by hand: from the dearest point of the other half's frontier."""
    from routers.joint_thresholds import chain, frontier

    orders, tested = half(records, tested=False), half(records, tested=True)
    capped = np.minimum(orders.quality, orders.quality[:, 2:])
    at = frontier(chain(dataclasses.replace(orders, quality=capped), (UNSURE,) * 2))
    assert len(at) < 64  # so that each is tested
    last = None
    for setting in at.settings[::-1].tolist():
        policy = Cascade(MODELS, (UNSURE,) * 2, tuple(setting))
        done = decide(policy, tested.inputs)
        losses = sum(
            max(0.0, q[2] - q[k]) for q, k in zip(tested.quality, done.answer, strict=True)
        )
        if binom.cdf(losses, len(tested), 0.2) > 0.1:
            break
        last = policy
    found = calibrate(records, MODELS, SURE, router=UNSURE)
    assert last is not None
    assert found.thresholds == last.thresholds


def changed(records, name, rows, values):
    """The records with some rows of one column replaced."""
    table = records.table
    column = table[name].to_numpy().copy()
    column[rows] = values
    place = table.column_names.index(name)
    return Records(table.set_column(place, name, pa.array(column, table[name].type)))


def test_outcomes_of_the_testing_half_only_stop_the_walk(records):
    """With all its answers equally good every setting passes: the end of the other half's order."""
    ids = set(half(records, tested=True).inputs[0].query_id.tolist())
    rows = np.flatnonzero([query in ids for query in records.table["query_id"].to_pylist()])
    easy = changed(records, "quality", rows, np.float32(1.0))
    policy = calibrate(easy, MODELS, SURE, router=UNSURE)
    orders = half(easy, tested=False)
    _, cost = replayed(policy, orders)
    assert policy.thresholds[0] == np.inf  # the cheapest: nothing is ever sent on
    assert cost == pytest.approx(orders.cost[:, 0].mean(), rel=1e-12)
    assert policy.about["expected"]["cost"] == pytest.approx(cost, rel=1e-12)


def test_a_learned_router_leaves_a_quarter_to_order_and_a_half_to_test(records):
    policy = calibrate(records, MODELS, SURE, router=build("stack:members=score:unsure+random"))
    about = policy.about
    assert (about["n_fit"], about["n_chosen_on"], about["found"]["n"]) == (50, 50, 100)


@pytest.mark.parametrize(
    ("bound", "levels"), [("binomial", (0.0, 1.0)), ("hoeffding_bentkus", (0.0, 0.3, 1.0))]
)
def test_the_promise_holds_in_1000_calibrations(bound, levels):
    """Settings in an order that is *not* monotone in risk; some are above epsilon, just."""
    epsilon, delta, queries = 0.1, 0.2, 80
    risk = np.array([0.02, 0.06, 0.04, 0.105, 0.08, 0.15, 0.09, 0.3])
    rng = np.random.default_rng(0)
    broken, useful = 0, 0
    for _ in range(1000):
        shared = rng.random(queries)  # settings lose on much the same queries, as thresholds do

        def losses(p, shared=shared):
            own = np.where(rng.random(queries) < 0.9, shared, rng.random(queries))
            lost = (own < risk[p] / np.mean(levels[1:])).astype(np.float64)
            return lost * rng.choice(levels[1:], queries)

        passed, _ = passed_in_order(losses, len(risk), epsilon=epsilon, delta=delta, bound=bound)
        broken += bool((risk[:passed] > epsilon).any())
        useful += passed > 0
    # 3 standard errors of a share of 1,000
    assert broken / 1000 <= delta + 3 * np.sqrt(delta * (1 - delta) / 1000)
    assert broken > 0  # it is put to the test
    assert useful > 500


def test_settings_beyond_the_first_that_fails_are_never_looked_at():
    asked = []

    def losses(p):
        asked.append(p)
        return np.full(50, float(p >= 2))

    found = passed_in_order(losses, 9, epsilon=0.1, delta=0.1, bound="binomial")
    assert found == (2, 1.0)
    assert asked == [0, 1, 2]


def test_a_graded_quality_takes_the_other_bound(records):
    rows = np.arange(len(records.table))
    graded = changed(records, "quality", rows, 0.9 * records.table["quality"].to_numpy())
    policy = calibrate(graded, MODELS, Target(max_quality_loss=0.3, delta=0.1), router=UNSURE)
    assert policy.about["bound"] == "hoeffding_bentkus"


def test_a_budget_in_another_unit_counts_that_unit(records):
    seconds = pa.array(np.repeat([[0.1], [0.5], [2.0]], 200, axis=1).ravel().tolist() * 2)
    log = Records(records.table.append_column("latency_s", seconds))
    policy = calibrate(log, MODELS, Target(budget_latency=1.0), router=UNSURE)
    found = policy.about["found"]
    assert policy.about["cost_unit"] == "latency_s"
    assert found["cost"] == pytest.approx(np.dot(found["visited"], [0.1, 0.5, 2.0]), rel=1e-12)
    assert 0.9 < found["cost"] <= 1.0


@pytest.mark.parametrize(
    ("target", "options", "says"),
    [
        ({"budget_flops": 1e7}, {}, "cascade judges answers; name the router"),
        ({"budget_flops": 1e7}, {"kind": "cascade_routing"}, "name the router"),
        ({"budget_flops": 1e7}, {"kind": "routing", "router": UNSURE}, "leave the router out"),
        ({"budget_flops": 1e7}, {"kind": "static", "router": UNSURE}, "leave the router out"),
        ({"deferral_rate": 0.3}, {"router": UNSURE}, "says nothing about more than two"),
        ({"max_quality_loss": 0.1, "in_expectation": True}, {"router": UNSURE}, "use --delta"),
        ({"budget_flops": 1e3}, {"router": UNSURE}, "within 1000; the least is 1.1"),
        ({"budget_dollars": 1.0}, {"router": UNSURE}, "column 'dollars' is empty for model 'sm"),
        ({"quality": 0.999}, {"router": UNSURE}, "reaches quality 0.999 .*; the best is 0.9"),
        ({"budget_flops": 1e7}, {"router": build("oracle")}, "Oracle sees the outcomes"),
        ({"budget_flops": 1e7}, {"router": build("prompt")}, "Prompt decides before"),
        ({"budget_flops": 1e7}, {"router": Column("x")}, "lack column 'score:x'"),
        ({"budget_flops": 1e7}, {"router": UNSURE, "split": "train"}, "no rows in split 'train'"),
    ],
)
def test_what_is_refused(records, target, options, says):
    with pytest.raises(InputError, match=says):
        calibrate(records, MODELS, Target(**target), **options)


@pytest.mark.parametrize("models", [MODELS[::-1], MODELS[:1], ("small", "x"), ("small", "small")])
def test_models_that_make_no_tiers(records, models):
    with pytest.raises(InputError, match=r"cheapest first|no model 'x'|named twice"):
        calibrate(records, models, Target(budget_flops=1e7), router=UNSURE)


def test_data_that_cannot_support_a_promise_say_how_many_more(records):
    strict = Target(max_quality_loss=0.01, delta=0.1)
    with pytest.raises(NotSupported, match="even if none lost anything that takes 230") as caught:
        calibrate(records, MODELS, strict, router=UNSURE)
    assert caught.value.more == 2 * (230 - 100)


def test_where_only_the_last_model_passes_there_is_no_policy(records):
    """The others are always wrong: keeping any answer costs more than is allowed."""
    small = np.array(records.table["model"].to_pylist()) != "large"
    hopeless = changed(records, "quality", np.flatnonzero(small), np.float32(0.0))
    target = Target(max_quality_loss=0.03, delta=0.1)
    with pytest.raises(NotSupported, match="the safest setting that keeps any answer") as caught:
        calibrate(hopeless, MODELS, target, kind="static")
    assert caught.value.more is None or caught.value.more > 0
