"""Which parameters a run ends with: the least validation loss, by one rule, resumed or not."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from kill_driver import MODEL, OPTIMIZER, rows

from cat import checkpoints, train
from cat.config import ArmConfig, Config
from cat.integrity import named
from cat.mesh import make_mesh
from cat.models.decoder import Decoder
from cat.selection import Best, validation_loss
from cat.step import skeleton
from cat.watch import LOG, TIMES
from routers.errors import InputError

ARM = ArmConfig()
ROWS, JUDGED = rows(16, 0), rows(10, 1)  # noise: learning it by heart makes validation worse
BEST = dataclasses.replace(
    OPTIMIZER, steps=48, learning_rate=0.02, checkpoint_every=8, validate_every=8, select="best"
)


def run(folder, optimizer=BEST, **kwargs):
    """(parameters by name, log lines)."""
    given = {"validation": JUDGED} | kwargs
    with jax.set_mesh(make_mesh(data=1)):
        params = train.train(MODEL, optimizer, ARM, ROWS, folder=folder, **given)
    lines = [json.loads(line) for line in (folder / LOG).read_text().splitlines()]
    return named(jax.device_get(params)), lines


def losses(lines) -> dict[int, float]:
    return {line["step"]: line["validation_loss"] for line in lines if line["validation_loss"]}


@pytest.fixture(scope="module")
def best(tmp_path_factory):
    folder = tmp_path_factory.mktemp("best")
    return folder, *run(folder)


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("batch_size", [8, 16])
def test_the_loss_is_the_mean_over_response_tokens_of_all_rows(devices, batch_size):
    """Whatever the batch size: 10 rows in batches of 8, the last filled up."""
    with jax.set_mesh(make_mesh(data=1)):
        model = Decoder(MODEL, rngs=nnx.Rngs(3))
        columns = map(jnp.asarray, (JUDGED.tokens, JUDGED.positions, JUDGED.segments))
        hidden = model.hidden(*columns).hidden
        logits = np.asarray(model.unembed(hidden), np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    logprob = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    picked = np.take_along_axis(logprob, JUDGED.targets[..., None], -1)[..., 0]
    expected = -picked[JUDGED.mask > 0].mean()
    with jax.set_mesh(make_mesh(data=devices)):
        found = validation_loss(
            jax.device_put(nnx.state(model), jax.NamedSharding(jax.sharding.get_mesh(), jax.P())),
            JUDGED,
            graph=skeleton(MODEL),
            frozen=None,
            batch_size=batch_size,
        )
    assert found == pytest.approx(expected, rel=1e-5)


def test_validated_when_due_and_at_the_end(best):
    _, _, lines = best
    assert list(losses(lines)) == [8, 16, 24, 32, 40, 48]
    assert all("validation_loss" in line for line in lines)


def test_the_parameters_of_the_least_loss_are_returned_and_loaded(best, tmp_path):
    """They are those of a run that ends there."""
    folder, params, lines = best
    found = losses(lines)
    at = min(found, key=lambda step: found[step])
    assert 8 <= at < 48, found  # else nothing is selected here
    with jax.set_mesh(make_mesh(data=1)):
        loaded = named(jax.device_get(nnx.state(checkpoints.load_params(folder, MODEL))))
        assert_same(loaded, params)
        judged = validation_loss(
            nnx.state(checkpoints.load_params(folder, MODEL)),
            JUDGED, graph=skeleton(MODEL), frozen=None, batch_size=8,
        )  # fmt: skip
    assert judged == found[at]
    last, others = run(tmp_path, dataclasses.replace(BEST, select="last"))
    assert losses(others) == found
    assert any((last[name] != params[name]).any() for name in last)


@pytest.mark.parametrize("stop", [8, 28, 44])
def test_stopped_and_resumed_the_same_is_selected(best, stop, tmp_path):
    _, params, lines = best
    done = 0

    def progress(count, note):
        nonlocal done
        done += count
        if done >= stop and note != "resumed":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, progress=progress)
    again, others = run(tmp_path)
    assert_same(again, params)
    timeless = [
        [{k: v for k, v in x.items() if k not in TIMES} for x in y] for y in (lines, others)
    ]
    assert timeless[0] == timeless[1]


def test_patience_ends_a_run_and_it_stays_ended(best, tmp_path, monkeypatch):
    _, params, whole = best
    found = losses(whole)
    at = min(found, key=lambda step: found[step])
    optimizer = dataclasses.replace(BEST, patience=1)
    short, lines = run(tmp_path, optimizer)
    worse = [s for s in found if s > 8 and found[s] >= min(v for t, v in found.items() if t < s)]
    assert lines[-1]["step"] == worse[0] < 48
    if at < worse[0]:
        assert_same(short, params)
    monkeypatch.setattr(train, "dispatch", lambda *a, **k: pytest.fail("a step was run"))
    again, others = run(tmp_path, optimizer)
    assert_same(again, short)
    assert others == lines


def test_best_counts_and_never_takes_what_is_not_a_number():
    best = Best()
    for step, loss in ((1, np.nan), (2, 3.0), (3, np.nan), (4, 3.0), (5, 2.0), (6, -np.inf)):
        best = best.after(step, loss, None)
    assert best == Best(2.0, 5, 1, None)
    assert Best().after(1, np.inf, None) == Best(None, 0, 1, None)


def test_other_validation_rows_are_another_run(best, tmp_path):
    with pytest.raises(InputError, match=r"made with other validation;"):
        run(best[0], validation=rows(10, 2))


@pytest.mark.parametrize(
    ("changes", "given", "message"),
    [
        ({}, {"validation": None}, "validate_every=8 but no validation rows; pass validation="),
        ({"validate_every": 0}, {}, r"optimizer\.select=best needs validation losses"),
        (
            {"validate_every": 0, "select": "last", "patience": 2},
            {},
            r"optimizer\.patience=2 needs",
        ),
    ],
)
def test_what_cannot_be_judged_is_refused(changes, given, message, tmp_path):
    with pytest.raises(InputError, match=message):
        run(tmp_path / "run", dataclasses.replace(BEST, **changes), **given)
    assert not (tmp_path / "run").exists()


def test_the_configuration_is_refused_before_anything_runs():
    config = Config(arm_train=dataclasses.replace(Config().arm_train, select="best"))
    with pytest.raises(
        InputError, match=r"arm_train\.select=best .* set arm_train\.validate_every"
    ):
        config.check()
