"""Ready-made scores: read as they are, asked for once, and members of other routers."""

import numpy as np
import pytest
import tiers_planted as planted
from planted import from_rows

from routers.build import build, router_name
from routers.column import Column
from routers.compare_tiers import compare_tiers
from routers.errors import InputError
from routers.evaluate import evaluate
from routers.operating_point import calibrate
from routers.policy import Policy
from routers.records import pair
from routers.targets import Target
from routers.zoo.stack import Stack


@pytest.fixture(scope="module")
def records():
    return planted.records(60, models=2)


def test_the_score_is_the_column():
    given = from_rows(scores={"s": np.array([0.5, -1.0])}, response_tokens=np.ones(2, np.int64))
    assert Column("s").score(given).tolist() == [0.5, -1.0]
    assert Column("s").flops_per_query(given).tolist() == [0.0, 0.0]
    with pytest.raises(InputError, match="lack column 'score:other' for these queries"):
        Column("other").score(given)


def test_a_router_has_a_name_only_if_a_file_or_a_column_defines_it():
    class Mine(Column):
        pass

    assert [router_name(build(s)) for s in ("score:x", "knn:k=3")] == ["score", "knn"]
    with pytest.raises(InputError, match="no router 'test_column'"):
        router_name(Mine("x"))


def test_a_column_asked_for_by_name_is_not_there_twice(records):
    spec = {"score:unsure": build("score:unsure")}
    found = evaluate(records, spec, bootstrap=0).summary["routers"]
    alone = evaluate(records, {}, bootstrap=0).summary["routers"]
    assert list(found) == ["score:unsure"]
    assert found["score:unsure"] == alone["unsure"]
    tiers = compare_tiers(records, planted.MODELS[:2], spec, bootstrap=0)
    names = {row["router"] for row in tiers["policies"]}
    assert names == {None, "score:unsure"}


def test_a_column_becomes_a_policy_that_names_it(records, tmp_path):
    made = calibrate(records, build("score:unsure"), Target(deferral_rate=0.3))
    assert made.about["needs_score"] == "score:unsure"
    assert (
        calibrate(records, build("random"), Target(deferral_rate=0.3)).about["needs_score"] is None
    )
    made.save(tmp_path / "p.json")
    inputs, _ = pair(records, "small", "medium", "validation")
    score = inputs.scores["unsure"]
    sent = Policy.load(tmp_path / "p.json").decide(inputs)
    assert sorted(score[sent]) == sorted(score)[-18:]  # 30 % of 60, the highest


def test_a_column_can_be_a_member(records):
    inputs, outcomes = pair(records, "small", "medium", "validation")
    stack = Stack(members="score:unsure+random").fit(inputs, outcomes)
    assert np.ptp(stack.score(inputs)) > 0
