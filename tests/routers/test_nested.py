"""Routers inside routers: the spec, the packing, the refusals."""

import numpy as np
import pytest
from planted import planted

from routers.build import build
from routers.errors import InputError
from routers.nested import joined, members, pack, part, unpack


def test_members_with_fields():
    found = members("chow_quantile:alpha=0.3+post_hoc:learner=mlp;seed=4+length", "stack")
    assert [type(r).__name__ for r in found] == ["ChowQuantile", "PostHoc", "Length"]
    assert found[0].alpha == 0.3
    assert (found[1].learner, found[1].seed) == ("mlp", 4)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no router ''"),
        ("length+", "no router ''"),
        ("lenght", "did you mean 'length'"),
        ("length+length", "named twice"),
        ("length+oracle", "'oracle' sees the outcomes"),
        ("chow_quantile:alpha=2", r"\[0, 1\]"),
    ],
)
def test_refusals_are_one_line(text, says):
    with pytest.raises(InputError, match=says) as caught:
        members(text, "stack")
    assert "\n" not in str(caught.value)


def test_joined_and_part_are_inverse_even_where_names_begin_alike():
    parts = {"1": {"w": np.ones(1)}, "11": {"w": np.zeros(2), "a.b": np.ones(3)}}
    flat = joined(parts)
    assert set(flat) == {"1.w", "11.w", "11.a.b"}
    for name, arrays in parts.items():
        assert part(flat, name).keys() == arrays.keys()


def test_unpacked_members_score_as_the_packed_ones_did():
    inputs, outcomes = planted(60)
    fresh = [build("length"), build("knn"), build("post_hoc")]
    fitted = [router.fit(inputs, outcomes) for router in fresh]
    again = unpack(fresh, pack(fitted))
    for one, other in zip(fitted, again, strict=True):
        np.testing.assert_array_equal(one.score(inputs), other.score(inputs))
