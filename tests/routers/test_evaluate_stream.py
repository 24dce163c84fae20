"""A streamed evaluation is the evaluation of the same records, to the last bit."""

import dataclasses

import make
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from routers import evaluate_stream as module
from routers import streaming
from routers.base import Router
from routers.build import build
from routers.curves import deferral_curve
from routers.errors import InputError
from routers.evaluate import Column, evaluate, write_curves
from routers.evaluate_stream import evaluate_stream, thinned
from routers.records import Records, read


@dataclasses.dataclass(frozen=True)
class Prompts(Router):
    """Prompt stage, nothing learned, 3 MFLOPs for every prompt token."""

    stage = "prompt"

    def score(self, inputs):
        assert inputs.response_tokens is None
        return inputs.prompt_embedding[:, 0].astype(np.float64)

    def flops_per_query(self, inputs):
        return 3e6 * inputs.prompt_tokens


SPECS = ("chow_average", "chow_quantile:alpha=0.3", "entropy", "length", "margin", "random")
ROUTERS = {spec: build(spec) for spec in SPECS} | {"prompts": Prompts()}


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(streaming, "BATCH", 7)
    monkeypatch.setattr(streaming, "LIGHT_BATCH", 13)


@pytest.fixture(params=["sorted", "shuffled"])
def log(request, tmp_path):
    """A log with a ready-made score, in small row groups."""
    table = make.records(90).table
    score = np.random.default_rng(0).random(len(table))
    table = table.append_column("score:mine", pa.array(score))
    if request.param == "shuffled":
        table = table.take(pa.array(np.random.default_rng(1).permutation(len(table))))
    path = tmp_path / "log.parquet"
    pq.write_table(table, path, row_group_size=50)
    return path


def test_summary_scores_and_curves_are_those_of_evaluate(log):
    options = {"bootstrap": 30, "by_task": True, "seed": 3}
    got = evaluate_stream([log], ROUTERS, **options)
    want = evaluate(read([log]), ROUTERS, **options)
    assert got.summary == want.summary
    assert list(got.summary["routers"]) == [*ROUTERS, "mine"]
    assert got.summary["routers"]["prompts"]["transfer"]["flops"] > 0
    for name in got.curves:
        np.testing.assert_array_equal(got.scores[name], want.scores[name], err_msg=name)
        for column in ("threshold", "deferral_rate", "quality", "cost"):
            a, b = (getattr(found.curves[name], column) for found in (got, want))
            np.testing.assert_array_equal(a, b, err_msg=f"{name} {column}")
    np.testing.assert_array_equal(got.references["oracle"].quality,
                                  want.references["oracle"].quality)  # fmt: skip


def test_written_curves_are_those_of_evaluate(log, tmp_path):
    for found, folder in (
        (evaluate_stream([log], ROUTERS, bootstrap=0), "streamed"),
        (evaluate(read([log]), ROUTERS, bootstrap=0), "whole"),
    ):
        write_curves(found, tmp_path / folder)
    names = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "streamed").iterdir())
    assert len(names) == len(ROUTERS) + 3
    for name in names:
        streamed, whole = (tmp_path / folder / name for folder in ("streamed", "whole"))
        assert streamed.read_text() == whole.read_text()


def test_the_least_log_that_is_enough(tmp_path):
    """Dollars, no split, no task, no tokens; also through models named by hand."""
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table(make.minimal(40)), path)
    for names in ({}, {"small": "b", "large": "a"}):
        if names:
            with pytest.raises(InputError, match="no router to evaluate"):
                evaluate_stream([path], {}, **names)  # only model a has the score
            continue
        got, want = (
            evaluate_stream([path], {}, bootstrap=20),
            evaluate(read([path]), {}, bootstrap=20),
        )
        assert got.summary == want.summary
        assert got.summary["cost_unit"] == "dollars"
        assert got.summary["routers"]["mine"]["transfer"] is None


def test_router_flops_are_charged_only_where_costs_are_flops(tmp_path):
    table = make.records(30).table
    dollars = table.rename_columns(
        ["dollars" if name == "flops" else name for name in table.column_names]
    )
    for unit, rows in (("flops", table), ("dollars", dollars)):
        path = tmp_path / f"{unit}.parquet"
        pq.write_table(rows, path)
        got = evaluate_stream([path], {"prompts": Prompts()}, bootstrap=0)
        want = evaluate(read([path]), {"prompts": Prompts()}, bootstrap=0)
        assert got.summary == want.summary
        assert got.summary["cost_unit"] == unit


def test_nothing_of_a_token_is_kept(log):
    found = evaluate_stream([log], ROUTERS, bootstrap=0)
    assert found.ranked == {}
    inputs = found.inputs
    assert set(inputs.query_id) == {""}
    for name in ("token_logprob", "token_entropy", "topk_logprob", "prompt_embedding"):
        assert getattr(inputs, name) is None
    assert found.outcomes.forced_logprob_small is None
    assert len(inputs) == len(found.outcomes) == 90


@pytest.mark.parametrize("queries", [9, 10, 11, 5000])
def test_thinned_keeps_exact_points_and_both_ends(monkeypatch, queries):
    monkeypatch.setattr(module, "POINTS", 11)
    rng = np.random.default_rng(queries)
    curve = deferral_curve(rng.random(queries), make.outcomes(queries))
    few = thinned(curve)
    assert len(few.deferral_rate) == min(queries + 1, 11)
    assert (few.deferral_rate[0], few.deferral_rate[-1]) == (0.0, 1.0)
    whole = {*zip(curve.threshold, curve.deferral_rate, curve.quality, curve.cost, strict=True)}
    assert {*zip(few.threshold, few.deferral_rate, few.quality, few.cost, strict=True)} <= whole
    np.testing.assert_allclose(np.diff(few.deferral_rate), 0.1, rtol=0, atol=1.01 / min(queries, 10)
                               if queries < 11 else 1.01 / queries)  # fmt: skip


def test_metrics_are_of_the_whole_curve_not_of_the_points_kept(log, monkeypatch):
    whole = evaluate_stream([log], ROUTERS, bootstrap=0)
    monkeypatch.setattr(module, "POINTS", 5)
    few = evaluate_stream([log], ROUTERS, bootstrap=0)
    assert few.summary == whole.summary
    assert {len(curve.quality) for curve in few.curves.values()} <= {2, 3, 4, 5}
    assert len(whole.curves["chow_average"].quality) > 5


REFUSED = [
    ({"post_hoc": build("post_hoc")}, {}, "router 'post_hoc' learns, which a stream"),
    ({"oracle": build("oracle")}, {}, "router 'oracle' learns, which a stream"),
    ({"length": build("length")}, {"convention": "all"}, "convention 'all' compares all curves"),
    ({"length": build("length")}, {"fit_split": "test"}, "fit and test split are both 'test'"),
    ({"length": build("length")}, {"bootstrap": -1}, "bootstrap=-1; give the number"),
    ({"length": build("length")}, {"seed": -1}, "seed=-1; give 0 or more"),
    ({"length": build("length")}, {"small": "smal"}, "no model 'smal' in the records; did you"),
    ({"length": build("length")}, {"test_split": "train"}, "no rows in split 'train'"),
    ({"mine": build("length")}, {}, "'mine' is both a router and a column 'score:mine'"),
    ({"other": Column("other")}, {}, "records lack column 'score:other'"),
]


@pytest.mark.parametrize(("routers", "options", "message"), REFUSED)
def test_what_cannot_be_streamed_is_one_line(log, routers, options, message):
    with pytest.raises(InputError, match=message) as caught:
        evaluate_stream([log], routers, **options)
    assert "\n" not in str(caught.value)


def changed(log, change):
    """The log with ``change`` applied to its rows as Python dictionaries."""
    table = pq.read_table(log)
    rows = [row for row in map(change, table.to_pylist()) if row is not None]
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), log, row_group_size=50)
    return log


FAULTS = [
    (lambda r: None if (r["model"], r["query_id"]) == ("large", "test-00004") else r,
     "'small' answered 90 queries and 'large' 89, 1 lack 'large' .e.g. 'test-00004'"),
    (lambda r: r | {"query_id": "validation-00001"} if r["query_id"] == "test-00004" else r,
     "'validation-00001' of model 'small' is in splits 'test' and 'validation'"),
    (lambda r: r | {"flops": None} if r["model"] == "large" else r,
     "column 'flops' is empty for model 'large'|'flops' is null in some rows"),
    (lambda r: r | {"flops": None}, "no column 'flops' or 'dollars' with values"),
    (lambda r: r | {"model": "small"} if r["model"] == "large" else r,
     "duplicate|hold 1 models"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), FAULTS)
def test_what_evaluate_refuses_is_refused(log, change, message):
    changed(log, change)
    with pytest.raises(InputError, match=message) as caught:
        evaluate_stream([log], ROUTERS, bootstrap=0)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError):
        evaluate(read([log]), ROUTERS, bootstrap=0)


def test_a_score_that_is_not_finite_counts_over_all_batches(log):
    @dataclasses.dataclass(frozen=True)
    class Broken(Router):
        def score(self, inputs):
            return np.where(np.char.endswith(inputs.query_id, "0"), np.nan, 0.0)

    with pytest.raises(InputError, match=r"^broken: score is nan for 9 of 90 queries, first at"):
        evaluate_stream([log], {"broken": Broken()})


def test_three_models_need_names(log):
    table = pq.read_table(log)
    column = table.column_names.index("model")
    third = table.filter(pa.compute.equal(table["model"], "large"))
    third = third.set_column(column, "model", pa.array(["medium"] * len(third)))
    pq.write_table(pa.concat_tables([table, third]), log)
    with pytest.raises(InputError, match="records hold 3 models"):
        evaluate_stream([log], ROUTERS)
    got = evaluate_stream([log], ROUTERS, small="small", large="medium", bootstrap=0)
    want = evaluate(read([log]), ROUTERS, small="small", large="medium", bootstrap=0)
    assert got.summary == want.summary


def test_records_written_by_write_keep_their_version_check(tmp_path, monkeypatch):
    from routers import records, schema

    path = tmp_path / "log.parquet"
    monkeypatch.setattr(schema, "VERSION", 99)
    records.write(path, make.records(9))
    monkeypatch.undo()
    with pytest.raises(InputError, match="records schema 99 is newer"):
        evaluate_stream([path], ROUTERS)
    assert isinstance(make.records(9), Records)
