"""The results page: numbers between the markers come from the runs, the rest stays as it is."""

import json

import pytest
from tiny_run import ARMS

from experiments import results
from experiments.results import BEGIN, END
from routers.errors import InputError

PROSE = "# Results\n\nA person's reading: ü.\n\n"
AFTER = f"\n\nMore reading, which mentions `{END}` again.\n"


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "results.md"
    path.write_text(f"{PROSE}{BEGIN}\nold numbers\n{END}{AFTER}", "utf-8")
    return path


def test_only_what_is_between_the_markers_changes(page, finished):
    results.write(page, [finished.folder])
    text = page.read_text("utf-8")
    assert text.startswith(PROSE + BEGIN)
    assert text.endswith(END + AFTER)
    assert "old numbers" not in text
    assert "### tiny" in text
    results.write(page, [finished.folder])
    assert page.read_text("utf-8") == text


def test_runs_stand_in_the_order_given(page, finished, run_copy):
    summary = json.loads((run_copy / "summary.json").read_text()) | {"name": "second"}
    (run_copy / "summary.json").write_text(json.dumps(summary))
    results.write(page, [run_copy, finished.folder])
    text = page.read_text("utf-8")
    assert text.index("### second") < text.index("### tiny")
    results.write(page, [])
    assert "###" not in page.read_text("utf-8")


@pytest.mark.parametrize("text", ["no markers", BEGIN, END, f"{END} then {BEGIN}"])
def test_a_page_without_its_markers_is_left_alone(tmp_path, finished, text):
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(InputError, match="put them back"):
        results.write(page, [finished.folder])
    assert page.read_text() == text


def cells(text: str, start: str) -> list[list[str]]:
    """The rows of the first table after ``start``, header left out."""
    lines = text[text.index(start) :].splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[first + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def test_areas_are_those_of_the_summary(finished):
    text = results.section(finished.folder)
    arms = json.loads((finished.folder / "summary.json").read_text())["arms"]
    rows = cells(text, "Area under the deferral curve")
    assert [row[0] for row in rows] == list(ARMS)
    for row in rows:
        routers = arms[row[0]]["routers"]
        audc = routers["chow_average"]["audc"]
        low, high = audc["ci"]
        assert row[1] == f"{arms[row[0]]['keep_rate']:.2f}"
        assert row[2] == f"{arms[row[0]]['small_quality']['mean']:.3f}"
        assert row[4] == f"{audc['mean']:.3f} [{low:.3f}, {high:.3f}]"
        assert row[5] == "–"  # a router this run does not have
        assert row[-1] == f"{routers['chow_average']['audc_oracle']:.3f}"


def test_comparisons_are_those_of_the_summary(finished):
    text = results.section(finished.folder)
    found = json.loads((finished.folder / "summary.json").read_text())["comparisons"]
    rows = cells(text, "Paired differences of areas")
    expected = [
        [r["arm"], r["router"], r["against"], r.get("against_router", r["router"])]
        for r in found
        if r["metric"] == "audc" and "prompt" not in (r["router"], r.get("against_router"))
    ]
    assert [row[:4] for row in rows] == expected
    assert rows[0][4] == format(found[0]["difference"], "+.4f")
    low, high = found[0]["ci"]
    assert rows[0][5] == f"[{low:+.4f}, {high:+.4f}]"
    assert len(cells(text, "FLOPs at equal quality")) == 1


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"difference": 0.0123, "ci": [0.01, 0.02]}, ["+0.012", "[+0.010, +0.020]"]),
        ({"difference": -0.5, "ci": None}, ["-0.500", "–"]),
        ({"difference": None, "ci": None}, ["not reached", "–"]),
    ],
)
def test_a_difference_in_words(row, said):
    assert results._difference(row, "+.3f") == said


def test_what_the_run_was(finished):
    text = results.section(finished.folder)
    data = json.loads((finished.folder / "data.json").read_text())
    assert f"Small {data['parameters']['small']:,} parameters" in text
    assert "48 validation and 40 test queries, 2 seeds" in text
    assert "teacher-forced hits" in text


def test_robustness_is_shown_where_it_was_asked(run_copy):
    assert "Few labels" not in results.section(run_copy)
    audc = {"mean": 0.5, "ci": [0.4, 0.6]}
    base = {"condition": "unseen", "audc": audc}
    rows = [
        base | {"arm": "cat_xent", "router": "chow_average"},
        base
        | {"arm": "xent", "router": "cat_router"}
        | {"ours_minus_this": 0.0123, "ci": [-0.001, 0.02]},
    ]
    answers = {"ours": ["cat_xent", "chow_average"], "rows": rows}
    (run_copy / "robustness.json").write_text(json.dumps(answers))
    text = results.section(run_copy)
    assert cells(text, "Few labels")[0] == ["cat_xent", "chow_average", "0.500 [0.400, 0.600]"]
    leads = cells(text, "cat_xent with chow_average is ahead")
    assert leads == [["xent", "cat_router", "+0.012 [-0.001, +0.020]"]]
