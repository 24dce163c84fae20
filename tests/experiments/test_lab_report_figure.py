import dataclasses

import fake_lab
import numpy as np
import pytest

from experiments import lab_figure
from experiments.cli import main
from experiments.lab_sections import shown
from routers.errors import InputError


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    return fake_lab.make(tmp_path_factory.mktemp("lab") / "log.parquet", bootstrap=0)[0]


def lines(axes):
    """(x, y) of the lines that are data, by their name."""
    return {line.get_gid(): line.get_data() for line in axes.lines if line.get_gid()}


def test_the_figure_draws_what_the_page_shows_first(lab, tmp_path):
    figure = lab_figure.write(lab, tmp_path / "lab.png")
    main_axes, *panels = figure.axes
    drawn = lines(main_axes)
    assert list(drawn) == ["reference random", *shown(lab), "reference oracle"]
    large = lab.summary["flops"]["large"]
    for router in lab.deployable:
        np.testing.assert_allclose(drawn[router.name][0], router.sweep.cost / large, rtol=1e-12)
        np.testing.assert_array_equal(drawn[router.name][1], router.sweep.quality)
    for axes, panel in zip(panels, lab.panels, strict=True):
        assert axes.get_title(loc="left").startswith(panel.task)
        for name, (_, quality) in lines(axes).items():
            wanted = panel.random if name == "reference random" else panel.curves[name]
            np.testing.assert_array_equal(quality, wanted.quality)
        assert axes.get_ylim() == panels[0].get_ylim()
        assert axes.get_xlim() == panels[0].get_xlim()
    assert {text.get_text() for text in main_axes.texts} >= {"S-only", "L-only", *shown(lab)}
    assert main_axes.get_xscale() == "linear"


def test_a_wide_span_of_costs_is_drawn_on_a_logarithmic_axis(lab, tmp_path):
    assert not lab.log_axis  # the least cost is a hundredth of the large model's
    costs = lab.summary["flops"]
    wide = dataclasses.replace(lab, summary=lab.summary | {"flops": costs | {"large": 2e9}})
    assert wide.log_axis
    assert lab_figure.write(wide, tmp_path / "lab.png").axes[0].get_xscale() == "log"


def test_a_name_is_text_and_a_free_large_model_has_no_fraction(tmp_path):
    odd = r"$\frac$ 100 % _a and a name that goes on"  # as a formula it would not parse
    how = {"by_task": False, "bootstrap": 0, "scores": (odd,)}
    lab, _, _ = fake_lab.make(tmp_path / "log.parquet", ["length"], **how)
    lab.summary["small"] = odd
    lab.summary["flops"]["large"] = 0.0
    figure = lab_figure.write(lab, tmp_path / "lab.svg")
    assert len(figure.axes) == 1
    assert figure.axes[0].get_xlabel() == "mean FLOPs per query"
    names = [text.get_text() for text in figure.axes[0].texts]
    assert r"\$\frac\$ 100 % _a and a name tha…" in names


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_the_suffix_chooses_the_format(tmp_path, capsys, suffix):
    log, out = fake_lab.log(tmp_path / "log.parquet"), tmp_path / "out" / f"lab.{suffix}"
    asked = ["--router", "length", "--bootstrap", "0", "--by-task", "--report", str(out)]
    assert main(["evaluate", str(log), *asked]) == 0
    assert f"report: {out}" in capsys.readouterr().out
    starts = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
    assert out.read_bytes().startswith(starts[suffix])
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_another_format_is_refused(lab, tmp_path):
    with pytest.raises(InputError, match=r"end the name in \.png, \.svg or \.pdf"):
        lab_figure.write(lab, tmp_path / "lab.gif")
