import html
import html.parser
import json
import re

import fake_run
import numpy as np
import pytest

from experiments import offline_page, report, report_html, report_style, report_text
from experiments.report_data import read
from experiments.report_html import Cell, Column, mark_best, table
from routers.errors import InputError


class Page(html.parser.HTMLParser):
    """Tags with attributes, text per element id, and rows of tables by caption."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.by_id, self.tables, self.dfns = [], {}, {}, []
        self._id = self._caption = self._kind = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        self._id, self._kind = attrs.get("id"), tag
        if tag == "caption":
            self._caption = ""
        if tag == "tr" and self._caption is not None:
            self.tables.setdefault(self._caption, []).append([])
        if tag == "td":
            self.tables[self._caption][-1].append(("best" in (attrs.get("class") or ""), ""))

    def handle_data(self, data):
        if self._id:
            self.by_id[self._id] = self.by_id.get(self._id, "") + data
        if self._kind == "caption":
            self._caption += data
        if self._kind == "dfn":
            self.dfns.append(data)
        if self._kind == "td":
            best, text = self.tables[self._caption][-1][-1]
            self.tables[self._caption][-1][-1] = (best, text + data)

    def handle_endtag(self, tag):
        self._id = self._kind = None

    def rows(self, caption):
        return [[text for _, text in row] for row in self.tables[caption] if row]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fake_run.make(tmp_path_factory.mktemp("report") / "demo", queries=300, steps=8)


@pytest.fixture(scope="module")
def text(run):
    return report.write(run).read_text()


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def bare(folder, **parts):
    large = {"quality": {"mean": 0.5}, "flops": 2}
    fake_run.write(folder, {"name": "bare", "arms": {"a": {}}, "large": large} | parts)
    return folder


def test_one_file_is_written_and_nothing_temporary_is_left(run, text):
    assert (run / "report.html").read_text() == text
    assert not [path for path in run.iterdir() if path.name.startswith(".")]


def test_nothing_is_loaded_from_anywhere(text, page):
    for tag, attrs in page.tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base"), tag
        assert not {"src", "href", "srcset", "action"} & set(attrs), (tag, attrs)
    assert not re.search(r"@import|url\(", text.split("</style>")[0])
    policy = dict(page.tags[[t for t, _ in page.tags].index("meta") + 2][1])
    assert policy["content"].startswith("default-src 'none'")


def test_the_finding_is_the_title(run, page):
    change = read(run).summary["comparisons"][1]["difference"]
    assert page.by_id["finding"].startswith(
        f"cat_xent with chow_average needs {-100 * change:.0f} % ["
    )


def test_a_rival_router_is_named_under_the_title(tmp_path):
    row = {"arm": "a", "against": "a", "router": "r", "against_router": "q", "metric": "audc"}
    bare(tmp_path, comparisons=[row | {"difference": -0.02, "ci": [-0.03, -0.01]}])
    page = Page(report.page(read(tmp_path)))
    assert page.by_id["rival"].endswith("lower AUDC than a with q.")


def test_the_table_holds_the_summarys_numbers(run, page):
    rows = page.rows("arms by routers")
    assert len(rows) == len(fake_run.ARMS) * len(fake_run.ROUTERS)
    arms = read(run).summary["arms"]
    for row in rows:
        entry = arms[row[0]]["routers"][row[1]]
        low, high = entry["audc"]["ci"]
        assert row[2].startswith(f"{entry['audc']['mean']:.3f} [{low:.3f}, {high:.3f}]")
        assert row[3].startswith(f"{entry['audc_normalised']:.3f}")
        for cell, at in zip(row[4:7], ("0.5", "0.9", "1.0"), strict=True):
            saving = entry["flops_saving_at_quality"][at]
            expected = "–" if saving is None else f"{100 * saving['mean']:.0f} %"
            shown = re.sub(r"(\d+)\.\d", r"\1", cell.replace("−", "-"))
            assert shown.startswith(expected) or abs(saving["mean"]) < 0.0995


def test_the_best_of_each_column_is_marked_once(run, page):
    arms = read(run).summary["arms"]
    areas = {
        (arm, router): entry["audc"]["mean"]
        for arm, by in arms.items()
        for router, entry in by["routers"].items()
    }
    marked = [row for row in page.tables["arms by routers"] if row and row[2][0]]
    assert [(row[0][1], row[1][1]) for row in marked] == [max(areas, key=areas.__getitem__)]
    assert marked[0][2][1].endswith("]")
    assert not any(row[-1][0] for row in page.tables["arms by routers"] if row)  # ρ: no best


def test_comparisons_carry_interval_and_verdict(tmp_path):
    own = fake_run.make(tmp_path / "own", queries=90, steps=3)
    rows = [
        {"arm": "cat_xent", "against": "xent", "router": "r", "metric": "audc"}
        | {"difference": 0.0123, "ci": [-0.001, 0.02]},
        {"arm": "a", "against": "b", "router": "r", "metric": "flops_at_equal_quality"}
        | {"at_quality": 0.7, "difference": -0.2, "ci": [-0.3, -0.1], "against_router": "q"},
        {"arm": "a", "against": "b", "metric": "audc", "difference": None, "ci": None},
    ]
    fake_run.write(own, json.loads((own / "summary.json").read_text()) | {"comparisons": rows})
    page = Page(report.page(read(own)))
    flops, *areas = page.rows("paired comparisons")
    assert flops[:4] == ["a", "b with q", "r", "FLOPs at equal quality (0.700)"]
    assert flops[4:] == ["−20 %", "−30 % to −10 %", "differs"]
    assert areas == [
        ["cat_xent", "xent", "r", "AUDC", "0.012", "−0.001 to 0.020", "no difference found"],
        ["a", "b", "–", "AUDC", "–", "–", "–"],
    ]


def test_transfer_points_stand_apart_from_the_sweep(run, text, page):
    rows = page.rows("transfer points")
    assert len(rows) == 3 * len(fake_run.ARMS) * len(fake_run.ROUTERS)
    first = read(run).summary["arms"]["xent"]["routers"]["chow_average"]["transfer"][0]
    names = ("target_rate", "deferral_rate", "threshold", "quality")
    assert rows[0][2:6] == [f"{first[name]:.3f}" for name in names]
    assert (
        rows[0][6] == f"{first['flops'] / fake_run.LARGE_FLOPS:.3f} ({first['flops'] / 1e6:.1f} M)"
    )
    assert text.index("carried over from validation") > text.index("Choose an operating point")


def test_tasks_have_a_row_each_and_a_macro_average(run, page):
    rows = page.rows("tasks, router chow_average")
    assert [row[0] for row in rows] == [*fake_run.TASKS, "macro average"]
    summary = read(run).summary
    copy = summary["tasks"]["copy"]
    assert rows[0][1] == "100"
    assert rows[0][2] == f"{copy['large_quality']:.3f}"
    areas = [copy["routers"][arm]["chow_average"]["audc"] for arm in fake_run.ARMS]
    assert rows[0][-3:] == [f"{area:.3f}" for area in areas]
    macro = [summary["macro"][arm]["chow_average"]["audc"] for arm in fake_run.ARMS]
    assert rows[-1][-3:] == [f"{area:.3f}" for area in macro]


def test_every_term_is_explained_once_and_only_known_terms(page):
    assert len(page.dfns) == len(set(page.dfns))
    assert set(page.dfns) == set(report_text.GLOSSARY)


def test_notes_configuration_and_provenance_are_there(text):
    for part in ("neither model can answer", "0123456789ab", "jax version: 0.10.2", "5.3 min"):
        assert part in text
    assert html.escape('"width": 16') in text


def test_the_charts_data_is_the_files(run, page):
    data = json.loads(page.by_id["data"])
    points = np.genfromtxt(run / "curves/cat_xent/chow_average.csv", delimiter=",", names=True)
    for column in points.dtype.names:
        drawn = data["curves"]["cat_xent"]["chow_average"][column]
        np.testing.assert_allclose(drawn, points[column], rtol=1e-6, atol=0)
    assert data["shown_arms"] == list(fake_run.ARMS)
    assert data["shown_routers"] == ["chow_average", "post_hoc:learner=mlp"]
    assert [panel["curves"].keys() for panel in data["panels"]] == [fake_run.ARMS.keys()] * 3
    assert data["training"]["xent"]["step"] == list(range(1, 9))


def test_numbers_that_are_not_finite_become_null(tmp_path):
    own = fake_run.make(tmp_path / "own", queries=90, steps=3)
    path = own / "curves/xent/chow_sum.csv"
    path.write_text("deferral_rate,quality,quality_lo,quality_hi,flops,threshold\n0,.1,,,1,inf\n")
    curve = report.payload(read(own))["curves"]["xent"]["chow_sum"]
    assert (curve["threshold"], curve["quality_lo"], curve["quality"]) == ([None], [None], [0.1])


HOSTILE = '</script><img src=x onerror="document.title=1"><b>&amp;\'%{x}'


def test_hostile_names_stay_text(tmp_path):
    router = 'r"><i>'
    arms = {HOSTILE: {"routers": {router: {"audc": {"mean": 1}}}}}
    tasks = {HOSTILE: {"n": 1, "curves": {}}}
    rows = [{"arm": HOSTILE, "against": "x", "metric": "audc", "difference": 1, "ci": [1, 2]}]
    parts = {"tasks": tasks, "comparisons": rows, "notes": [HOSTILE], "quality_unit": HOSTILE}
    bare(tmp_path, name=HOSTILE, arms=arms, cost=HOSTILE, **parts)
    (tmp_path / "config.json").write_text(json.dumps({"name": HOSTILE}))
    text = report.write(tmp_path).read_text()
    page = Page(text)
    assert not [tag for tag, _ in page.tags if tag in ("img", "b", "i")]
    assert HOSTILE in page.by_id["finding"]
    assert json.loads(page.by_id["data"])["arms"][0]["name"] == HOSTILE
    assert page.rows("arms by routers")[0][:2] == [HOSTILE, router]
    assert text.count("</script>") == 4


def test_missing_parts_are_named_not_fatal(tmp_path):
    text = report.write(bare(tmp_path)).read_text()
    for part in (
        "curves (curves/",
        "router results",
        "paired comparisons of arms",
        "transfer points",
        "notes",
        "per-task results",
        "training logs",
        "config.json",
        "provenance",
    ):
        assert f"Not in this run: {part}" in text
    for part in ("n not recorded", "seeds not recorded", "convention not recorded"):
        assert part in text
    assert "No paired comparison of arms was made in this run." in text


def test_no_summary_is_an_error_and_writes_nothing(tmp_path):
    with pytest.raises(InputError, match=r"summary\.json: not found"):
        report.write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_several_seeds_warn_that_a_mean_threshold_is_not_one_to_deploy(run, tmp_path):
    data = read(run)
    assert "Thresholds are means over 2 seeds" in report.page(data)
    data.summary["seeds"] = [0]
    assert "calibrate on validation records before you deploy" in report.page(data)


@pytest.mark.parametrize("text", ["</script>", "<!--", "a & b", "\u2028", '"'])
def test_embedded_json_reads_back_and_holds_no_markup(text):
    written = offline_page.embed({text: [text]})
    assert json.loads(written) == {text: [text]}
    assert not set("<>&\u2028") & set(written)


def test_embedding_refuses_what_json_cannot_say():
    with pytest.raises(ValueError, match="not JSON compliant"):
        offline_page.embed(float("nan"))


@pytest.mark.parametrize(
    ("values", "best"),
    [
        ([1.0, 2.0, None], [False, True, False]),
        ([2, 2.0, 1], [True, True, False]),
        ([2, 2.0], [False, False]),
        ([1.0], [False]),
        ([3, None, 3], [True, False, True]),
        ([None, None], [False, False]),
        ([0.0, -1.0], [True, False]),
    ],
)
def test_mark_best(values, best):
    assert [cell.best for cell in mark_best([Cell("", v) for v in values])] == best


def test_cells_sort_by_value_not_by_what_is_shown():
    made = table("t", [Column("name", text=True), Column("x")], [[Cell("a<"), Cell("10 k", 1e4)]])
    assert 'data-sort="a&lt;">a&lt;</td>' in made
    assert 'data-sort="10000.0">10 k</td>' in made
    assert 'data-sort="">–' in table("t", [Column("x")], [[Cell("–")]])


def test_unknown_terms_fail_early():
    with pytest.raises(KeyError):
        report_html.terms("no such term")


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (999, "999"), (1000, "1.0 k"), (-2.5e9, "-2.5 G"), (3e15, "3.0 P")],
)
def test_short(value, shown):
    assert report_text.short(value) == shown


def contrast(one, two):
    """WCAG 2 contrast ratio of two hex colours."""

    def luminance(color):
        channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(two)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_hues_can_be_seen_on_their_page():
    assert len(report_style.HUES_DARK) == len(report_style.HUES) == len(set(report_style.HUES))
    assert min(contrast(hue, "#15171a") for hue in report_style.HUES_DARK) > 4.5
    assert min(contrast(hue, "#ffffff") for hue in report_style.HUES[:2]) > 3.0
    assert contrast(report_style.QUIET, "#ffffff") > 4.5
