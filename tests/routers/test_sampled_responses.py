"""The column ``sampled_responses``: read beside the answer, hidden from the prompt stage."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from routers.build import build
from routers.errors import InputError
from routers.evaluate import evaluate
from routers.records import pair, read


def log(folder, **changes):
    """Two models, three queries out of order; samples of the small model only."""
    columns = {
        "query_id": ["q3", "q1", "q2", "q1", "q2", "q3"],
        "model": ["small"] * 3 + ["large"] * 3,
        "quality": [1.0, 0.0, 1.0, 1.0, 1.0, 1.0],
        "flops": [1.0] * 3 + [9.0] * 3,
        "response": ["c", "a", "b", "A", "B", "C"],
        "sampled_responses": [["c", "c"], ["x", "y", "a"], [], None, None, None],
    } | changes
    columns = {name: values for name, values in columns.items() if values is not None}
    path = folder / "log.parquet"
    pq.write_table(pa.table(columns), path)
    return read([path])


def test_samples_and_answers_come_in_the_order_of_the_queries(tmp_path):
    inputs, _ = pair(log(tmp_path), "small", "large", "test")
    assert inputs.query_id.tolist() == ["q1", "q2", "q3"]
    assert inputs.response.tolist() == ["a", "b", "c"]
    samples = [inputs.sampled_responses[i].tolist() for i in range(3)]
    assert samples == [["x", "y", "a"], [], ["c", "c"]]
    assert build("agreement").score(inputs).tolist() == pytest.approx([2 / 3, 0.0, 0.0])
    taken = inputs.take(np.array([2, 0]))
    assert taken.response.tolist() == ["c", "a"]
    assert taken.sampled_responses[1].tolist() == ["x", "y", "a"]


def test_the_prompt_stage_does_not_see_them(tmp_path):
    inputs, _ = pair(log(tmp_path), "small", "large", "test")
    seen = inputs.at_stage("prompt")
    assert seen.response is None
    assert seen.sampled_responses is None


def test_without_samples_the_answers_are_not_read_either(tmp_path):
    inputs, _ = pair(log(tmp_path, sampled_responses=None), "small", "large", "test")
    assert inputs.response is None
    assert inputs.sampled_responses is None
    with pytest.raises(InputError, match="records lack response, sampled_responses"):
        build("agreement").score(inputs)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sampled_responses": [["a"], None, ["b"], None, None, None]}, "is null for 1 of 3 rows"),
        ({"sampled_responses": [["a", None], [], [], None, None, None]}, "null values inside"),
        ({"response": ["c", None, "b", "A", "B", "C"]}, "'response' is null for 1 of 3"),
    ],
)
def test_gaps_are_one_line(tmp_path, changes, says):
    with pytest.raises(InputError, match=says) as caught:
        pair(log(tmp_path, **changes), "small", "large", "test")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("values", [["a"] * 6, [[1]] * 6, [1.0] * 6])
def test_anything_but_lists_of_text_is_refused_or_cast(tmp_path, values):
    if values[0] == [1]:  # numbers inside lists have one reading as text
        inputs, _ = pair(log(tmp_path, sampled_responses=values), "small", "large", "test")
        assert inputs.sampled_responses.values.tolist() == ["1"] * 3
        return
    with pytest.raises(InputError, match="cast it to list<"):
        log(tmp_path, sampled_responses=values)


def test_agreement_is_evaluated_from_the_file(tmp_path):
    done = evaluate(log(tmp_path), {"agreement": build("agreement")}, bootstrap=0)
    # Only q1 gains, and it is the one whose samples disagree.
    assert done.summary["routers"]["agreement"]["audc_normalised"] == pytest.approx(1.0)
