"""Policies over K models survive the disk; a file that was touched is refused, not believed."""

import dataclasses
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tiers_planted as planted
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from planted import planted as pair_planted

import routers
from routers.base import Inputs
from routers.build import build
from routers.cascade import Cascade, Mixed, StaticMixture, decide
from routers.cascade_routing import CascadeRouting, Routing
from routers.column import Column
from routers.errors import InputError
from routers.estimates import Estimates
from routers.policy import Policy
from routers.tier_policy import TierPolicy

MODELS = planted.MODELS
UNSURE = (Column("unsure"), Column("unsure"))


def line(rng, features):
    """A regression that looks at everything."""
    return {
        "mean": rng.normal(size=features),
        "scale": 0.5 + rng.random(features),
        "w0": rng.normal(size=(features, 1)),
        "b0": rng.normal(size=1),
        "sigmoid": np.array(True),
    }


def estimates(seed=0, judges=UNSURE) -> Estimates:
    """Drawn, not fitted: every number in them matters for some query."""
    rng = np.random.default_rng(seed)
    sets = [(), (0,), (1,), (0, 1)][: 4 if judges else 1]

    def covariance():
        root = 0.3 * rng.normal(size=(3, 3))
        return root @ root.T

    return Estimates(
        routers=judges,
        prompt_quality=tuple(line(rng, 2) for _ in MODELS),
        prompt_cost=tuple(line(rng, 2) | {"sigmoid": np.array(False)} for _ in MODELS),
        signal=tuple({"x": np.sort(rng.normal(size=5)), "y": np.linspace(0, 1, 5)} for _ in judges),
        after={seen: tuple(line(rng, 3 + len(seen)) for _ in MODELS) for seen in sets},
        change={(a, b): covariance() for a in sets for b in sets if set(a) < set(b)},
        cost_unit=float(1e7 * rng.random()),
    )


def made() -> dict[str, TierPolicy]:
    judged, blind = estimates(), estimates(0, ())
    dear = CascadeRouting(MODELS, judged, 0.7)
    return {
        "cascade": Cascade(MODELS, UNSURE, (0.1 + 0.2, np.inf), about={"n": 3, "why": "ü"}),
        "alone": Cascade(("one",), (), ()),
        "static": StaticMixture(MODELS, (0.2, 0.5, 0.3)),
        "routing": Routing(MODELS, blind, 0.7),
        "cascade_routing": dear,
        "mixed": Mixed(MODELS, CascadeRouting(MODELS, judged, 1.5), dear, 0.25),
        "nested": Mixed(MODELS, Routing(MODELS, blind, 1.5), Mixed(MODELS, dear, dear, 0.5), 0.9),
    }


KINDS = [*made()]


def rows(n, seed, tiers=3) -> list[Inputs]:
    """n queries of every tier, drawn at random."""
    rng = np.random.default_rng(seed)
    first = Inputs(
        np.array([f"{seed}-{i}" for i in range(n)]),
        np.array(["t"] * n),
        None,
        prompt_embedding=rng.normal(size=(n, 1)),
    )
    scores = (rng.normal(size=n) for _ in range(tiers))
    return [dataclasses.replace(first, scores={"unsure": score}) for score in scores]


def same(one: TierPolicy, other: TierPolicy, inputs) -> None:
    """Both visit, answer and charge alike, to the last bit."""
    a, b = decide(one, inputs), decide(other, inputs)
    for field in dataclasses.fields(a):
        np.testing.assert_array_equal(getattr(a, field.name), getattr(b, field.name))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Every kind, in memory and as read back."""
    folder = tmp_path_factory.mktemp("policies")
    for name, policy in made().items():
        policy.save(folder / "deep" / f"{name}.json")
    return {
        name: (p, TierPolicy.load(folder / "deep" / f"{name}.json")) for name, p in made().items()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_read_is_what_was_saved(saved, kind):
    policy, loaded = saved[kind]
    assert type(loaded) is type(policy)
    assert (loaded.models, loaded.about) == (policy.models, policy.about)
    if kind in ("cascade", "alone", "static"):
        assert loaded == policy


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(n=st.integers(0, 9), seed=st.integers(0, 2**31))
@pytest.mark.parametrize("kind", KINDS)
def test_it_decides_the_same_whatever_it_is_asked(saved, kind, n, seed):
    same(*saved[kind], rows(n, seed, len(saved[kind][0].models)))


def test_every_array_of_the_estimates_survives(saved):
    policy, loaded = saved["cascade_routing"]

    def leaves(value, name=""):
        if isinstance(value, np.ndarray):
            return {name: (value.dtype, value.shape, value.tobytes())}
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for key, x in items for k, v in leaves(x, f"{name}/{key}").items()}

    for field in ("prompt_quality", "prompt_cost", "signal", "after", "change"):
        found, want = (leaves(getattr(p.estimates, field)) for p in (loaded, policy))
        assert found == want
        assert len(want) > 2
    assert loaded.estimates.cost_unit == policy.estimates.cost_unit
    assert loaded.estimates.routers == policy.estimates.routers


def test_mixed_policies_share_their_estimates_on_disk_and_in_memory(saved, tmp_path):
    loaded = saved["mixed"][1]
    assert loaded.cheap.estimates is loaded.dear.estimates
    policies = made()
    policies["mixed"].save(tmp_path / "m.json")
    policies["cascade_routing"].save(tmp_path / "c.json")
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in "mc"]
    assert sizes[0] == sizes[1]


def test_learned_routers_keep_their_arrays(tmp_path):
    inputs, outcomes = pair_planted(60)
    fitted = [
        build(spec).fit(inputs, outcomes) for spec in ("calibrated", "calibrated:signal=entropy")
    ]
    policy = Cascade(MODELS, tuple(fitted), (0.4, 0.1))
    policy.save(tmp_path / "p.json")
    loaded = TierPolicy.load(str(tmp_path / "p.json"))
    for ours, theirs in zip(fitted, loaded.routers, strict=True):
        np.testing.assert_array_equal(ours.score(inputs), theirs.score(inputs))
    same(policy, loaded, [inputs] * 3)


def test_the_json_is_plain_and_says_what_decides(tmp_path):
    made()["cascade"].save(tmp_path / "p.json")
    body = json.loads((tmp_path / "p.json").read_text(), parse_constant=pytest.fail)
    assert body["policy"] == {
        "kind": "cascade",
        "thresholds": [0.1 + 0.2, "inf"],
        "routers": [0, 1],
    }
    assert body["routers"] == [{"router": "score", "fields": {"name": "unsure"}}] * 2
    assert body["models"] == list(MODELS)


def small(folder):
    """The smallest policy that has arrays: (JSON path, arrays path)."""
    policy = Routing(("a", "b", "c"), estimates(1, ()), 0.1, about={"promise": "none"})
    policy.save(folder / "p.json")
    return folder / "p.json", folder / "p.safetensors"


def believed(path) -> TierPolicy | None:
    """The policy, or None where it is refused in one line that begins with a path."""
    try:
        return TierPolicy.load(path)
    except InputError as refusal:
        said = str(refusal)
    assert "\n" not in said
    assert said.startswith(str(path.parent))
    return None


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("mask", [0x01, 0x80])
def test_a_flipped_bit_is_refused_or_changes_nothing(tmp_path, which, mask):
    """In the JSON, white space may differ; in the arrays, nothing may."""
    paths = small(tmp_path)
    good, inputs = TierPolicy.load(paths[0]), rows(9, 0)
    whole = paths[which].read_bytes()
    accepted = 0
    for place in range(0, len(whole), 1 if which == 0 else 7):
        broken = bytearray(whole)
        broken[place] ^= mask
        paths[which].write_bytes(broken)
        policy = believed(paths[0])
        if policy is not None:
            accepted += 1
            assert policy.about == good.about
            same(policy, good, inputs)
    assert accepted <= (whole.count(b" ") + whole.count(b"\n") if which == 0 else 0)


@pytest.mark.parametrize("which", [0, 1])
def test_a_truncated_file_is_refused(tmp_path, which):
    paths = small(tmp_path)
    whole = paths[which].read_bytes()
    end = len(whole.rstrip())  # the last line feed is not missed
    for length in [*range(0, end, 41), end - 1]:
        paths[which].write_bytes(whole[:length])
        assert believed(paths[0]) is None


def test_another_policys_arrays_are_refused(tmp_path):
    path, beside = small(tmp_path)
    Routing(MODELS, estimates(2, ()), 0.1).save(tmp_path / "other.json")
    shutil.copy(tmp_path / "other.safetensors", beside)
    with pytest.raises(InputError, match="changed since it was saved; make it again"):
        TierPolicy.load(path)
    beside.unlink()
    with pytest.raises(InputError, match=r"p\.safetensors: no such file; it belongs to p\.json"):
        TierPolicy.load(path)


def test_an_interrupted_write_leaves_a_file_that_is_not_believed(tmp_path, monkeypatch):
    """The arrays are new, the JSON is old: refused rather than mixed."""
    path, _ = small(tmp_path)

    def full(*_, **__):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.write_text", full)
        with pytest.raises(OSError, match="disk full"):
            Routing(MODELS, estimates(2, ()), 0.1).save(path)
    assert believed(path) is None
    assert sorted(file.name for file in tmp_path.iterdir()) == ["p.json", "p.safetensors"]


def forged(path, **changes):
    """The file with other contents and a hash that fits."""
    from routers import tier_storage

    body = json.loads(path.read_text())
    del body["sha256"]
    body = {key: value for key, value in (body | changes).items() if value is not ...}
    name = body.get("arrays")
    beside = path.parent / name if isinstance(name, str) else path
    packed = beside.read_bytes() if beside.is_file() else b""
    path.write_text(json.dumps(body | {"sha256": tier_storage._digest(body, packed)}))


DEEP = {"kind": "static", "shares": [1.0]}
for _ in range(200):
    DEEP = {"kind": "mixed", "share": 0.5, "cheap": DEEP, "dear": {"kind": "static", "shares": [1]}}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"format": "else"}, "not a policy over several models"),
        ({"format": "cascade-policy"}, "over two models; load it with routers.Policy"),
        ({"schema": 2}, "schema 2 is not 1"),
        ({"schema": True}, "schema True is not 1"),
        ({"schema": ...}, "schema None is not 1"),
        ({"arrays": "../p.safetensors"}, "are not a file beside it"),
        ({"arrays": "p.json"}, "are not a file beside it"),
        ({"arrays": 3}, "are not a file beside it"),
        ({"models": ...}, "not as a policy is written"),
        ({"models": ["a", "b"]}, "not as a policy is written"),
        ({"about": ...}, "not as a policy is written"),
        ({"about": []}, "not as a policy is written"),
        ({"policy": []}, "not as a policy is written"),
        ({"policy": {"kind": "eval", "estimates": 0, "price": 1}}, "not as a policy is written"),
        ({"policy": {"kind": "routing", "estimates": 7, "price": 1}}, "not as a policy is written"),
        ({"policy": {"kind": "routing", "estimates": 0, "price": None}}, "None is not a number"),
        ({"policy": {"kind": "static", "shares": ["x"]}}, "'x' is not a number"),
        ({"policy": {"kind": "static", "shares": [0.5, 0.5]}}, "2 shares for 3 models"),
        ({"policy": {"kind": "cascade", "thresholds": [1], "routers": []}}, "a cascade of 3 tiers"),
        ({"routers": [{"router": "os", "fields": {}}]}, "no router 'os'"),
        ({"routers": [{"router": "length", "fields": {"x": 1}}]}, "length has no field 'x'"),
        ({"estimates": [{"routers": [], "cost_unit": "big"}]}, "'big' is not a number"),
    ],
)
def test_forged_files_are_refused_in_one_line(tmp_path, changes, says):
    path, _ = small(tmp_path)
    forged(path, **changes)
    with pytest.raises(InputError, match=says) as caught:
        TierPolicy.load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_policies_nested_too_deep_are_no_traceback(tmp_path):
    path, _ = small(tmp_path)
    forged(path, policy=DEEP | {"about": {}})
    assert believed(path) is None


@pytest.mark.parametrize("text", [None, "", "{", "[]", "3", b"\xff\xfe", "[" * 100_000])
def test_files_that_are_no_policy(tmp_path, text):
    path = tmp_path / "p.json"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert believed(path) is None


def test_either_kind_of_policy_names_the_others_loader(tmp_path):
    Policy(build("length"), 1.0, {}).save(tmp_path / "two.json")
    with pytest.raises(InputError, match=r"load it with routers\.Policy$"):
        routers.TierPolicy.load(tmp_path / "two.json")
    made()["static"].save(tmp_path / "many.json")
    with pytest.raises(InputError, match=r"load it with routers\.TierPolicy$"):
        routers.Policy.load(tmp_path / "many.json")


def test_what_cannot_be_saved(tmp_path):
    class Mine(TierPolicy):
        pass

    with pytest.raises(InputError, match=r"ends in \.json"):
        made()["static"].save(tmp_path / "policy.txt")
    with pytest.raises(ValueError, match="Mine is not a policy of this toolkit"):
        Mine(MODELS).save(tmp_path / "p.json")
    assert list(tmp_path.iterdir()) == []


def test_deciding_needs_numpy_alone(tmp_path):
    """In a process of its own: no JAX, SciPy, scikit-learn, nor PyArrow."""
    made()["nested"].save(tmp_path / "p.json")
    inputs = rows(6, 5)
    want = decide(made()["nested"], inputs).answer.tolist()
    code = (
        "import sys, numpy as np, routers\n"
        "from routers.base import Inputs\n"
        f"policy = routers.TierPolicy.load({str(tmp_path / 'p.json')!r})\n"
        f"ids, at = {inputs[0].query_id.tolist()}, {inputs[0].prompt_embedding.tolist()}\n"
        f"scores = {[tier.scores['unsure'].tolist() for tier in inputs]}\n"
        "for i, query in enumerate(ids):\n"
        "    def told(k):\n"
        "        return Inputs(np.array([query]), np.array(['t']), None, np.array([at[i]]),\n"
        "                      scores={'unsure': np.array([scores[k][i]])})\n"
        "    seen, prompt = {}, told(0)\n"
        "    while (tier := int(policy.decide(prompt, seen)[0])) >= 0:\n"
        "        seen[tier] = told(tier)\n"
        "    print(policy.answer(prompt, seen)[0])\n"
        "print(*{m.partition('.')[0] for m in sys.modules})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *answers, modules = done.stdout.splitlines()
    assert [int(answer) for answer in answers] == want
    heavy = {"jax", "flax", "optax", "scipy", "sklearn", "pyarrow", "matplotlib", "tyro"}
    assert not heavy & set(modules.split())


def test_the_drawn_estimates_exercise_every_kind():
    """Else equality of decisions would say little: queries must go several ways."""
    inputs = rows(100, 0)
    for name in ("routing", "cascade_routing", "mixed", "nested", "static", "cascade"):
        visited = decide(made()[name], inputs).visited
        assert len(np.unique(visited, axis=0)) > 1, name
