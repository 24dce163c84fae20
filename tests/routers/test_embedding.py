"""What routers on prompt embeddings share: columns, widths, charges; for every one of them."""

import dataclasses

import numpy as np
import pytest
from planted import planted

from routers.build import build, names
from routers.embedding import EmbeddingRouter, check_width, prompt_embedding, unit
from routers.errors import InputError

SPECS = [name for name in names() if isinstance(build(name), EmbeddingRouter)]
INPUTS, OUTCOMES = planted(60)


def test_they_are_found():
    assert {"knn", "logistic", "cluster", "matrix_factorization", "cost_aware"} <= set(SPECS)


@pytest.mark.parametrize("name", SPECS)
def test_the_embedding_is_charged_per_prompt_token(name):
    free = build(name).fit(INPUTS, OUTCOMES)
    paid = dataclasses.replace(free, embedding_flops=100.0)
    extra = paid.flops_per_query(INPUTS) - free.flops_per_query(INPUTS)
    np.testing.assert_array_equal(extra, 100.0 * INPUTS.prompt_tokens)
    with pytest.raises(InputError, match="prompt_tokens"):
        paid.flops_per_query(dataclasses.replace(INPUTS, prompt_tokens=None))


@pytest.mark.parametrize("name", SPECS)
def test_a_negative_charge_and_another_width_are_refused(name):
    with pytest.raises(InputError, match="embedding_flops is -1"):
        build(f"{name}:embedding_flops=-1")
    router = build(name).fit(INPUTS, OUTCOMES)
    narrow = dataclasses.replace(INPUTS, prompt_embedding=INPUTS.prompt_embedding[:, :3])
    with pytest.raises(InputError, match="was fitted on"):
        router.score(narrow)


def test_helpers():
    assert prompt_embedding(INPUTS).dtype == np.float64
    rows = np.random.default_rng(0).normal(size=(5, 3))
    np.testing.assert_allclose(np.linalg.norm(unit(rows), axis=1), 1.0, rtol=1e-14)
    check_width(3, rows)
    with pytest.raises(InputError, match="width 4 but got 3"):
        check_width(4, rows)
    with pytest.raises(NotImplementedError):
        EmbeddingRouter(weights_={}).flops_per_query(INPUTS)
