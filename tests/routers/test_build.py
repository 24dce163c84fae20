"""A name is a file; a spec is a name and its fields; every mistake is one line."""

import subprocess
import sys
from pathlib import Path

import pytest

from routers import build as building
from routers.build import build, describe, names
from routers.column import Column
from routers.errors import InputError
from routers.zoo.chow_quantile import ChowQuantile
from routers.zoo.entropy import Entropy
from routers.zoo.prompt import Prompt
from routers.zoo.random import Random


def test_names_are_the_files_of_the_zoo():
    files = {p.stem for p in Path(building.__file__).parent.joinpath("zoo").glob("*.py")}
    assert names() == sorted(files - {"__init__"})
    assert {"random", "oracle", "chow_average", "cat_router", "post_hoc", "prompt"} <= set(names())


@pytest.mark.parametrize(
    ("spec", "router"),
    [
        ("chow_quantile", ChowQuantile()),
        ("chow_quantile:alpha=0.1", ChowQuantile(alpha=0.1)),
        ("chow_quantile:alpha=0", ChowQuantile(alpha=0.0)),
        ("entropy:reduce=max", Entropy(reduce="max")),
        ("random:seed=-3", Random(seed=-3)),
        ("score:confidence", Column("confidence")),
        ("score:a:b=c,d", Column("a:b=c,d")),
    ],
)
def test_a_spec_builds_the_router_with_typed_fields(spec, router):
    built = build(spec)
    assert built == router
    for name in vars(router):
        assert type(getattr(built, name)) is type(getattr(router, name))


def test_several_fields():
    router = build("edge_inference:pool=max,topk=4,coverage=0.25")
    assert (router.pool, router.topk, router.coverage) == ("max", 4, 0.25)
    built = build("prompt:embedding_flops=1e6")
    assert isinstance(built, Prompt)
    assert built.embedding_flops == 1e6


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("chow_avrage", "did you mean 'chow_average'"),
        ("", "no router ''"),
        ("score", "name the records column, score:<name>"),
        ("score:", "name the records column, score:<name>"),
        ("__init__", "no router '__init__'"),
        ("../secrets", "no router"),
        ("chow_quantile:alfa=1", "did you mean 'alpha'"),
        ("chow_quantile:alpha", "'alpha' is not field=value"),
        ("chow_quantile:alpha=x", "not float"),
        ("chow_quantile:alpha=nan", "finite"),
        ("chow_quantile:alpha=1.5", r"in \[0, 1\]"),
        ("chow_quantile:alpha=0.1,alpha=0.2", "twice"),
        ("chow_quantile:alpha=0.1,", "is not field=value"),
        ("chow_sum:alpha=1", "it has none"),
        ("random:seed=1.5", "not int"),
        ("entropy:reduce=maxx", "did you mean 'max'"),
        ("post_hoc:weights_=1", "no field 'weights_'"),
        ("edge_inference:coverage=2", "fraction"),
        ("edge_inference:topk=1", "at least 2"),
        ("cat_router:topk=1", "at least 2"),
        ("prompt:embedding_flops=-1", ">= 0"),
    ],
)
def test_every_mistake_is_one_line_that_says_what_to_do(spec, says):
    with pytest.raises(InputError, match=says) as caught:
        build(spec)
    assert "\n" not in str(caught.value)


def test_describe():
    assert describe("chow_average") == (
        "response",
        False,
        "Mean negative log-likelihood per response token, in nats.",
    )
    assert describe("prompt")[:2] == ("prompt", True)
    assert all(describe(name).summary.endswith((".", ";")) for name in names())


def test_a_file_without_its_class_is_reported(tmp_path, monkeypatch):
    import routers.zoo

    (tmp_path / "hollow.py").write_text("class Other: ...\n")
    monkeypatch.setattr(building, "ZOO", tmp_path)
    monkeypatch.setattr(routers.zoo, "__path__", [str(tmp_path)])
    assert names() == ["hollow"]
    with pytest.raises(InputError, match=r"must define the dataclass Hollow\(Router\)"):
        build("hollow")


def test_listing_and_building_import_nothing_heavy():
    code = (
        "import sys; from routers.build import build, describe, names\n"
        "[(build(n), describe(n)) for n in names()]; import routers.storage\n"
        "heavy = {'jax', 'flax', 'optax', 'sklearn', 'pyarrow', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
