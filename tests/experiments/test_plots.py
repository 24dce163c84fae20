import itertools
import json
import subprocess
import sys

import fake_run
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from experiments import plots, report_style
from experiments.report_data import read
from routers.errors import InputError

MAGIC = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fake_run.make(tmp_path_factory.mktemp("plots") / "demo")


@pytest.fixture(scope="module")
def figure(run, tmp_path_factory):
    """The picture as it is by default."""
    return plots.quality_flops(run, tmp_path_factory.mktemp("default") / "q.png")


@pytest.fixture
def own(tmp_path):
    return fake_run.make(tmp_path / "own", queries=90, steps=3)


def change(folder, edit):
    summary = json.loads((folder / "summary.json").read_text())
    edit(summary)
    fake_run.write(folder, summary)
    return folder


def drawn(figure):
    """Curves of the main axes by what they show, end-label samples left out."""
    return {line.get_gid(): line for line in figure.axes[0].lines if line.get_gid()}


def words(figure):
    return [text for text in figure.findobj(lambda a: hasattr(a, "get_text")) if text.get_text()]


@pytest.mark.parametrize(
    ("draw", "suffix"),
    [
        (plots.quality_flops, ".png"),
        (plots.quality_flops, ".pdf"),
        (plots.per_task, ".svg"),
        (plots.keep_rate, ".png"),
    ],
)
def test_each_figure_in_each_format(run, tmp_path, draw, suffix):
    out = tmp_path / "new" / f"figure{suffix}"
    figure = draw(run, out)
    assert out.read_bytes().startswith(MAGIC[suffix])
    assert out.stat().st_size > 5_000
    assert [path.name for path in out.parent.iterdir()] == [out.name]  # no temporary is left
    assert figure.axes


def test_the_same_run_writes_the_same_bytes(run, tmp_path):
    for name in ("a.svg", "b.svg"):
        plots.quality_flops(run, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_lines_are_the_files_in_units_of_the_large_model(run, figure):
    lines = drawn(figure)
    assert set(lines) == {
        "random",
        "oracle",
        "xent/chow_average",
        "cat_xent/chow_average",
        "random_mask/chow_average",
        "xent/post_hoc:learner=mlp",
    }
    points = np.genfromtxt(run / "curves/cat_xent/chow_average.csv", delimiter=",", names=True)
    line = lines["cat_xent/chow_average"]
    np.testing.assert_allclose(line.get_xdata(), points["flops"] / fake_run.LARGE_FLOPS, rtol=1e-12)
    np.testing.assert_allclose(line.get_ydata(), points["quality"], rtol=1e-12)


def test_hue_is_the_arm_and_dash_is_the_router(run, tmp_path):
    figure = plots.quality_flops(run, tmp_path / "q.png", routers=["chow_average", "chow_sum"])
    lines = drawn(figure)
    for arm in fake_run.ARMS:
        one, two = lines[f"{arm}/chow_average"], lines[f"{arm}/chow_sum"]
        assert one.get_color() == two.get_color()
        assert one.is_dashed() != two.is_dashed()
    hues = {lines[f"{arm}/chow_sum"].get_color() for arm in fake_run.ARMS}
    assert len(hues) == len(fake_run.ARMS)


def test_random_is_dashed_oracle_dotted_and_both_grey(figure):
    lines = drawn(figure)
    assert lines["random"].get_linestyle() == "--"
    assert lines["oracle"].get_linestyle() == ":"
    assert {lines[name].get_color() for name in ("random", "oracle")} == {report_style.QUIET}
    slope = np.diff(lines["random"].get_ydata()) / np.diff(lines["random"].get_xdata())
    assert np.ptp(slope) < 1e-9  # a chord


def test_each_line_has_a_band_and_none_without_an_interval(own, tmp_path):
    assert len(plots.quality_flops(own, tmp_path / "q.png").axes[0].collections) == 4
    path = own / "curves/xent/chow_average.csv"
    rows = np.genfromtxt(path, delimiter=",", skip_header=1)
    rows[:, 2:4] = np.nan
    np.savetxt(path, rows, delimiter=",", header=path.read_text().splitlines()[0], comments="")
    assert len(plots.quality_flops(own, tmp_path / "q.png").axes[0].collections) == 3


def test_both_ends_are_points_with_names(run, figure):
    dots = [line for line in figure.axes[0].lines if line.get_marker() in ("o", "D")]
    at = {(float(d.get_xdata()[0]), float(d.get_ydata()[0])) for d in dots}
    data = read(run)
    small = {(f / data.large_flops, q) for f, q in map(data.points, data.arms)}
    assert at == small | {(1.0, data.large_quality)}
    texts = [text.get_text() for text in words(figure)]
    assert {"S-only", "L-only", "oracle (xent)", "random (xent)"} <= set(texts)


def test_the_second_axis_is_absolute(figure):
    above = figure.axes[0].child_axes[0]
    low, high = figure.axes[0].get_xlim()
    expected = (low * fake_run.LARGE_FLOPS, high * fake_run.LARGE_FLOPS)
    assert above.get_xlim() == pytest.approx(expected, rel=1e-9)
    assert above.get_xlabel() == "FLOPs per query"


def arrows(figure):
    return [t for t in words(figure) if "% FLOPs" in t.get_text()]


def test_the_finding_is_one_annotation(run, figure):
    (label,) = arrows(figure)
    change_of = read(run).summary["comparisons"][1]["difference"]
    assert label.get_text().startswith(f"−{-100 * change_of:.0f} % FLOPs [")


def test_no_annotation_when_the_interval_covers_zero(own, tmp_path):
    def unsure(summary):
        for row in summary["comparisons"]:
            row["ci"] = [-0.2, 0.1]

    assert not arrows(plots.quality_flops(change(own, unsure), tmp_path / "q.png"))


def test_no_annotation_when_its_lines_are_not_drawn(run, tmp_path):
    assert not arrows(plots.quality_flops(run, tmp_path / "q.png", arms=["cat_xent"]))


def test_up_to_six_lines_are_named_at_their_ends_and_more_in_a_legend(run, figure, tmp_path):
    assert not figure.legends
    names = {t.get_text() for t in words(figure) if " · " in t.get_text()}
    assert "cat_xent · chow_average" in names
    assert len(names) == 4
    many = plots.quality_flops(run, tmp_path / "m.png", routers=list(fake_run.ROUTERS))
    assert len(many.legends[0].get_texts()) == 9


def test_no_word_lies_on_another_or_outside(run, tmp_path):
    figure = plots.quality_flops(run, tmp_path / "q.png", arms=["xent", "cat_xent"])
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    named = [t for t in words(figure) if " · " in t.get_text() or t.get_text()[1:] == "-only"]
    boxes = [text.get_window_extent(canvas.get_renderer()) for text in named]
    assert len(boxes) == 4
    for one, two in itertools.combinations(boxes, 2):
        assert not one.overlaps(two)
    for box in boxes:
        assert box.x1 <= figure.bbox.x1 + 1
        assert box.y1 <= figure.bbox.y1


def test_the_caption_carries_n_seeds_cost_and_protocol(figure):
    text = " ".join(figure.get_supxlabel().split())
    for part in ("n = 900", "2 seeds", "exact matmul FLOPs", "sweep", "95 %"):
        assert part in text


def test_a_wide_span_of_flops_asks_for_a_logarithmic_axis(own, tmp_path):
    assert plots.quality_flops(own, tmp_path / "q.png").axes[0].get_xscale() == "linear"
    change(own, lambda s: s["large"].update(flops=200 * fake_run.SMALL_FLOPS))
    assert plots.quality_flops(own, tmp_path / "q.png").axes[0].get_xscale() == "log"


def test_twelve_routers_stay_apart():
    order = [f"router{i}" for i in range(12)]
    assert len({report_style.router_dash(router, order) for router in order}) == 12
    assert len({report_style.plotly_dash(router, order) for router in order}) == 12


def test_ten_arms_stay_apart(run):
    data = read(run)
    data.summary["arms"] = {f"arm{i}": {} for i in range(10)}
    looks = [report_style.arm_style(data, arm) for arm in data.arms]
    assert len({(look["color"], look.get("marker")) for look in looks}) == 10


def test_tasks_share_axes_and_stand_in_order_of_effect(run, tmp_path):
    figure = plots.per_task(run, tmp_path / "t.png")
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert len(panels) == len(fake_run.TASKS)
    assert len({axes.get_xlim() + axes.get_ylim() for axes in panels}) == 1
    assert all(len(axes.lines) == len(fake_run.ARMS) for axes in panels)
    effects = {}
    for task, entry in read(run).summary["tasks"].items():
        area = {arm: by["chow_average"]["audc"] for arm, by in entry["routers"].items()}
        effects[task] = area["cat_xent"] - area["xent"]
    expected = sorted(effects, key=effects.__getitem__, reverse=True)
    assert [axes.get_title(loc="left").split()[0] for axes in panels] == expected
    assert f"{effects[expected[0]]:+.3f} AUDC" in panels[0].get_title(loc="left")


def test_tasks_without_the_cat_arm_have_no_effect_and_go_by_name(own, tmp_path):
    def without(summary):
        del summary["arms"]["cat_xent"]
        for entry in summary["tasks"].values():
            del entry["curves"]["cat_xent"]

    figure = plots.per_task(change(own, without), tmp_path / "t.png")
    assert [axes.get_title(loc="left") for axes in figure.axes] == sorted(fake_run.TASKS)


def test_shares_of_tokens_fill_the_panel(run, tmp_path):
    figure = plots.keep_rate(run, tmp_path / "k.png")
    assert len(figure.axes) == 1 + len(fake_run.ARMS)
    assert len(figure.axes[0].lines) == len(fake_run.ARMS)
    for axes in figure.axes[1:]:
        assert len(axes.collections) == 4
        top = axes.collections[-1].get_paths()[0].vertices[:, 1].max()
        assert top == pytest.approx(1.0, abs=1e-12)


def test_what_cannot_be_drawn_says_what_to_do(own, tmp_path):
    with pytest.raises(InputError, match=r"end the name in \.png, \.svg or \.pdf"):
        plots.quality_flops(own, tmp_path / "q.gif")
    change(own, lambda s: s.pop("tasks"))
    with pytest.raises(InputError, match="no per-task curves"):
        plots.per_task(own, tmp_path / "t.png")
    for path in (own / "arms").rglob("metrics.jsonl"):
        path.unlink()
    with pytest.raises(InputError, match="train the arms first"):
        plots.keep_rate(own, tmp_path / "k.png")
    assert list(tmp_path.glob("*.*")) == []


def test_spread_is_the_least_movement_that_makes_room():
    rng = np.random.default_rng(3)
    for _ in range(5):
        wanted = np.sort(rng.uniform(0, 1, 3))
        found = plots.spread(wanted, 0.3)
        assert (np.diff(found) >= 0.3 - 1e-12).all()
        grid = np.linspace(-0.6, 1.6, 56)
        rows = np.array(list(itertools.combinations(grid, 3)))
        rows = rows[(np.diff(rows, axis=1) >= 0.3 - 1e-9).all(1)]
        best = ((rows - wanted) ** 2).sum(1).min()
        ours = ((found - wanted) ** 2).sum()
        assert ours <= best + 1e-12
    apart = np.array([0.0, 1.0, 5.0])
    np.testing.assert_array_equal(plots.spread(apart, 0.5), apart)


def test_importing_the_module_does_not_import_matplotlib():
    code = "import sys, experiments.plots, experiments.report; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
