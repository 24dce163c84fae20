"""The learning rate of every arm by validation loss: same grid, same rule, finished runs kept."""

import dataclasses
import json
import math

import jax
import pytest
from tiny_run import TINY

from cat.config import OptimizerConfig
from cat.faults import NotFinite
from experiments import configs, sweep
from experiments.cli import main
from experiments.pipeline import Pipeline
from experiments.rundir import RunDirectory
from experiments.sweep import Tuned

RATES = ["2e-3", "4e-2", "1e-6"]
ARGUMENTS = ["sweep", "demo", "--rates", *RATES, *TINY, "--arms", "xent", "cat_xent"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    assert main([*ARGUMENTS, "--runs", str(folder)]) == 0
    return folder / "demo"


def final_loss(folder) -> float:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return json.loads(lines[-1])["validation_loss"]


def test_every_arm_gets_the_whole_grid_and_its_own_best(swept):
    found = json.loads((swept / sweep.FILE).read_text())
    assert [tuned["arm"] for tuned in found] == ["xent", "cat_xent"]
    for tuned in found:
        assert tuned["rates"] == [1e-6, 2e-3, 4e-2]
        for rate, loss in zip(tuned["rates"], tuned["losses"], strict=True):
            folder = swept / "sweep" / tuned["arm"] / f"{rate:g}" / "seed0"
            assert loss == final_loss(folder)
        assert len(set(tuned["losses"])) == 3


def test_a_rate_of_nearly_nothing_leaves_the_base_as_it_was(swept):
    """Both arms then have the base's own loss: the rule is one for all."""
    xent, cat = json.loads((swept / sweep.FILE).read_text())
    assert math.isclose(xent["losses"][0], cat["losses"][0], rel_tol=1e-4)
    assert not math.isclose(xent["losses"][2], cat["losses"][2], rel_tol=1e-4)


def test_again_trains_nothing_and_says_the_same(swept, capsys, monkeypatch):
    monkeypatch.setattr("cat.train.dispatch", lambda *_, **__: pytest.fail("trained again"))
    before = (swept / sweep.FILE).read_text()
    assert main([*ARGUMENTS, "--runs", str(swept.parent)]) == 0
    assert (swept / sweep.FILE).read_text() == before
    said = capsys.readouterr()
    assert "*" in said.out
    assert str(swept / sweep.FILE) in said.out


def test_a_rate_that_diverges_loses_and_all_diverging_is_refused(tmp_path, capsys):
    arguments = ["sweep", "demo", *TINY, "--arms", "xent", "--arm-train.warmup-steps", "1"]
    arguments += ["--arm-train.clip-norm", "1e30", "--runs", str(tmp_path)]
    assert main([*arguments, "--rates", "1e-3", "1e37"]) == 0
    (tuned,) = json.loads(
        (tmp_path / "demo" / sweep.FILE).read_text(), parse_constant=lambda word: word
    )
    assert tuned["losses"][1] is None
    assert "*" in capsys.readouterr().out
    assert main([*arguments, "--rates", "1e37"]) == 2
    assert "diverged at every rate" in capsys.readouterr().err


def test_the_edge_of_the_grid_is_said():
    inside = Tuned("a", (1.0, 2.0, 3.0), (3.0, 1.0, 2.0))
    edge = Tuned("a", (1.0, 2.0, 3.0), (3.0, 2.0, 1.0))
    diverged = Tuned("a", (1.0, 2.0, 3.0), (3.0, 2.0, math.nan))
    assert (inside.best, inside.at_edge) == (1, False)
    assert (edge.best, edge.at_edge) == (2, True)
    assert (diverged.best, diverged.at_edge) == (1, False)


@pytest.mark.parametrize(
    ("losses", "select", "wanted"),
    [
        ([None, 2.0, None, 3.0], "last", 3.0),
        ([None, 2.0, None, 3.0], "best", 2.0),
        ([None, 2.0, None, None], "last", math.nan),  # due, and not a number
        ([None, 2.0, None, None], "best", 2.0),
        ([None, None], "best", math.nan),
    ],
)
def test_a_run_that_ends_without_a_number_has_diverged(losses, select, wanted, tmp_path):
    lines = [json.dumps({"step": i, "validation_loss": loss}) for i, loss in enumerate(losses)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    found = sweep.final_loss(tmp_path, OptimizerConfig(validate_every=2, select=select))
    assert found == wanted or (math.isnan(found) and math.isnan(wanted))


def test_what_a_swept_run_depends_on(tmp_path, monkeypatch):
    """The validation rows, and its own rate; not the one that the configuration names."""
    fitted: list[str] = []

    def fit(self, name, key, *rest):
        fitted.append(key)
        raise NotFinite("nothing is trained here")

    monkeypatch.setattr(Pipeline, "fit", fit)
    plain = configs.load("demo")
    data = dataclasses.replace(plain.data, train_size=16, validation_size=8, test_size=8)
    plain = dataclasses.replace(plain, data=data)

    def key(config, rate=1e-3):
        assert math.isnan(sweep._loss(Pipeline(config, RunDirectory(tmp_path)), "xent", rate, 0))
        return fitted[-1]

    named = dataclasses.replace(plain.arm_train, learning_rate=0.5)
    assert key(plain) == key(dataclasses.replace(plain, arm_train=named))
    assert key(plain) != key(plain, 2e-3)
    fewer = dataclasses.replace(plain, data=dataclasses.replace(data, validation_size=6))
    assert key(plain) != key(fewer)


def test_the_mesh_that_is_asked_for(tmp_path, monkeypatch):
    seen = []

    def watched(pipeline, rates):
        seen.append(dict(jax.sharding.get_mesh().shape))
        return [Tuned("xent", (1.0,), (2.0,))]

    monkeypatch.setattr(sweep, "sweep", watched)
    mesh = ["--mesh.data", "2", "--mesh.fsdp", "4", "--runs", str(tmp_path)]
    assert main(["sweep", "demo", "--rates", "1e-3", *mesh]) == 0
    assert seen == [{"data": 2, "fsdp": 4, "tensor": 1}]


@pytest.mark.parametrize("rates", [[], ["--rates", "1e-3"]])
def test_help_of_a_configuration_lists_its_options(rates, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["sweep", "demo", *rates, "--help"])
    said = capsys.readouterr()
    assert (stop.value.code or 0, said.err) == (0, "")
    assert "--rates" in said.out
    assert "--arm-train.learning-rate" in said.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sweep", "demo"], "needs --rates"),
        (["sweep", "demo", "--rates"], "give positive numbers"),
        (["sweep", "demo", "--rates", "1e-3", "0"], "give positive numbers"),
        (["sweep", "demo", "--rates", "1e-3", "1e-3"], "each once"),
        (["sweep", "demo", "--rates", "1e-3", "nan"], "give positive numbers"),
        (["sweep", "demo", "--rates", "inf"], "give positive numbers"),
        (["sweep", "nothing", "--rates", "1e-3"], "nothing"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(arguments, said, tmp_path, capsys):
    runs = ["--runs", str(tmp_path)] if len(arguments) > 2 else []
    assert main([*arguments, *runs]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())
    jax.clear_caches()
