import dataclasses

import fake_run
import numpy as np
import pytest

from experiments.report_data import read
from experiments.report_finding import finding, percent, rival

FLOPS = {
    "arm": "cat_xent",
    "against": "xent",
    "router": "chow_average",
    "metric": "flops_at_equal_quality",
    "at_quality": 0.72,
}
AREA = {"arm": "cat_xent", "against": "xent", "router": "chow_average", "metric": "audc"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return read(fake_run.make(tmp_path_factory.mktemp("run")))


def compared(run, *rows):
    return dataclasses.replace(run, summary=run.summary | {"comparisons": list(rows)})


def test_a_saving_is_stated_with_its_interval_and_quality(run):
    row = FLOPS | {"difference": -0.234, "ci": [-0.345, -0.051]}
    found = finding(compared(run, row))
    assert found.real
    assert found.text == (
        "cat_xent with chow_average needs 23 % [5.1,\u00a034] fewer FLOPs "
        "than xent at equal quality (0.720)."
    )
    assert found.arrow.label == "−23 % FLOPs [−34, −5.1]"


def test_a_loss_is_stated_as_plainly_as_a_gain(run):
    found = finding(compared(run, FLOPS | {"difference": 0.1, "ci": [0.05, 0.2]}))
    assert "needs 10 % [5.0,\u00a020] more FLOPs" in found.text
    assert found.arrow.label == "+10 % FLOPs [+5.0, +20]"


@pytest.mark.parametrize("span", [[-0.3, 0.1], [0.0, 0.2], [-0.2, 0.0]])
def test_an_interval_that_covers_zero_is_no_finding(run, span):
    found = finding(compared(run, FLOPS | {"difference": -0.1, "ci": span}))
    assert found.text.startswith(
        "No difference found: the 95 % interval of cat_xent with chow_average against xent"
    )
    assert found.text.endswith("covers zero.")
    assert (found.real, found.arrow) == (False, None)


def test_the_arrow_joins_the_two_drawn_curves_at_one_quality(run):
    arrow = finding(compared(run, FLOPS | {"difference": -0.2, "ci": [-0.3, -0.1]})).arrow
    assert arrow.lines == (("xent", "chow_average"), ("cat_xent", "chow_average"))
    for (arm, router), flops in zip(arrow.lines, (arrow.flops_from, arrow.flops_to), strict=True):
        curve = run.curves[arm][router]
        assert np.interp(flops, curve.flops, curve.quality) == pytest.approx(0.72, abs=1e-12)
    assert arrow.flops_to < arrow.flops_from


def test_no_arrow_where_a_curve_never_gets_there_or_is_not_drawn(run):
    sure = {"difference": -0.2, "ci": [-0.3, -0.1]}
    assert finding(compared(run, FLOPS | sure | {"at_quality": 0.99})).arrow is None
    assert finding(compared(run, FLOPS | sure | {"at_quality": None})).arrow is None
    assert finding(compared(run, FLOPS | sure | {"router": "unknown"})).arrow is None


def test_areas_speak_when_no_flops_are_compared(run):
    found = finding(compared(run, AREA | {"difference": -0.0214, "ci": [-0.03, -0.01]}))
    assert (
        found.text
        == "cat_xent with chow_average has a 0.021 [0.010,\u00a00.030] lower AUDC than xent."
    )
    assert found.real
    assert found.arrow is None
    quiet = finding(compared(run, AREA | {"difference": 0.01, "ci": [-0.01, 0.03]}))
    assert "−0.010 to +0.030 AUDC, covers zero" in quiet.text


def test_the_most_telling_comparison_wins_whatever_the_order(run):
    sure = {"difference": -0.2, "ci": [-0.3, -0.1]}
    others = [
        AREA | sure,
        FLOPS | sure | {"against": "random_mask"},
        FLOPS | sure | {"arm": "random_mask"},
        FLOPS | sure | {"router": "chow_sum"},
        FLOPS | {"difference": None, "ci": None},
        FLOPS | {"difference": -0.5, "ci": None},
    ]
    best = FLOPS | {"difference": -0.4, "ci": [-0.5, -0.3]}
    for rows in ([best, *others], [*others, best]):
        assert "40 % [30,\u00a050] fewer" in finding(compared(run, *rows)).text


def test_two_routers_are_both_named(run):
    row = AREA | {"against_router": "post_hoc", "difference": 0.02, "ci": [0.01, 0.03]}
    text = finding(compared(run, row)).text
    assert text.startswith("cat_xent with chow_average has")
    assert text.endswith("than xent with post_hoc.")


def test_the_rival_is_the_hardest_other_router_won_or_lost(run):
    def against(router, difference):
        span = [difference - 0.01, difference + 0.01]
        return AREA | {"against_router": router, "difference": difference, "ci": span}

    assert rival(compared(run, AREA | {"difference": 0.2, "ci": [0.1, 0.3]})) is None
    lost = rival(compared(run, against("mlp", 0.05), against("booster", -0.02)))
    assert lost.text == (
        "cat_xent with chow_average has a 0.020 [0.010,\u00a00.030] lower AUDC "
        "than xent with booster."
    )
    tied = rival(compared(run, against("mlp", 0.05), against("booster", 0.005)))
    assert tied.text.startswith("No difference found")
    assert "against xent with booster" in tied.text
    assert not tied.real


def test_no_comparison_is_said_to_be_none(run):
    assert finding(compared(run)).text == "No paired comparison of arms was made in this run."


@pytest.mark.parametrize(
    ("value", "shown"), [(-0.0994, "−9.9"), (0.0996, "+10"), (0.0, "0.0"), (-1.5, "−150")]
)
def test_percent_keeps_two_figures_and_a_true_minus(value, shown):
    assert percent(value) == shown
