"""Cost-aware routing: predicted quality and cost, and what a price does to the choice."""

import dataclasses

import numpy as np
import pytest
from planted import planted

from routers.errors import InputError
from routers.zoo.cost_aware import CostAware
from routers.zoo.logistic import Logistic


def shown(n=400):
    """Planted queries whose prompt length is the cost of the large model."""
    inputs, outcomes = planted(n)
    tokens = np.random.default_rng(5).integers(1, 100, n)
    inputs = dataclasses.replace(inputs, prompt_tokens=tokens)
    cost = 1e6 * np.log1p(tokens)
    return inputs, dataclasses.replace(outcomes, flops_small=cost / 10, flops_large=cost)


def test_the_price_subtracts_the_predicted_extra_cost():
    inputs, outcomes = shown()
    free = CostAware(price=0.0).fit(inputs, outcomes)
    priced = dataclasses.replace(free, price=2.0)
    unit = outcomes.flops_large.mean()
    # Cost is linear in a feature, so ridge at the weakest penalty finds it almost exactly.
    want = free.score(inputs) - 2.0 * (outcomes.flops_large - outcomes.flops_small) / unit
    np.testing.assert_allclose(priced.score(inputs), want, atol=5e-3)


def test_without_a_price_it_ranks_by_quality_alone():
    inputs, outcomes = shown()
    free = CostAware(price=0.0).fit(inputs, outcomes).score(inputs)
    logistic = Logistic().fit(inputs, outcomes).score(inputs)
    assert np.corrcoef(free, logistic)[0, 1] > 0.99


def test_at_threshold_zero_a_higher_price_sends_fewer_on_and_pays_less():
    inputs, outcomes = shown()
    router = CostAware().fit(inputs, outcomes)
    shares, paid = [], []
    for price in (0.0, 0.3, 1.0, 10.0):
        sent = dataclasses.replace(router, price=price).score(inputs) >= 0
        shares.append(sent.mean())
        paid.append(np.where(sent, outcomes.flops_large, outcomes.flops_small).sum())
    assert (np.diff(shares) < 0).all()
    assert (np.diff(paid) < 0).all()
    assert shares[-1] == 0.0


def test_the_unit_of_cost_does_not_matter():
    inputs, outcomes = shown(100)
    dollars = dataclasses.replace(
        outcomes, flops_small=outcomes.flops_small * 1e-9, flops_large=outcomes.flops_large * 1e-9
    )
    a, b = (CostAware().fit(inputs, o).score(inputs) for o in (outcomes, dollars))
    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_cost_and_refusals():
    inputs, outcomes = planted(60)
    assert set(CostAware().fit(inputs, outcomes).flops_per_query(inputs)) == {4 * 2 * 17}
    with pytest.raises(InputError, match="price is -1"):
        CostAware(price=-1.0)
    with pytest.raises(InputError, match="prompt_tokens"):
        CostAware().fit(dataclasses.replace(inputs, prompt_tokens=None), outcomes)
