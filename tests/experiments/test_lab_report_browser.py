"""The router laboratory's report as a browser sees it; skipped where no Chromium is installed."""

import html

import fake_lab
import pytest
from browser import EARLY, FRAME, browse, needs_browser

from experiments import lab_report, lab_text

pytestmark = needs_browser

PROBE = """<script>{
const $ = (selector) => [...document.querySelectorAll(selector)];
const chart = (id) => document.getElementById(id);
const lines = () => chart("curves").data.filter((t) => t.name).map((t) => t.name);
const press = (kind, value) =>
  $("button[data-kind]").find((b) => b.dataset.kind === kind && b.dataset.value === value).click();
const text = (id) => document.getElementById(id).textContent;
const told = () => Object.fromEntries(
  ["rate", "threshold", "quality", "quality-note", "change", "cost", "cost-note"].map(
    (key) => [key, text("out-" + key)]));
const set = (id, value) => {
  chart(id).value = value; chart(id).dispatchEvent(new Event("input", { bubbles: true }));
};
const circle = () => chart("curves").data.find(
  (t) => t.marker && t.marker.symbol === "circle-open");
const found = { failure: !document.getElementById("failure").hidden, title: document.title };
found.charts = $(".js-plotly-plot").map((c) => c.id);
found.traces = Object.fromEntries($(".js-plotly-plot").map((c) => [c.id, c.data.length]));
found.paths = $("#curves .scatterlayer path.js-line").length;
found.bars = $("#parts .bars .point").length;
found.gap = $("#gap .bars .point").length;
found.lines = lines();
found.hover = chart("curves").data.find((t) => t.name).text[1];
found.axis = chart("curves").layout.xaxis.title.text;
found.paper = chart("curves").layout.paper_bgcolor;
found.told = told();
found.circle = [circle().x[0], circle().y[0]];
found.shares = chart("parts").data.map((t) => t.x);
set("operate-rate", 62);
found.moved = told();
found.moved_circle = [circle().x[0], circle().y[0]];
found.spoken = chart("operate-rate").getAttribute("aria-valuetext");
set("operate-rate", 0); found.none = [text("out-threshold"), text("out-threshold-note")];
set("operate-rate", 100); found.all = [text("out-threshold"), text("out-threshold-note")];
set("operate-router", "length"); set("operate-rate", 7); found.command = text("command");
set("operate-router", "mine"); set("operate-rate", 30);
found.column = [text("command"), text("deploy-note")];
press("routers", "random"); press("routers", "oracle");
found.toggled = lines();
found.pressed = $('button[aria-pressed="true"]').map((b) => b.dataset.value);
found.panel = chart("task-0").data.length;
press("axis", "rate");
found.rate_axis = chart("curves").layout.xaxis.title.text;
const table = $("table")[0];
const column = (k) => [...table.tBodies[0].rows].map((row) => Number(row.cells[k].dataset.sort));
const sorter = table.tHead.rows[0].cells[1].querySelector("button");
sorter.click(); found.down = column(1); found.sort = sorter.parentElement.ariaSort;
sorter.click(); found.up = column(1);
found.focusable = $("button, select, input").every((one) => one.tabIndex >= 0);
found.labelled = $("select, input").every((one) => one.labels.length === 1);
found.scrollable = $(".scroll, #command").every((one) => one.tabIndex === 0);
found.loaded = performance.getEntriesByType("resource").map((entry) => entry.name);
found.refused = window.refused;
found.width = [document.documentElement.scrollWidth, document.documentElement.clientWidth];
found.wide = $(".chart").filter((c) => c.querySelector("svg").getBoundingClientRect().right >
  document.documentElement.clientWidth).map((c) => c.id);
const note = document.createElement("pre");
note.id = "probe"; note.textContent = JSON.stringify(found);
document.body.append(note);
if (parent !== window) parent.postMessage(note.textContent, "*");
}</script>"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    return fake_lab.make(tmp_path_factory.mktemp("lab") / "log.parquet")[0]


def probed(lab, folder, probe=PROBE):
    path = folder / "report.html"
    text = lab_report.page(lab).replace("<head>", "<head>" + EARLY, 1)
    path.write_text(text.replace("</body>", probe + "</body>"))
    return path


@pytest.fixture(scope="module")
def found(lab, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    return browse(probed(lab, folder), folder, "--window-size=1280,900")


def minus(text):
    return text.replace("-", "−")


def router(lab, name):
    return next(router for router in lab.routers if router.name == name)


def test_every_chart_is_drawn_without_an_error(lab, found):
    assert not found["failure"]
    panels = [f"task-{i}" for i in range(len(fake_lab.TASKS))]
    assert found["charts"] == ["curves", "parts", "gap", "reliability", *panels]
    drawn = len(lab.deployable)
    # a band, random and oracle, the lines, both models alone, the operating point
    assert found["traces"]["curves"] == 1 + 2 + drawn + 2 + 1
    assert found["paths"] == 1 + 2 + drawn
    assert found["bars"] == 3 * (drawn + 2)
    assert found["gap"] == 4 * drawn
    assert found["traces"]["reliability"] == 1 + drawn
    assert found["traces"]["task-0"] == 1 + drawn
    assert found["axis"] == "mean cost per query / large-only"


def test_nothing_was_fetched_and_nothing_was_refused(found):
    assert found["loaded"] == []
    assert found["refused"] == []


def test_the_slider_reads_the_operating_points(lab, found):
    leader = lab.routers[0]
    points, large = leader.operate, lab.summary["flops"]["large"]
    for told, circle, k in (
        (found["told"], found["circle"], 30),
        (found["moved"], found["moved_circle"], 62),
    ):
        assert told == {
            "rate": f"{100 * points.deferral_rate[k]:.1f} %",
            "threshold": minus(f"{points.threshold[k]:.6g}"),
            "quality": f"{points.quality[k]:.3f}",
            "quality-note": f"95 % interval {points.quality_lo[k]:.3f} to "
            f"{points.quality_hi[k]:.3f}",
            "change": minus(f"{points.change[k]:.3f}"),
            "cost": f"{points.cost[k] / large:.3f} × large",
            "cost-note": f"{points.cost[k] / 1e6:.1f} M FLOPs per query",
        }
        wanted = [points.cost[k] / large, points.quality[k]]
        assert circle == pytest.approx(wanted, rel=1e-6)
    assert found["spoken"].startswith(f"target 62 %: {100 * points.deferral_rate[62]:.1f} % sent")


def test_the_ends_of_the_slider_say_what_they_do(found):
    assert found["none"] == ["∞", "nothing is sent on"]
    assert found["all"] == ["−∞", "everything is sent on"]


def test_the_command_line_follows_the_slider(lab, found):
    before, after = lab_text.command(lab, router(lab, "mine"))
    assert "--router score:mine" in before
    assert found["column"] == [f"{before}0.3{after}", found["column"][1]]
    assert found["column"][1].startswith("Writes a policy with this threshold.")
    before, after = lab_text.command(lab, router(lab, "length"))
    assert found["command"] == f"{before}0.07{after}"


def test_who_is_paid_adds_up_to_the_cost(lab, found):
    large = lab.summary["flops"]["large"]
    small_alone = [lab.summary["flops"]["small"] / large, 0, 0]
    wanted = [small_alone]
    for one in lab.deployable:
        p = one.operate
        wanted.append([c[30] / large for c in (p.small_cost, p.router_cost, p.large_cost)])
    wanted.append([0, 0, 1])
    for row, parts in enumerate(wanted):
        assert [column[row] for column in found["shares"]] == pytest.approx(parts, abs=1e-6)


def test_hover_tells_threshold_rate_quality_with_interval_and_cost(lab, found):
    leader = lab.routers[0]
    s, k = leader.sweep, 1
    lines = found["hover"].split("<br>")
    assert lines[0] == f"<b>{html.escape(leader.name)}</b>"
    assert lines[1] == minus(f"threshold {s.threshold[k]:.6g}")
    assert lines[2] == f"deferral rate {100 * s.deferral_rate[k]:.1f} %"
    ends = f"[{s.quality_lo[k]:.3f}, {s.quality_hi[k]:.3f}]"
    assert lines[3] == f"quality {s.quality[k]:.3f} {ends}"
    assert lines[4].startswith(f"FLOPs {s.cost[k] / 1e6:.1f} M (")


def test_toggles_show_and_hide_lines_in_every_chart(lab, found):
    assert found["lines"] == [one.name for one in lab.deployable]
    kept = [one.name for one in lab.routers if one.name != "random"]
    assert found["toggled"] == kept
    assert set(found["pressed"]) == {*kept, "fraction"}
    assert found["panel"] == 1 + len(kept)
    assert found["rate_axis"] == "deferral rate"


def test_a_heading_sorts_its_table_and_everything_can_be_reached_by_keyboard(lab, found):
    assert len(found["down"]) == len(lab.routers)
    assert found["down"] == sorted(found["down"], reverse=True)
    assert found["up"] == sorted(found["up"])
    assert found["sort"] == "descending"
    assert found["focusable"]
    assert found["labelled"]
    assert found["scrollable"]


def test_a_dark_phone_never_scrolls_sideways_and_has_dark_charts(lab, found, tmp_path):
    probed(lab, tmp_path)
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME)
    phone = browse(frame, tmp_path, "--blink-settings=preferredColorScheme=0")
    assert phone["width"] == [390, 390]
    assert phone["wide"] == []
    assert not phone["failure"]
    assert (found["paper"], phone["paper"]) == ("#ffffff", "#15171a")


BRIEF = """<script>const pre = document.createElement("pre"); pre.id = "probe";
pre.textContent = JSON.stringify({ title: document.title, images: document.images.length,
  failure: document.getElementById("failure").textContent,
  lines: document.getElementById("curves").data.filter((t) => t.name).length });
document.body.append(pre);</script>"""


def test_hostile_names_run_no_script(tmp_path):
    bad = '</script><img src=x onerror="document.title=1"><b>%{x}'
    how = {"scores": (bad,), "tasks": (bad, "b"), "bootstrap": 0}
    lab, _, _ = fake_lab.make(tmp_path / "log.parquet", ["length"], **how)
    found = browse(probed(lab, tmp_path, BRIEF), tmp_path)
    assert found == {"title": "S → L · cascade routers", "images": 0, "failure": "", "lines": 2}


def test_reference_lines_alone_are_drawn(tmp_path):
    lab, _, _ = fake_lab.make(
        tmp_path / "log.parquet", ["oracle"], by_task=False, bootstrap=0, scores=()
    )
    found = browse(probed(lab, tmp_path, BRIEF), tmp_path)
    assert found["failure"] == ""
    assert found["lines"] == 1
