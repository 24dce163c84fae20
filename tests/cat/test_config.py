"""The configuration tree: JSON in and out, fingerprints, arms, and what it refuses."""

import dataclasses
import json
import re
import subprocess
import sys

import numpy as np
import pytest

from cat.config import ARMS, ArmConfig, Config, ModelConfig, arm, fingerprint, from_dict, to_dict
from routers.errors import InputError


def leaves(tree: dict, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Paths of all values that are not dictionaries."""
    found = []
    for key, value in tree.items():
        found += leaves(value, (*path, key)) if isinstance(value, dict) else [(*path, key)]
    return found


def changed(tree: dict, path: tuple[str, ...]) -> dict:
    """A deep copy with another value of the same type at ``path``."""
    copy = json.loads(json.dumps(tree))
    at = copy
    for key in path[:-1]:
        at = at[key]
    old = at[path[-1]]
    one_more = [*old, *(old[:1] or ["x"])] if isinstance(old, list) else []
    kinds = {bool: lambda: not old, str: lambda: old + "x", list: lambda: one_more}
    at[path[-1]] = kinds.get(type(old), lambda: old + 1)()
    return copy


LEAVES = leaves(to_dict(Config()))


def test_round_trip_through_a_json_file(tmp_path):
    config = Config(
        name="x",
        arms=("xent", "dist:label_weight=0.25"),
        seeds=(3, 1),
        small=ModelConfig(width=6, rope_base=5e5),
    )
    path = tmp_path / "config.json"
    path.write_text(json.dumps(to_dict(config)))
    again = from_dict(Config, json.loads(path.read_text()))
    assert again == config
    assert hash(again) == hash(config)  # tuples are tuples again, at every depth
    assert isinstance(again.evaluation.routers, tuple)


@pytest.mark.parametrize("path", LEAVES, ids=".".join)
def test_every_field_survives_and_changes_the_fingerprint(path):
    tree = to_dict(Config())
    other = from_dict(Config, changed(tree, path))
    assert to_dict(other) == changed(tree, path)
    assert fingerprint(other) != fingerprint(Config())


def test_a_field_left_out_takes_its_default():
    tree = to_dict(Config(name="kept"))
    del tree["teacher_topk"], tree["small"]["rope_base"]
    assert from_dict(Config, tree) == Config(name="kept")


def test_unknown_fields_are_named():
    tree = to_dict(Config())
    tree["small"] |= {"wdth": 3, "depth": 1}
    with pytest.raises(InputError, match="ModelConfig has no field depth, wdth"):
        from_dict(Config, tree)


@pytest.mark.parametrize("edited", [[], "text", 3, None])
def test_something_else_where_fields_belong(edited):
    with pytest.raises(InputError, match=f"ModelConfig: {re.escape(repr(edited))} where fields"):
        from_dict(Config, {"small": edited})


def test_fingerprint_is_the_same_in_another_process():
    code = (
        "import numpy as np; from cat.config import Config, fingerprint;"
        "print(fingerprint(Config(), np.arange(6.0).reshape(2, 3), ['a', {'z': 1, 'b': None}]))"
    )
    there = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    parts = (Config(), np.arange(6.0).reshape(2, 3), ["a", {"b": None, "z": 1}])
    assert there.stdout.strip() == fingerprint(*parts)
    assert re.fullmatch("[0-9a-f]{12}", fingerprint(*parts))


def test_fingerprint_of_arrays_sees_value_shape_and_type():
    base = np.arange(6, dtype=np.int32).reshape(2, 3)
    one = base.copy()
    one[1, 2] = 7
    different = [
        base,
        one,
        base.T,
        base.reshape(3, 2),
        base.astype(np.int64),
        base.view(np.float32),
    ]
    prints = [fingerprint(array) for array in different]
    assert len(set(prints)) == len(prints)
    assert fingerprint(base.T) == fingerprint(np.ascontiguousarray(base.T))


def test_fingerprint_keeps_parts_apart():
    assert fingerprint(1, 23) != fingerprint(12, 3) != fingerprint(123)
    assert fingerprint("a", "b") != fingerprint("b", "a")
    assert fingerprint(np.arange(2), np.arange(2, 4)) != fingerprint(np.arange(2), np.arange(2))


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_by_name(name):
    assert arm(name) == ARMS[name]
    assert arm(f"{name}:label_weight=0.125") == dataclasses.replace(ARMS[name], label_weight=0.125)


def test_the_published_arms():
    assert arm("xent") == ArmConfig(loss="cross_entropy", mask="all")
    assert (arm("cat_xent").loss, arm("cat_xent").mask) == ("cross_entropy", "either_hit")
    assert (arm("cat_dist").loss, arm("cat_dist").mask) == ("distill", "either_hit")
    assert arm("gatekeeper:correct_weight=0.3").correct_weight == 0.3
    assert arm("dist:teacher=live,temperature=2").teacher == "live"


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("cat_xnt", "unknown arm 'cat_xnt'; did you mean 'cat_xent'?"),
        ("", "unknown arm ''"),
        ("xent:maks=all", "ArmConfig has no field 'maks'; did you mean 'mask'?"),
        ("dist:teacher=later", "ArmConfig.teacher=later"),
        ("dist:temperature=warm", "ArmConfig.temperature=warm: not float"),
        ("xent:mask", "ArmConfig: 'mask' is not field=value"),
    ],
)
def test_bad_arms(spec, says):
    with pytest.raises(InputError, match=re.escape(says)):
        arm(spec)


def test_the_default_passes():
    Config().check()
    Config(arms=("dist",), teacher_topk=4).check()
    Config(arms=("dist:teacher=live",)).check()


def with_model(**fields) -> Config:
    return Config(small=dataclasses.replace(Config().small, **fields))


def with_training(**fields) -> Config:
    return Config(arm_train=dataclasses.replace(Config().arm_train, **fields))


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (with_training(steps=0), "arm_train.steps=0"),
        (with_training(batch_size=-1), "arm_train.batch_size=-1"),
        (with_training(batch_size=64, accumulate=3), "accumulate=3 does not divide"),
        (with_training(accumulate=0), "accumulate=0 does not divide"),
        (Config(arms=("cat_soft:mask_temperature=-1",)), "mask_temperature=-1.0; give 0 or more"),
        (Config(arms=("cat_xent:mask_warmup=-5",)), "mask_warmup=-5; give 0 or more"),
        (with_training(steps_per_dispatch=0), "arm_train.steps_per_dispatch=0"),
        (with_training(checkpoint_every=0), "arm_train.checkpoint_every=0"),
        (with_model(heads=4, kv_heads=3), "small.kv_heads=3 does not divide small.heads=4"),
        (with_model(head_dim=7), "small.head_dim=7; must be even"),
        (with_model(layers=0), "small.layers=0"),
        (Config(arms=()), "arms=[]"),
        (Config(arms=("xent", "xent")), "arms=['xent', 'xent']"),
        (Config(arms=("xnt",)), "did you mean 'xent'?"),
        (Config(arms=("dist",)), "arm 'dist' distils from stored probabilities"),
        (Config(seeds=()), "seeds=[]"),
        (Config(seeds=(1, 2, 1)), "seeds=[1, 2, 1]"),
        (Config(name=""), "name=''"),
        (Config(name="../elsewhere"), "name='../elsewhere'"),
    ],
)
def test_check_names_the_field(config, says):
    with pytest.raises(InputError, match=re.escape(says)) as caught:
        config.check()
    assert "\n" not in str(caught.value)
