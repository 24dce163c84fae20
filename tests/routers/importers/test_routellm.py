"""RouteLLM's files: small ones of each kind, then the real ones against its own program."""

import csv
import dataclasses
import json

import numpy as np
import pytest

from experiments.cli import main
from routers.errors import InputError
from routers.importers.options import Options
from routers.importers.routellm import read

WEAK, STRONG = "mixtral", "gpt-4"
COSTS = Options(split="test", query_cost={WEAK: 0.0001, STRONG: 0.01})
# Commas, quotes and newlines as in the real prompts, and texts that look like nulls.
PROMPTS = {
    "anatomy": ['Which "bone"?\nA. this, or\nB. that', "null", "007"],
    "law": ["Who sues?", "NA", "Ends in é"],
}
RIGHT = {
    "anatomy": [(True, True), (False, True), (False, False)],
    "law": [(True, False), (False, True), (True, True)],
}


def write_csv(path, header, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def write_lines(path, items):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    return path


@pytest.fixture
def mmlu(tmp_path):
    """Two domains, one contaminated prompt, and the order law, anatomy."""
    folder = tmp_path / "mmlu"
    for domain, prompts in PROMPTS.items():
        rows = [(p, *right) for p, right in zip(prompts, RIGHT[domain], strict=True)]
        write_csv(folder / "responses" / f"mmlu_{domain}.csv", ["prompt", WEAK, STRONG], rows)
    write_lines(folder / "contaminated_prompts.jsonl", [{"eval_prompt": "NA", "train_idx": 3}])
    (tmp_path / "order.json").write_text(json.dumps(["law", "anatomy"]))
    return folder


SCORED = [(*RIGHT["law"][i], 0.1 * i, -i) for i in (0, 2)]
SCORED += [(*right, 0.5 + i, 0.25) for i, right in enumerate(RIGHT["anatomy"])]


@pytest.fixture
def scores(tmp_path):
    return write_csv(tmp_path / "scores.csv", [WEAK, STRONG, "mf", "bert"], SCORED)


def rows_of(records, model):
    return [row for row in records.table.to_pylist() if row["model"] == model]


def test_answer_tables_in_order_without_contaminated_prompts(mmlu, scores):
    records = read([mmlu, mmlu.parent / "order.json", scores], COSTS)
    assert records.models == sorted([WEAK, STRONG])
    assert records.tasks == ["mmlu_anatomy", "mmlu_law"]
    assert "5 of 6" in records.metadata["decontamination"]
    for place, model in enumerate((WEAK, STRONG)):
        rows = rows_of(records, model)
        assert [row["prompt"] for row in rows] == [
            PROMPTS["law"][0], PROMPTS["law"][2], *PROMPTS["anatomy"],
        ]  # fmt: skip
        assert [row["query_id"] for row in rows][:3] == [
            "mmlu_law-00000", "mmlu_law-00002", "mmlu_anatomy-00000",
        ]  # fmt: skip
        assert [row["quality"] for row in rows] == [float(each[place]) for each in SCORED]
        assert [row["score:mf"] for row in rows] == [each[2] for each in SCORED]
        assert [row["score:bert"] for row in rows] == [each[3] for each in SCORED]
        assert {row["dollars"] for row in rows} == {COSTS.query_cost[model]}
        assert {row["split"] for row in rows} == {"test"}


def test_without_lists_every_row_stays_in_the_order_of_names(mmlu):
    (mmlu / "contaminated_prompts.jsonl").unlink()
    records = read([mmlu], COSTS)
    prompts = [row["prompt"] for row in rows_of(records, WEAK)]
    assert prompts == PROMPTS["anatomy"] + PROMPTS["law"]


def test_scores_may_be_checked_by_prompt(mmlu, tmp_path):
    (mmlu / "contaminated_prompts.jsonl").unlink()
    prompts = PROMPTS["anatomy"] + PROMPTS["law"]
    # An empty header is the index that pandas saves.
    table = [(i, prompt, i / 10) for i, prompt in enumerate(prompts)]
    path = write_csv(tmp_path / "mine.csv", ["", "prompt", "mine"], table)
    found = rows_of(read([mmlu, path], COSTS), STRONG)
    assert [row["score:mine"] for row in found] == [i / 10 for i in range(6)]


def test_gsm8k_keeps_the_answers(tmp_path):
    header = ["prompt", WEAK, STRONG, f"{WEAK}_response", f"{STRONG}_response"]
    rows = [("1+1?", True, False, "2", "11\n#### 11"), ("2+2?", False, True, "", "4")]
    path = write_csv(tmp_path / "gsm8k_responses.csv", header, rows)
    records = read([path], COSTS)
    assert records.tasks == ["gsm8k"]
    assert [row["response"] for row in rows_of(records, STRONG)] == ["11\n#### 11", "4"]
    assert [row["quality"] for row in rows_of(records, WEAK)] == [1.0, 0.0]


def questions():
    names = {81: "writing", 82: "math", 83: "math"}
    return [
        {"question_id": q, "category": c, "turns": [f"first {q}", f"second {q}"]}
        for q, c in names.items()
    ]


def judgements(**change):
    ratings = {(WEAK, 81): (5, 8), (WEAK, 82): (1, 10), (WEAK, 83): (3, 3.5),
               (STRONG, 81): (10, 10), (STRONG, 82): (9, 9), (STRONG, 83): (2, 7)}  # fmt: skip
    rows = [
        {"question_id": q, "model": m, "turn": t, "score": s}
        for (m, q), pair in ratings.items()
        for t, s in enumerate(pair, 1)
    ]
    rows[0] |= change
    return rows


@pytest.fixture
def mt_bench(tmp_path):
    folder = tmp_path / "mt_bench"
    write_lines(folder / "question.jsonl", questions())
    write_lines(folder / "judgements.jsonl", judgements())
    write_lines(folder / "contaminated_prompts.jsonl", [{"eval_prompt": "second 83"}])
    return folder


def test_mt_bench_quality_is_the_mean_rating_over_ten(mt_bench):
    records = read([mt_bench], COSTS)
    assert records.tasks == ["mt_bench_math", "mt_bench_writing"]
    weak, strong = (rows_of(records, model) for model in (WEAK, STRONG))
    assert [row["query_id"] for row in weak] == ["mt_bench-81", "mt_bench-82"]
    assert [row["prompt"] for row in weak] == ["first 81", "first 82"]  # the second turn is hidden
    assert [row["quality"] for row in weak] == pytest.approx([0.65, 0.55], abs=1e-7)
    assert [row["quality"] for row in strong] == pytest.approx([1.0, 0.9], abs=1e-7)
    # Without its list nothing is dropped.
    assert len(read(sorted(mt_bench.glob("[jq]*.jsonl")), COSTS)) == 6


def test_no_cost_says_what_to_type(mmlu):
    with pytest.raises(InputError, match=r"--query-cost 'gpt-4=DOLLARS'"):
        read([mmlu], dataclasses.replace(COSTS, query_cost={}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": -1}, r"line 1: rating -1\.0 of question 81, turn 1, is not 1 to 10 \(-1 marks"),
        ({"score": 11}, "is not 1 to 10"),
        ({"score": None}, "is not 1 to 10"),
        ({"score": "high"}, "line 1: 'score' is 'high'; give a finite number"),
        ({"turn": 2}, "turn 2 of question 81 stands there twice"),
        ({"question_id": 99}, "question 81 has not 2 judgements of model 'mixtral'"),
        ({"model": None}, "line 1: not a judgement"),
        ({"model": "third"}, "question 81 has not 2 judgements of model 'third'"),
    ],
)
def test_judgements_that_cannot_be_averaged(mt_bench, change, message):
    write_lines(mt_bench / "judgements.jsonl", judgements(**change))
    with pytest.raises(InputError, match=message):
        read([mt_bench], COSTS)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "question.jsonl: no questions"),
        (questions()[:1] * 2, "line 2: question 81 stands there twice"),
        ([questions()[0] | {"turns": ["only one"]}], "line 1: not a question"),
        ([questions()[0] | {"category": 3}], "line 1: not a question"),
    ],
)
def test_questions_that_are_none(mt_bench, items, message):
    write_lines(mt_bench / "question.jsonl", items)
    with pytest.raises(InputError, match=message):
        read([mt_bench], COSTS)


def test_judgements_need_their_questions(mt_bench):
    with pytest.raises(InputError, match=r"its questions are missing; name question\.jsonl"):
        read([mt_bench / "judgements.jsonl"], COSTS)


SHUFFLED = [SCORED[1], SCORED[0], *SCORED[2:]]


@pytest.mark.parametrize(
    ("header", "table", "message"),
    [
        (
            [WEAK, STRONG, "mf"],
            [row[:3] for row in SHUFFLED],
            "row 0 is not query 'mmlu_law-00000'",
        ),
        ([WEAK, STRONG, "mf"], [row[:3] for row in SCORED[1:]], "4 rows for 5 queries"),
        (["mf"], [row[2:3] for row in SCORED], "cannot be checked; add one of them"),
        ([WEAK, "mf"], [(row[0], "high") for row in SCORED], "column 'mf', row 0 is 'high'"),
        ([WEAK, "mf"], [(row[0], "nan") for row in SCORED], "column 'mf', row 0 is 'nan'"),
        ([WEAK, "mf", "mf"], [(row[0], 1, 1) for row in SCORED], "two columns named 'mf'"),
    ],
)
def test_scores_that_do_not_fit(mmlu, tmp_path, header, table, message):
    path = write_csv(tmp_path / "other.csv", header, table)
    with pytest.raises(InputError, match=message):
        read([mmlu, mmlu.parent / "order.json", path], COSTS)


def test_one_score_twice(mmlu, scores, tmp_path):
    again = write_csv(tmp_path / "again.csv", [WEAK, "mf"], [(r[0], r[2]) for r in SCORED])
    with pytest.raises(InputError, match="'mf' is in two score tables"):
        read([mmlu, mmlu.parent / "order.json", scores, again], COSTS)


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ('["law"]', "not the answer tables given .see 'mmlu_anatomy'"),
        ('["law", "anatomy", "art"]', "see 'mmlu_art'"),
        ('["law", "anatomy", "law"]', "name every table once"),
        ('{"law": 1}', "not a JSON list"),
        ("[1]", "not a JSON list"),
        ("[" * 100_000, "nested too deeply"),
        ('["law",', "broken JSON"),
    ],
)
def test_orders_that_are_none(mmlu, order, message):
    (mmlu.parent / "order.json").write_text(order)
    with pytest.raises(InputError, match=message):
        read([mmlu, mmlu.parent / "order.json"], COSTS)


def test_kinds_of_files_that_do_not_belong(mmlu, mt_bench, tmp_path):
    with pytest.raises(InputError, match="give one benchmark"):
        read([mmlu, mt_bench / "judgements.jsonl"], COSTS)
    with pytest.raises(InputError, match="give one benchmark"):
        read([mmlu / "contaminated_prompts.jsonl"], COSTS)
    for name in ("cache.npy", "answers.jsonl"):
        (tmp_path / name).write_text("{}")
        with pytest.raises(InputError, match=f"{name}: not a file of RouteLLM's evaluator"):
            read([tmp_path / name], COSTS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no \.csv or \.jsonl file in this folder"):
        read([tmp_path / "empty"], COSTS)


def test_tables_of_two_benchmarks(mmlu):
    rows = [("1+1?", True, False)]
    write_csv(mmlu / "responses" / "gsm8k_responses.csv", ["prompt", WEAK, "claude"], rows)
    with pytest.raises(InputError, match="columns differ from those of"):
        read([mmlu], COSTS)


def test_two_tables_of_one_name(mmlu, tmp_path):
    path = write_csv(tmp_path / "mmlu_law.csv", ["prompt", WEAK, STRONG], [("q", True, True)])
    with pytest.raises(InputError, match="two answer tables have the same file name"):
        read([mmlu, path], COSTS)


def test_two_lists_of_contaminated_prompts(mmlu, mt_bench):
    with pytest.raises(InputError, match=r"contaminated_prompts\.jsonl: given twice"):
        read([mmlu, mt_bench / "contaminated_prompts.jsonl"], COSTS)


def test_contaminated_list_of_something_else(mmlu):
    write_lines(mmlu / "contaminated_prompts.jsonl", [{"prompt": "NA"}])
    with pytest.raises(InputError, match="line 1: no text 'eval_prompt'"):
        read([mmlu], COSTS)


@pytest.mark.parametrize("seed", range(60))
def test_damaged_tables_are_refused_or_read_whole(mmlu, seed):
    """Bytes cut, overwritten or doubled: one line of complaint, or rows that are all sound."""
    rng = np.random.default_rng(seed)
    path = mmlu / "responses" / "mmlu_law.csv"
    data = bytearray(path.read_bytes())
    at = int(rng.integers(len(data)))
    kind = seed % 3
    if kind == 0:
        data = data[:at]
    elif kind == 1:
        data[at] = int(rng.integers(256))
    else:
        data = data[:at] + data[int(rng.integers(len(data))) :]
    path.write_bytes(bytes(data))
    try:
        records = read([mmlu], COSTS)
    except InputError as error:
        complaint = str(error)
    else:
        complaint = ""
        assert set(records.table["quality"].to_pylist()) <= {0.0, 1.0}
        assert len(rows_of(records, WEAK)) == len(rows_of(records, STRONG))
    assert "\n" not in complaint


# The real files, against what RouteLLM's own evaluator printed for them.


def evaluators(shared_data):
    return shared_data / "routing" / "routellm" / "routellm" / "evals"


NAMES = ("mistralai/Mixtral-8x7B-Instruct-v0.1", "gpt-4-1106-preview")
REAL = Options(split="test", query_cost=dict(zip(NAMES, (0.0001, 0.01), strict=True)))


@pytest.mark.shared
@pytest.mark.parametrize(
    ("folder", "queries", "weak", "strong"),
    [
        ("mmlu", 14037, 0.6809147253686685, 0.8058702001852248),
        ("gsm8k", 1307, 0.63733741392501905, 0.8576893649579189),
        ("mt_bench", 72, 0.828125, 0.9211805555555555),
    ],
)
def test_sizes_and_qualities_after_decontamination(shared_data, folder, queries, weak, strong):
    records = read([evaluators(shared_data) / folder], REAL)
    # Ratings are averaged in float32, the type of the column; 0/1 qualities are exact.
    close = 3e-9 if folder == "mt_bench" else 1e-15
    for model, want in zip(NAMES, (weak, strong), strict=True):
        quality = np.array([row["quality"] for row in rows_of(records, model)])
        assert len(quality) == queries
        assert quality.mean() == pytest.approx(want, abs=close)


@pytest.mark.shared
def test_import_and_evaluate_reproduce_the_evaluator(shared_data, tmp_path, capsys):
    """The two commands, from files to the table that RouteLLM prints: every point, AUC, APGR."""
    data = shared_data / "routing" / "routellm"
    out = tmp_path / "mmlu.parquet"
    sources = [evaluators(shared_data) / "mmlu", data / "mmlu_domain_order.json"]
    costs = [
        w for name, cost in REAL.query_cost.items() for w in ("--query-cost", f"{name}={cost}")
    ]
    command = ["import", "routellm", *sources, data / "golden" / "mmlu_scores.csv", "-o", out]
    assert main([*map(str, command), *costs, "--split", "test"]) == 0
    capsys.readouterr()
    asked = ["--bootstrap", "0", "--convention", "routellm", "--json"]
    assert main(["evaluate", str(out), *asked]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["small"], found["large"], found["n_test"]) == (*NAMES, 14037)
    assert 100 * found["quality"]["small"] == pytest.approx(68.09147253686685, abs=1e-12)
    assert 100 * found["quality"]["large"] == pytest.approx(80.58702001852248, abs=1e-12)
    golden = np.loadtxt(data / "golden" / "mmlu_points.csv", delimiter=",", skiprows=1, dtype=str)
    printed = {"len": (75.385101, 0.583698, 0.585819), "hash": (74.387645, 0.503873, 0.502964)}
    for name, (area, binned, exact) in printed.items():
        entry = found["routers"][name]
        theirs = entry["conventions"]["routellm"]
        points = [
            (p["threshold"], 100 * p["deferral_rate"], 100 * p["quality"]) for p in theirs["points"]
        ]
        want = golden[golden[:, 0] == name][:, 1:].astype(float)
        np.testing.assert_allclose(points, want, rtol=1e-14)
        assert 100 * theirs["auc"] == pytest.approx(area, abs=1e-6)
        assert theirs["apgr"] == pytest.approx(binned, abs=1e-6)
        assert entry["apgr"] == pytest.approx(exact, abs=1e-6)  # ours, on the exact curve
    assert main(["evaluate", str(out), "--bootstrap", "0", "--convention", "all"]) == 0
    text = capsys.readouterr().out
    assert "0.583698" in text
    assert "0.585819" in text
