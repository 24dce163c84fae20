"""Records read in batches, against the same records read whole."""

import dataclasses

import make
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from routers import streaming
from routers.base import Router
from routers.build import build, names
from routers.errors import InputError
from routers.records import pair, read

SMALL_BATCH = 7  # rows: every split is several batches, and one is cut short


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(streaming, "BATCH", SMALL_BATCH)
    monkeypatch.setattr(streaming, "LIGHT_BATCH", 2 * SMALL_BATCH + 1)


@dataclasses.dataclass(frozen=True)
class Prompts(Router):
    """Prompt stage, nothing learned, 3 FLOPs for every prompt token."""

    stage = "prompt"

    def score(self, inputs):
        assert inputs.token_logprob is None
        return inputs.prompt_embedding[:, 0] - inputs.prompt_tokens

    def flops_per_query(self, inputs):
        return 3.0 * inputs.prompt_tokens


def training_free():
    """Every router of the zoo that needs no fit and reads no text."""
    found = {name: build(name) for name in names()}
    return {n: r for n, r in found.items() if not r.learned and n != "agreement"}


ROUTERS = training_free() | {"chow_quantile:alpha=0.3": build("chow_quantile:alpha=0.3")}


def written(path, records, group=1_000_000):
    pq.write_table(records.table, path, row_group_size=group)
    return path


@pytest.mark.parametrize("group", [5, 60, 1_000_000])
@pytest.mark.parametrize("shuffled", [False, True])
def test_scores_have_the_bits_of_the_whole_log(tmp_path, group, shuffled):
    records = make.records(60)
    if shuffled:
        rows = pa.array(np.random.default_rng(0).permutation(len(records)))
        records = dataclasses.replace(records, table=records.table.take(rows))
    path = written(tmp_path / "log.parquet", records, group)
    log = streaming.survey([path])
    routers = ROUTERS | {"prompts": Prompts()}
    for split in ("validation", "test"):
        inputs, _ = pair(read([path]), "small", "large", split)
        rows, order = streaming.in_order(log.rows("small", split))
        assert (order is not None) == shuffled
        assert rows["query_id"].to_pylist() == inputs.query_id.tolist()
        found = streaming.score(log, "small", split, routers)
        order = slice(None) if order is None else order
        for name, router in routers.items():
            want = router.score(inputs.at_stage(router.stage))
            np.testing.assert_array_equal(found.score[name][order], want, err_msg=name)
        assert set(found.flops) == {"prompts"}
        np.testing.assert_array_equal(found.flops["prompts"][order], 3.0 * inputs.prompt_tokens)


def test_the_zoo_has_the_routers_this_test_is_about():
    usual = "chow_average chow_quantile chow_sum entropy length margin max_softmax random"
    assert set(usual.split()) <= set(ROUTERS)


def test_files_of_one_model_each_are_one_log(tmp_path):
    records = make.records(20)
    paths = []
    for model in ("large", "small"):
        mask = pa.compute.equal(records.table["model"], model)
        part = dataclasses.replace(records, table=records.table.filter(mask))
        paths.append(written(tmp_path / f"{model}.parquet", part, group=9))
    log = streaming.survey(paths)
    assert set(log.answers) == {(m, s) for m in ("small", "large") for s in ("validation", "test")}
    found = streaming.score(log, "small", "test", {"length": build("length")})
    inputs, _ = pair(read(paths), "small", "large", "test")
    np.testing.assert_array_equal(found.score["length"], inputs.response_tokens)


def test_only_row_groups_of_the_small_model_are_read_again(tmp_path):
    """Rows lie as validation small, validation large, test small, test large; 20 of each."""
    log = streaming.survey([written(tmp_path / "log.parquet", make.records(20), group=10)])
    (path,) = log.groups["small", "test"]
    assert log.groups["small", "test"] == {path: [4, 5]}
    assert log.groups["large", "validation"] == {path: [2, 3]}


def test_the_head_chooses_models_as_the_whole_log_does(tmp_path):
    path = written(tmp_path / "log.parquet", make.records(30), group=11)
    head, whole = streaming.survey([path]).head, read([path])
    assert (head.models, head.splits) == (whole.models, whole.splits)
    assert head.cost_unit == whole.cost_unit == "flops"
    means = dict(zip(head.table["model"].to_pylist(), head.table["flops"].to_pylist(), strict=True))
    for model, mean in means.items():
        rows = whole.table.filter(pa.compute.equal(whole.table["model"], model))
        assert mean == pytest.approx(np.mean(rows["flops"].to_numpy()), rel=1e-12)


def test_only_the_columns_a_router_reads_are_read():
    inputs, _ = pair(make.records(9), "small", "large", "test")
    read_by = {n: streaming.columns_read(r, inputs) - {"query_id"} for n, r in ROUTERS.items()}
    assert read_by["chow_average"] == {"token_logprob"}
    assert read_by["entropy"] == {"token_entropy"}
    assert read_by["margin"] == read_by["max_softmax"] == {"topk_logprob"}
    assert read_by["length"] == {"response_tokens"}
    assert "query_id" in streaming.columns_read(ROUTERS["random"], inputs)
    prompts = streaming.columns_read(Prompts(), inputs)
    assert {"prompt_tokens", "prompt_embedding"} <= prompts
    assert not {"topk_logprob", "token_entropy", "response_tokens"} & prompts


def test_a_column_no_router_reads_may_hold_anything(tmp_path):
    """It is not decoded: widths that differ would be an error."""
    records = make.records(20)
    column = records.table.column_names.index("prompt_embedding")
    odd = pa.array([[0.0] * (1 + i % 2) for i in range(len(records))], pa.list_(pa.float32()))
    spoiled = dataclasses.replace(
        records, table=records.table.set_column(column, "prompt_embedding", odd)
    )
    log = streaming.survey([written(tmp_path / "log.parquet", spoiled)])
    names = {"token_logprob"}
    batch = next(streaming._inputs(log, ("small", "test"), names))
    assert 0 < len(batch) <= SMALL_BATCH
    assert batch.prompt_embedding is None
    assert batch.topk_logprob is None
    assert batch.token_logprob is not None


def test_agreement_gets_the_response_with_its_samples(tmp_path):
    table = make.records(20).table
    texts = [f"a{i % 3}" for i in range(len(table))]
    table = table.append_column("response", pa.array(texts))
    table = table.append_column("sampled_responses", pa.array([["a0", "a1"]] * len(table)))
    records = make.Records(table)
    log = streaming.survey([written(tmp_path / "log.parquet", records)])
    routers = {"agreement": build("agreement:token_flops=2")}
    found = streaming.score(log, "small", "test", routers)
    inputs, _ = pair(records, "small", "large", "test")
    router = routers["agreement"]
    np.testing.assert_array_equal(found.score["agreement"], router.score(inputs))
    np.testing.assert_array_equal(found.flops["agreement"], router.flops_per_query(inputs))
    assert len(set(found.score["agreement"])) > 1


def spoil(tmp_path, name, change):
    """The log with one column changed by ``change(values)``, in row groups of 10."""
    table = make.records(20).table
    column = table.column_names.index(name)
    values = table[name].to_pylist()
    change(values)
    spoiled = table.set_column(column, name, pa.array(values, table[name].type))
    path = tmp_path / "log.parquet"
    pq.write_table(spoiled, path, row_group_size=10)
    return path


def put(row, value):
    return lambda values: values.__setitem__(row, value)


def scored(path, router):
    log = streaming.survey([path])
    streaming.in_order(log.rows("small", "test"))
    return streaming.score(log, "small", "test", {router: build(router)})


@pytest.mark.parametrize(
    ("name", "change", "router", "message"),
    [
        ("quality", put(45, float("nan")), "length",
         r"log.parquet, row group 4 from row 0: row 5 \(query_id 'test-00005'\): 'quality' is NaN"),
        ("flops", put(3, -1.0), "length", "'flops' is negative or not finite"),
        ("split", put(3, "dev"), "length", "'split' is unknown"),
        ("token_logprob", put(50, [0.5]), "chow_sum", "row group 5 .*'token_logprob' holds 0.5"),
        ("token_logprob", put(50, None), "chow_sum", "'token_logprob' is null for 1 of"),
        ("token_logprob", lambda v: v.__setitem__(slice(0, 80), [None] * 80), "chow_sum",
         "records lack token_logprob"),
        ("token_logprob", lambda v: v.__setitem__(slice(50, 80), [None] * 30), "chow_sum",
         "token_logprob"),  # only the second half of the split lacks it
        ("query_id", put(41, "test-00000"), "length", "row group 4 .*: 1 duplicate .*'test-00000'"),
        ("query_id", put(55, "test-00000"), "length",
         "query_id 'test-00000' of model 'small' occurs more than once"),  # another row group
    ],
)  # fmt: skip
def test_faults_are_one_line(tmp_path, name, change, router, message):
    path = spoil(tmp_path, name, change)
    with pytest.raises(InputError, match=message) as caught:
        scored(path, router)
    assert "\n" not in str(caught.value)


def test_a_fault_in_the_last_batch_of_many_is_not_lost(tmp_path):
    """Batches are scored by threads: what one of them raises reaches the caller."""
    path = spoil(tmp_path, "token_logprob", put(59, [0.5]))
    with pytest.raises(InputError, match=r"holds 0\.5"):
        scored(path, "chow_sum")


def test_a_truncated_file_is_one_line(tmp_path):
    path = written(tmp_path / "log.parquet", make.records(20), group=10)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"^log\.parquet: not a readable Parquet file"):
        streaming.survey([path])
    with pytest.raises(InputError, match=r"gone\.parquet: no such file"):
        streaming.survey([tmp_path / "gone.parquet"])
    with pytest.raises(InputError, match="no records files given"):
        streaming.survey([])


def test_damaged_pages_are_one_line(tmp_path):
    """The footer is sound, the values are not: the fault shows only while reading."""
    path = written(tmp_path / "log.parquet", make.records(200), group=400)
    raw = bytearray(path.read_bytes())
    raw[4:2000] = bytes(1996)
    path.write_bytes(raw)
    with pytest.raises(InputError, match=r"^log\.parquet: not a readable Parquet file") as caught:
        streaming.survey([path])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("drop", ["quality", "model", "query_id"])
def test_a_missing_column_or_no_rows_is_said_as_for_a_whole_log(tmp_path, drop):
    path = tmp_path / "log.parquet"
    pq.write_table(make.records(9).table.drop_columns([drop]), path)
    with pytest.raises(InputError, match=f"log.parquet: no column '{drop}'"):
        streaming.survey([path])
    pq.write_table(make.records(9).table.slice(0, 0), path)
    with pytest.raises(InputError, match=r"log\.parquet: no rows"):
        streaming.survey([path])


def test_a_split_or_model_that_is_not_there(tmp_path):
    log = streaming.survey([written(tmp_path / "log.parquet", make.records(9))])
    with pytest.raises(InputError, match="'small' has no rows in split 'train'; splits in the rec"):
        log.rows("small", "train")


def test_a_query_may_be_in_one_split_only(tmp_path):
    path = spoil(tmp_path, "query_id", put(45, "validation-00003"))
    log = streaming.survey([path])
    with pytest.raises(InputError, match="'validation-00003' of model 'small' is in splits 'test'"):
        streaming.check_disjoint(log, "small", ("test", "validation"))
    sound = streaming.survey([written(tmp_path / "sound.parquet", make.records(9))])
    streaming.check_disjoint(sound, "small", ("test", "validation"))


def test_a_score_of_the_wrong_shape_names_the_router(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class One(Router):
        def score(self, inputs):
            return np.zeros(1)

    log = streaming.survey([written(tmp_path / "log.parquet", make.records(9))])
    with pytest.raises(InputError, match=r"one: score has shape \(1,\) for . queries"):
        streaming.score(log, "small", "test", {"one": One()})
