import dataclasses
import html.parser
import json
import re
import subprocess

import fake_lab
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments import lab_data, lab_report, lab_text
from experiments.cli import main
from experiments.offline_page import POLICY
from routers import Policy
from routers.build import build
from routers.evaluate import evaluate
from routers.paired import Difference
from routers.records import read


class Page(html.parser.HTMLParser):
    """Tags with attributes, text per element id, and rows of tables by caption."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.by_id, self.tables, self.headings = [], {}, {}, []
        self._id = self._caption = self._kind = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        self._id, self._kind = attrs.get("id"), self._kind if tag == "span" else tag
        if tag == "caption":
            self._caption = ""
        if tag == "tr" and self._caption is not None:
            self.tables.setdefault(self._caption, []).append([])
        if tag == "td":
            self.tables[self._caption][-1].append("")

    def handle_data(self, data):
        if self._id:
            self.by_id[self._id] = self.by_id.get(self._id, "") + data
        if self._kind == "caption":
            self._caption += data
        if self._kind == "h2":
            self.headings.append(data)
        if self._kind == "td":
            self.tables[self._caption][-1][-1] += data

    def handle_endtag(self, tag):
        self._id = self._kind = None

    def rows(self, start):
        found = next(rows for caption, rows in self.tables.items() if caption.startswith(start))
        return [row for row in found if row]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return fake_lab.make(tmp_path_factory.mktemp("lab") / "a log.parquet")


@pytest.fixture(scope="module")
def lab(made):
    return made[0]


@pytest.fixture(scope="module")
def text(lab):
    return lab_report.page(lab)


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def data_of(text):
    block = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(block[1], parse_constant=pytest.fail)


def as_the_shell_reads(command):
    """The words after ``cascade`` of a command line."""
    script = f"cascade() {{ printf '%s\\0' \"$@\"; }}; {command}"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.split("\0")[:-1]


def replaced(lab, name, **changes):
    """The lab with one router's fields changed."""
    routers = [
        dataclasses.replace(router, **changes) if router.name == name else router
        for router in lab.routers
    ]
    return dataclasses.replace(lab, routers=routers)


def test_nothing_is_loaded_from_anywhere(text, page):
    assert POLICY in text
    assert not [attrs for _, attrs in page.tags if {"src", "href", "srcset"} & attrs.keys()]
    assert "@import" not in text.split("</style>")[0]
    assert "url(" not in text.split("</style>")[0]


def test_every_section_is_there_in_reading_order(page):
    assert page.headings == [
        "What each query sent on buys",
        "Choose your operating point",
        "Routers by area",
        "What is left to gain",
        "Do the scores mean what they say?",
        "Task by task",
        "What to keep in mind",
    ]


def test_the_table_holds_the_summarys_numbers_in_order(lab, page):
    rows = page.rows("Routers by the area")
    assert [row[0] for row in rows] == [
        *(router.name for router in lab.deployable),
        "oracle (sees outcomes)",
    ]
    for router, row in zip(lab.deployable, rows, strict=False):
        low, high = router.entry["audc_ci"]
        audc = f"{router.entry['audc']:.3f} [{low:.3f}, {high:.3f}]"
        assert row[1].removesuffix(" (best)") == audc
        assert row[9] == f"{100 * router.operate.deferral_rate[50]:.1f} %"
        assert row[10].removesuffix(" (best)") == f"{router.operate.quality[50]:.3f}"
    assert rows[0][1].endswith("(best)")
    assert not any("(best)" in cell for cell in rows[-1])
    assert rows[-1][9:11] == ["–", "–"]


def test_the_gap_table_adds_up_to_one(lab, page):
    rows = page.rows("The way from random")
    assert [row[0] for row in rows] == [router.name for router in lab.deployable]
    for router, row in zip(lab.deployable, rows, strict=True):
        steps = [float(cell.split()[0].replace("−", "-")) for cell in row[1:]]
        assert router.entry["audc_random"] + sum(steps) == pytest.approx(1, abs=4 * 5e-5)


def test_the_task_table_names_the_best_router_of_each_task(lab, page, made):
    _, done, _ = made
    *rows, foot = page.rows("Tasks by what")
    assert [row[0] for row in rows] == [panel.task for panel in lab.panels]
    for panel, row in zip(lab.panels, rows, strict=True):
        entries = done.summary["tasks"][panel.task]["routers"]
        areas = {router.name: entries[router.name]["audc"] for router in lab.deployable}
        assert row[-1] == max(areas, key=areas.get)
    assert foot[0] == "mean over tasks"
    leader = lab.routers[0].name
    assert foot[5] == f"{done.summary['macro'][leader]['audc']:.3f}"


def test_the_data_are_the_labs_numbers(lab, text):
    data = data_of(text)
    assert [router["name"] for router in data["routers"]] == [r.name for r in lab.routers]
    for told, router in zip(data["routers"], lab.routers, strict=True):
        np.testing.assert_allclose(told["sweep"]["quality"], router.sweep.quality, rtol=1e-6)
        assert told["sweep"]["threshold"][0] is None  # +inf is no JSON
        assert told["groups"]["count"] == router.groups.count.tolist()
        if router.operate is None:
            assert told["operate"] is None
        else:
            exact = [float(threshold) for threshold in told["operate"]["threshold"]]
            np.testing.assert_array_equal(exact, router.operate.threshold)
            assert len(exact) == 101
    assert [panel["task"] for panel in data["panels"]] == [panel.task for panel in lab.panels]
    assert data["shown"] == [router.name for router in lab.deployable]


@pytest.mark.parametrize("k", [0, 33, 100])
def test_the_command_line_writes_the_policy_the_page_shows(lab, text, tmp_path, k, capsys):
    told = {router["name"]: router for router in data_of(text)["routers"]}
    for name in ("length", "knn:k=20", "mine"):  # mine: a column
        before, after = told[name]["command"]
        words = as_the_shell_reads(f"{before}{k / 100:g}{after}")
        words[words.index("policy.json")] = str(tmp_path / "policy.json")
        assert main(words) == 0
        policy = Policy.load(tmp_path / "policy.json")
        assert policy.threshold == float(told[name]["operate"]["threshold"][k])
    capsys.readouterr()


def test_without_a_fit_split_the_command_calibrates_on_the_queries_shown(lab):
    sweep = dataclasses.replace(lab, transfer=False)
    router = next(router for router in lab.routers if router.name == "length")
    assert "--fit-split test" in lab_text.command(sweep, router)[0]
    found = Page(lab_report.page(sweep))
    assert found.by_id["protocol"].startswith("Sweep, not transfer")
    assert any("have no split 'validation'" in note for note in lab_text.notes(sweep))
    assert "thresholds read off 'test' itself" in lab_text.caption(sweep)


def test_transfer_says_where_thresholds_come_from(lab, page):
    assert page.by_id["protocol"].startswith("Transfer: each threshold was chosen on 'validation'")
    notes = " ".join(lab_text.notes(lab))
    for words in ("300 queries of 'validation'", "401 of 'test'", "FLOPs", "Equal scores", "1,000"):
        assert words in notes
    assert "fitted again, on one half" in notes


def test_the_finding_names_the_leader_its_area_and_share(lab, page):
    leader = lab.routers[0]
    low, high = leader.entry["audc_ci"]
    assert page.by_id["finding"] == (
        f"{leader.name} ranks best: AUDC {leader.entry['audc']:.3f} [{low:.3f}, {high:.3f}] "
        f"and closes {100 * leader.entry['audc_normalised']:.0f} % of the gap to the oracle."
    )


def test_a_lead_says_whether_it_is_more_than_chance(lab):
    second, third = lab.deployable[1:3]
    clear, tie = Difference(0.02, 0.01, 0.03, (0.02,)), Difference(0.001, -0.01, 0.02, (0.001,))
    told = lab_text.runner_up(replaced(lab, second.name, behind=clear))
    assert told == f"Its lead over {second.name} is 0.0200 [0.0100, 0.0300], which excludes zero."
    tied = replaced(replaced(lab, second.name, behind=tie), third.name, behind=tie)
    assert lab_text.runner_up(tied).endswith(
        f"which covers zero: these data do not tell it from {second.name} and {third.name}."
    )
    bare = replaced(lab, second.name, behind=Difference(0.02, None, None, (0.02,)))
    assert lab_text.runner_up(bare) == f"Its lead over {second.name} is 0.0200."


def test_the_share_within_tasks_stands_beside_the_pooled_one(lab, page, made):
    _, done, _ = made
    leader = lab.routers[0].name
    entries = [done.summary["tasks"][task]["routers"][leader] for task in fake_lab.TASKS]
    share = np.mean([entry["audc_normalised"] for entry in entries])
    told = f"Within a task {leader} closes {100 * share:.0f} % of the gap on average."
    assert page.by_id["within"] == told
    assert lab_text.within_tasks(dataclasses.replace(lab, panels=[])) == ""


def test_a_task_that_every_router_ranks_alike_has_no_best_one(tmp_path):
    path = tmp_path / "log.parquet"
    table = fake_lab.columns()
    easy = np.array(table["task"]) == "copy"
    table["quality"] = np.where(easy, 1.0, table["quality"])
    pq.write_table(pa.table(table), path)
    records = read([path])
    settings = {"fit_split": "validation", "test_split": "test", "bootstrap": 0, "seed": 0}
    built = {name: build(name) for name in ("length", "random")}
    done = evaluate(records, built, by_task=True, **settings)
    found = Page(lab_report.page(lab_data.gather(done, records, [path], **settings)))
    rows = {row[0]: row for row in found.rows("Tasks by what")}
    assert rows["copy"][-2:] == ["–", "3 tie"]
    assert rows["sort"][-1] in ("length", "mine")


def test_no_router_above_random_is_said_plainly(lab):
    leader = lab.routers[0]
    none = dataclasses.replace(leader.gap, earned=Difference(0.001, -0.01, 0.02, (0.001,)))
    told = lab_text.finding(replaced(lab, leader.name, gap=none))
    assert told == f"No router is told apart from random; the largest area is {leader.name}'s."


def test_reference_lines_alone_are_a_report_too(tmp_path):
    lab, _, _ = fake_lab.make(tmp_path / "log.parquet", ["oracle"], bootstrap=0, scores=())
    found = Page(lab_report.page(lab))
    assert found.by_id["finding"].startswith("Reference lines only")
    assert "Choose your operating point" not in found.headings


def test_without_resamples_there_are_no_intervals_and_the_notes_say_so(tmp_path):
    lab, _, _ = fake_lab.make(tmp_path / "log.parquet", ["length"], by_task=False, bootstrap=0)
    text = lab_report.page(lab)
    assert "--bootstrap 0" in text
    assert "add --by-task" in text
    assert "[" not in Page(text).rows("Routers by the area")[0][1]


def test_dollars_are_named(tmp_path):
    lab, _, _ = fake_lab.make(tmp_path / "log.parquet", ["length"], bootstrap=0, unit="dollars")
    assert "cost: dollars" in lab_text.caption(lab)
    assert data_of(lab_report.page(lab))["unit"] == "dollars"


def test_names_are_escaped_everywhere(tmp_path):
    bad = '</script><img src=x onerror="1">&'
    lab, _, _ = fake_lab.make(
        tmp_path / "log.parquet", [], bootstrap=20, scores=(bad,), tasks=(bad, "b")
    )
    text = lab_report.page(lab)
    assert "<img" not in text.replace("<image", "").split("<script>")[0]
    assert bad in [router["name"] for router in data_of(text)["routers"]]
    assert Page(text).rows("Routers by the area")[0][0] == bad


def test_twenty_routers_on_many_queries_stay_below_eight_megabytes(tmp_path):
    names = tuple(f"signal number {i}" for i in range(20))
    tasks = tuple(f"task {i}" for i in range(12))
    how = {"scores": names, "tasks": tasks, "n_test": 3000, "bootstrap": 0}
    text = lab_report.page(fake_lab.make(tmp_path / "log.parquet", [], **how)[0])
    data = data_of(text)
    assert all(len(router["sweep"]["quality"]) <= 1000 for router in data["routers"])
    curves = [curve for panel in data["panels"] for curve in panel["curves"].values()]
    assert len(curves) == 12 * 20
    assert 50 < max(len(curve["quality"]) for curve in curves) <= lab_data.TASK_POINTS
    assert len(text.encode()) < 8e6


def test_the_command_writes_one_page(tmp_path, capsys):
    log, out = fake_lab.log(tmp_path / "log.parquet"), tmp_path / "deep" / "lab.html"
    asked = ["--router", "length", "--bootstrap", "20", "--by-task", "--report", str(out)]
    assert main(["evaluate", str(log), *asked]) == 0
    assert f"report: {out}" in capsys.readouterr().out
    assert [path.name for path in out.parent.iterdir()] == ["lab.html"]
    assert Page(out.read_text()).by_id["finding"]
    assert main(["evaluate", str(log), *asked, "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["routers"]) == {"length", "mine"}


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (
            ["--report", "lab.gif"],
            "lab.gif: --report takes the name of a file ending in .html, .png",
        ),
        (["--report", "lab.html", "--stream"], "--report does not go with --stream"),
        (["--report", "lab.html", "--tiers", "S,L"], "--report does not go with --tiers"),
    ],
)
def test_what_cannot_be_reported_is_refused_in_one_line(tmp_path, capsys, monkeypatch, extra, said):
    monkeypatch.chdir(tmp_path)
    log = fake_lab.log(tmp_path / "log.parquet")
    assert main(["evaluate", str(log), "--router", "length", *extra]) == 2
    complaint = capsys.readouterr().err.strip()
    assert said in complaint
    assert "\n" not in complaint
    assert [path.name for path in tmp_path.iterdir()] == ["log.parquet"]


def test_a_report_that_fails_leaves_nothing(tmp_path, capsys):
    log = fake_lab.log(tmp_path / "log.parquet", n_fit=1)
    out = tmp_path / "lab.html"
    asked = ["--router", "knn:k=20", "--bootstrap", "0", "--report", str(out)]
    assert main(["evaluate", str(log), *asked, "-o", str(tmp_path / "out")]) == 2
    assert "too few to fit a learned router" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["log.parquet"]
