"""The mini-language ``field=value,field=value``."""

import dataclasses
import re
from typing import Literal

import pytest

from routers.errors import InputError
from routers.fields import read, replace_fields


@dataclasses.dataclass(frozen=True)
class Thing:
    """One field of every type."""

    count: int = 3
    share: float = 0.5
    flag: bool = False
    kind: Literal["sum", "mean"] = "sum"
    label: str = ""
    weights_: float | None = None


@dataclasses.dataclass(frozen=True)
class Bare:
    """Nothing to set."""


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ("", Thing()),
        ("count=7", Thing(count=7)),
        ("count=-7,share=1e-3", Thing(count=-7, share=0.001)),
        ("flag=true,kind=mean", Thing(flag=True, kind="mean")),
        ("flag=false", Thing(flag=False)),
        ("label=a=b", Thing(label="a=b")),
        ("share=2", Thing(share=2.0)),
    ],
)
def test_values_are_read_by_the_type_of_the_field(changes, expected):
    base = Thing()
    got = replace_fields(base, changes)
    assert got == expected
    assert base == Thing()
    kinds = [type(getattr(got, f.name)) for f in dataclasses.fields(got)]
    assert kinds == [int, float, bool, str, str, type(None)]


def test_fields_not_named_keep_the_values_of_the_base():
    assert replace_fields(Thing(count=9, label="x"), "share=0.25") == Thing(9, 0.25, label="x")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ("cuont=1", "Thing has no field 'cuont'; did you mean 'count'?"),
        ("weights_=1", "Thing has no field 'weights_'"),
        ("count=1.5", "Thing.count=1.5: not int"),
        ("count=", "Thing.count=: not int"),
        ("share=much", "Thing.share=much: not float"),
        ("share=nan", "Thing.share=nan"),
        ("share=inf", "Thing.share=inf"),
        ("flag=True", "Thing.flag=True: give true or false"),
        ("kind=maen", "Thing.kind=maen: did you mean 'mean'?"),
        ("label", "'label' is not field=value"),
        ("count=1,count=2", "field 'count' is given twice"),
        ("=3", "Thing has no field ''"),
    ],
)
def test_refusals_name_class_and_field(changes, says):
    with pytest.raises(InputError, match=re.escape(says)) as caught:
        replace_fields(Thing(), changes)
    assert "\n" not in str(caught.value)


def test_a_class_without_fields():
    assert replace_fields(Bare(), "") == Bare()
    with pytest.raises(InputError, match="Bare has no field 'x'; it has none"):
        replace_fields(Bare(), "x=1")


def test_read_says_where():
    with pytest.raises(InputError, match=r"data\.size=big: not int; give a number"):
        read("big", int, "data.size")
