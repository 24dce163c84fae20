"""One suite for every router: each file of ``routers/zoo`` is found and held to the contract."""

import dataclasses
import functools
import importlib
import inspect

import numpy as np
import pytest
from planted import planted
from sklearn.metrics import roc_auc_score

from routers.base import Inputs, Router
from routers.build import build, names
from routers.errors import InputError
from routers.ragged import Ragged
from routers.storage import load, save

SPECS = sorted(
    {*names(), "chow_quantile:alpha=0.3", "edge_inference:pool=max", "entropy:reduce=max"}
    | {"post_hoc:learner=mlp", "prompt:embedding_flops=50", "logistic:goal=fixes"}
    | {"stack:members=chow_quantile:alpha=0.1+length+knn:k=9;embedding_flops=50"}
)
LEARNED = [spec for spec in SPECS if build(spec).learned]
# Matrix products may round differently for another number of rows; nothing else may differ.
ROUNDING = {"rtol": 1e-12, "atol": 1e-13}
every = pytest.mark.parametrize("spec", SPECS)
learned = pytest.mark.parametrize("spec", LEARNED)

INPUTS, OUTCOMES = planted(600)
FIT, TEST = np.arange(400), np.arange(400, 600)
OPTIONAL = ("prompt_embedding", "response_tokens", "token_logprob", "token_entropy")
OPTIONAL += ("topk_logprob", "response_embedding", "response", "sampled_responses")


@functools.cache
def fitted(spec: str) -> Router:
    """Fitted on the fit rows; a router that peeks, on all."""
    router = build(spec)
    rows = np.arange(600) if router.peeks else FIT
    return router.fit(INPUTS.take(rows), OUTCOMES.take(rows))


def snapshot(value):
    """Every array of a dataclass, copied deeply enough to notice a change."""
    if isinstance(value, np.ndarray):
        return (value.dtype.str, value.shape, value.tobytes())
    if isinstance(value, dict):
        return {key: snapshot(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value):
        return {f.name: snapshot(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return value


def needed(spec: str) -> list[str]:
    """The optional columns without which this router refuses to score."""
    found = []
    for name in OPTIONAL:
        try:
            fitted(spec).score(dataclasses.replace(INPUTS.take(TEST), **{name: None}))
        except InputError:
            found.append(name)
    return found


@every
def test_is_a_frozen_dataclass_documented_with_its_source(spec):
    router = build(spec)
    name = spec.partition(":")[0]
    document = inspect.getdoc(type(router)) or ""
    assert dataclasses.is_dataclass(router)
    assert type(router).__dataclass_params__.frozen
    assert "Source:" in document
    assert document.splitlines()[0].endswith(".")
    assert importlib.import_module(f"routers.zoo.{name}").__doc__
    assert router.stage in ("prompt", "response")
    for field in dataclasses.fields(router):
        if field.name.endswith("_"):
            assert field.default is None


@every
def test_score_is_one_finite_float64_per_query_and_deterministic(spec):
    score_N = fitted(spec).score(INPUTS.take(TEST))
    assert score_N.shape == (200,)
    assert score_N.dtype == np.float64
    assert np.isfinite(score_N).all()
    np.testing.assert_array_equal(fitted(spec).score(INPUTS.take(TEST)), score_N)


@every
def test_score_does_not_depend_on_the_order_of_queries(spec):
    shuffled = np.random.default_rng(1).permutation(TEST)
    np.testing.assert_allclose(
        fitted(spec).score(INPUTS.take(shuffled)),
        fitted(spec).score(INPUTS)[shuffled],
        **ROUNDING,
    )


@every
@pytest.mark.parametrize("count", [1, 2, 37])
def test_score_does_not_depend_on_the_other_queries(spec, count):
    rows = TEST[:count]
    np.testing.assert_allclose(
        fitted(spec).score(INPUTS.take(rows)), fitted(spec).score(INPUTS)[rows], **ROUNDING
    )


@every
def test_score_of_no_queries_is_empty(spec):
    assert fitted(spec).score(INPUTS.take(TEST[:0])).shape == (0,)
    assert fitted(spec).flops_per_query(INPUTS.take(TEST[:0])).shape == (0,)


@every
def test_a_response_without_tokens_gets_a_finite_score(spec):
    mute = INPUTS.take(TEST)
    lengths = mute.token_logprob.lengths.copy()
    lengths[:3] = 0

    def silenced(column):
        rows = [column[i][: lengths[i]] for i in range(len(column))]
        return Ragged.of(rows)

    mute = dataclasses.replace(
        mute,
        response_tokens=lengths,
        token_logprob=silenced(mute.token_logprob),
        token_entropy=silenced(mute.token_entropy),
        topk_logprob=silenced(mute.topk_logprob),
    )
    score_N = fitted(spec).score(mute)
    assert np.isfinite(score_N).all()
    np.testing.assert_allclose(score_N[3:], fitted(spec).score(INPUTS.take(TEST))[3:], **ROUNDING)


@learned
def test_score_before_fit_fails_clearly(spec):
    router = build(spec)
    assert not router.fitted
    for call in (router.score, router.flops_per_query):
        if spec == "oracle" and call == router.flops_per_query:
            continue  # it costs nothing, fitted or not
        with pytest.raises(ValueError, match="is not fitted; call fit"):
            call(INPUTS)


@every
def test_fit_returns_a_copy_and_changes_nothing(spec):
    router = build(spec)
    rows = np.arange(50)  # as below, so that nothing is compiled twice
    inputs, outcomes = INPUTS.take(rows), OUTCOMES.take(rows)
    before = snapshot(router), snapshot(inputs), snapshot(outcomes)
    result = router.fit(inputs, outcomes)
    assert (snapshot(router), snapshot(inputs), snapshot(outcomes)) == before
    assert result.fitted
    assert router.fitted is not router.learned
    assert type(result) is type(router)
    if not router.learned:
        assert result is router


@learned
def test_fit_twice_gives_the_same_router(spec):
    rows = FIT if not build(spec).peeks else np.arange(600)
    again = build(spec).fit(INPUTS.take(rows), OUTCOMES.take(rows))
    np.testing.assert_array_equal(again.score(INPUTS), fitted_on_all(spec).score(INPUTS))


def fitted_on_all(spec: str) -> Router:
    """The cached router, under a name that says what ``score`` may be asked of it."""
    return fitted(spec)


@every
def test_saving_and_loading_is_exact(spec, tmp_path):
    save(fitted(spec), tmp_path / "router.safetensors")
    loaded = load(tmp_path / "router.safetensors")
    assert snapshot(loaded) == snapshot(fitted(spec))
    np.testing.assert_array_equal(loaded.score(INPUTS), fitted(spec).score(INPUTS))
    np.testing.assert_array_equal(
        loaded.flops_per_query(INPUTS), fitted(spec).flops_per_query(INPUTS)
    )


@pytest.mark.parametrize("spec", [s for s in SPECS if build(s).stage == "prompt"])
def test_a_prompt_router_reads_nothing_of_the_response(spec):
    before = fitted(spec).score(INPUTS.at_stage("prompt"))
    np.testing.assert_array_equal(before, fitted(spec).score(INPUTS))
    np.testing.assert_array_equal(
        fitted(spec).flops_per_query(INPUTS.at_stage("prompt")),
        fitted(spec).flops_per_query(INPUTS),
    )
    refit = build(spec).fit(INPUTS.take(FIT).at_stage("prompt"), OUTCOMES.take(FIT))
    np.testing.assert_array_equal(refit.score(INPUTS), before)


@every
def test_a_missing_column_is_one_clear_line(spec):
    bare = Inputs(INPUTS.query_id, INPUTS.task, INPUTS.prompt_tokens)
    columns = needed(spec)
    if not columns:
        assert spec in ("random", "oracle")
        assert np.isfinite(fitted(spec).score(bare)).all()
        return
    for name in columns:
        lacking = dataclasses.replace(INPUTS, **{name: None})
        with pytest.raises(InputError, match=name) as caught:
            fitted(spec).score(lacking)
        assert "\n" not in str(caught.value)
        if build(spec).learned:
            with pytest.raises(InputError, match=name):
                build(spec).fit(lacking, OUTCOMES)


@every
def test_flops_are_one_non_negative_number_per_query(spec):
    flops_N = fitted(spec).flops_per_query(INPUTS.take(TEST))
    assert flops_N.shape == (200,)
    assert flops_N.dtype == np.float64
    assert np.isfinite(flops_N).all()
    assert (flops_N >= 0).all()
    if build(spec).learned and not build(spec).peeks:
        assert (flops_N > 0).all()


@learned
def test_fifty_queries_are_enough_not_to_break(spec):
    rows = np.arange(50)
    router = build(spec).fit(INPUTS.take(rows), OUTCOMES.take(rows))
    unseen = rows if router.peeks else TEST
    assert np.isfinite(router.score(INPUTS.take(unseen))).all()


@learned
@pytest.mark.parametrize("count", [1, 2])
def test_a_handful_of_queries_does_not_break(spec, count):
    rows = np.arange(count)
    router = build(spec).fit(INPUTS.take(rows), OUTCOMES.take(rows))
    unseen = rows if router.peeks else TEST
    assert np.isfinite(router.score(INPUTS.take(unseen))).all()


@learned
@pytest.mark.parametrize(("small", "large"), [(0, 0), (0, 1), (1, 0), (0.5, 0.5)])
def test_one_class_only_gives_one_constant_score(spec, small, large):
    outcomes = dataclasses.replace(
        OUTCOMES,
        quality_small=np.full(600, small, np.float32),
        quality_large=np.full(600, large, np.float32),
        flops_small=np.full(600, 100.0),
        flops_large=np.full(600, 1000.0),
        forced_hit_small=Ragged(
            np.full(len(OUTCOMES.forced_hit_small.values), small > 0),
            OUTCOMES.forced_hit_small.offsets,
        ),
        forced_hit_large=Ragged(
            np.full(len(OUTCOMES.forced_hit_large.values), large > 0),
            OUTCOMES.forced_hit_large.offsets,
        ),
    )
    score_N = build(spec).fit(INPUTS, outcomes).score(INPUTS)
    assert np.isfinite(score_N).all()
    np.testing.assert_allclose(score_N, score_N[0], rtol=1e-12)


@pytest.mark.parametrize("spec", [s for s in LEARNED if s != "oracle"])
def test_fitting_on_nothing_is_refused(spec):
    with pytest.raises(InputError, match="fit split"):
        build(spec).fit(INPUTS.take(FIT[:0]), OUTCOMES.take(FIT[:0]))


@learned
def test_learned_routers_find_what_the_large_model_fixes(spec):
    fixable_N = OUTCOMES.gain[TEST] > 0
    area = roc_auc_score(fixable_N, fitted(spec).score(INPUTS.take(TEST)))
    chance = roc_auc_score(fixable_N, build("random").score(INPUTS.take(TEST)))
    assert area > 0.7 > chance
    assert chance > 0.3


@pytest.mark.parametrize("spec", [s for s in LEARNED if "edge_" not in s])
def test_graded_quality_is_learned_too(spec):
    inputs, outcomes = planted(600, seed=3, graded=True)
    rows = FIT if not build(spec).peeks else np.arange(600)
    router = build(spec).fit(inputs.take(rows), outcomes.take(rows))
    # Gains are 0, 0.2 and 0.8: learned as amounts, the last must come out on top.
    score_N = router.score(inputs.take(TEST))
    assert roc_auc_score(outcomes.gain[TEST] > 0.5, score_N) > 0.7
