"""The report as a browser sees it; skipped where no Chromium is installed.

A probe is appended to a copy of the report: it works the controls and writes what it finds
into the page, and ``--dump-dom`` brings that back.
"""

import html
import json

import fake_run
import pytest
from browser import EARLY, FRAME, browse, needs_browser

from experiments import report
from experiments.report_data import read

pytestmark = needs_browser

PROBE = """<script>{
const $ = (selector) => [...document.querySelectorAll(selector)];
const lines = () => document.getElementById("curves").data.filter(
  (t) => t.hovertemplate && t.name).map((t) => t.name);
const press = (kind, value) =>
  $("button[data-kind]").find((b) => b.dataset.kind === kind && b.dataset.value === value).click();
const told = () => Object.fromEntries(["rate", "threshold", "quality", "flops"].map(
  (key) => [key, document.getElementById("out-" + key).textContent]));
const chart = () => document.getElementById("curves").layout;
const found = { failure: !document.getElementById("failure").hidden, title: document.title };
found.charts = $(".js-plotly-plot").length;
found.paths = $("#curves .scatterlayer path.js-line").length;
found.lines = lines();
found.notes = chart().annotations.length;
found.axis = chart().xaxis.title.text;
found.paper = chart().paper_bgcolor;
found.told = told();
const range = document.getElementById("operate-rate");
range.value = 50; range.dispatchEvent(new Event("input", { bubbles: true }));
found.moved = told();
found.spoken = range.getAttribute("aria-valuetext");
press("routers", "chow_sum"); press("arms", "xent");
found.toggled = lines();
found.pressed = $('button[aria-pressed="true"]').map((b) => b.dataset.value);
press("axis", "rate");
found.rate_axis = chart().xaxis.title.text;
found.rate_notes = chart().annotations.length;
const table = $("table")[0];
const column = (k) => [...table.tBodies[0].rows].map((row) => Number(row.cells[k].dataset.sort));
const sorter = table.tHead.rows[0].cells[2].querySelector("button");
sorter.click(); found.down = column(2); found.sort = sorter.parentElement.ariaSort;
sorter.click(); found.up = column(2);
found.loaded = performance.getEntriesByType("resource").map((entry) => entry.name);
found.refused = window.refused;
found.width = [document.documentElement.scrollWidth, document.documentElement.clientWidth];
found.wide = $(".chart").filter((c) => c.querySelector("svg").getBoundingClientRect().right >
  document.documentElement.clientWidth).length;
const note = document.createElement("pre");
note.id = "probe"; note.textContent = JSON.stringify(found);
document.body.append(note);
if (parent !== window) parent.postMessage(note.textContent, "*");
}</script>"""


def probed(run, folder):
    text = report.page(read(run)).replace("<head>", "<head>" + EARLY, 1)
    path = folder / "report.html"
    path.write_text(text.replace("</body>", PROBE + "</body>"))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fake_run.make(tmp_path_factory.mktemp("browser") / "demo", queries=300, steps=8)


@pytest.fixture(scope="module")
def found(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    return browse(probed(run, folder), folder, "--window-size=1280,900")


def test_every_chart_is_drawn_without_an_error(found):
    assert not found["failure"]
    assert found["charts"] == 1 + len(fake_run.TASKS) + 1 + len(fake_run.ARMS)
    # bands and lines of 3 arms x 2 routers, random and oracle
    assert found["paths"] == 6 + 6 + 2
    assert len(found["lines"]) == 6
    assert found["notes"] == 2  # the arrow and its label
    assert found["axis"] == "mean FLOPs per query / large-only"


def test_nothing_was_fetched_and_nothing_was_refused(found):
    assert found["loaded"] == []
    assert found["refused"] == []


def test_the_slider_reads_the_curve(run, found):
    curve = read(run).curves["cat_xent"]["chow_average"]
    for told, k in ((found["told"], 30), (found["moved"], 50)):
        assert told == {
            "rate": f"{100 * curve.deferral_rate[k]:.1f} %",
            "threshold": f"{curve.threshold[k]:.4f}".replace("-", "−"),
            "quality": f"{curve.quality[k]:.3f}",
            "flops": f"{curve.flops[k] / fake_run.LARGE_FLOPS:.3f} × large",
        }
    assert found["spoken"].startswith("50.0 % sent on, quality ")


def test_toggles_show_and_hide_lines(found):
    routers = ("chow_average", "chow_sum", "post_hoc:learner=mlp")
    expected = [f"{arm} · {router}" for arm in ("cat_xent", "random_mask") for router in routers]
    assert [html.unescape(name) for name in found["toggled"]] == expected
    assert set(found["pressed"]) == {"cat_xent", "random_mask", *routers, "fraction"}


def test_the_axis_switches_to_the_deferral_rate_without_the_flops_arrow(found):
    assert found["rate_axis"] == "deferral rate"
    assert found["rate_notes"] == 0


def test_a_heading_sorts_its_table(found):
    assert len(found["down"]) == len(fake_run.ARMS) * len(fake_run.ROUTERS)
    assert found["down"] == sorted(found["down"], reverse=True)
    assert found["up"] == sorted(found["up"])
    assert found["sort"] == "descending"


def test_a_dark_phone_never_scrolls_sideways_and_has_dark_charts(run, found, tmp_path):
    probed(run, tmp_path)
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME)
    phone = browse(frame, tmp_path, "--blink-settings=preferredColorScheme=0")
    assert phone["width"] == [390, 390]
    assert phone["wide"] == 0
    assert not phone["failure"]
    assert (found["paper"], phone["paper"]) == ("#ffffff", "#15171a")


def test_hostile_names_and_missing_parts_run_no_script_and_raise_no_error(tmp_path):
    arm = '</script><img src=x onerror="document.title=1"><b>%{x}'
    run = fake_run.make(tmp_path / "run", queries=60, steps=3)
    summary = json.loads((run / "summary.json").read_text())
    summary["arms"] = {arm: summary["arms"]["xent"], "cat_xent": summary["arms"]["cat_xent"]}
    for part in ("tasks", "macro", "comparisons", "notes"):
        del summary[part]
    fake_run.write(run, summary)
    data = read(run)
    data.curves[arm] = data.curves["cat_xent"]
    page = tmp_path / "report.html"
    script = """<script>const pre = document.createElement("pre"); pre.id = "probe";
pre.textContent = JSON.stringify({ title: document.title, images: document.images.length,
  failure: document.getElementById("failure").textContent,
  lines: document.querySelectorAll("#curves .scatterlayer path.js-line").length });
document.body.append(pre);</script>"""
    page.write_text(report.page(data).replace("</body>", script + "</body>"))
    found = browse(page, tmp_path)
    assert found == {"title": "demo · cascade report", "images": 0, "failure": "", "lines": 10}
