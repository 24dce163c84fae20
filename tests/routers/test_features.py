"""Features against plain Python and NumPy, one row at a time."""

import math

import numpy as np
import pytest
from planted import from_rows

from routers import features
from routers.errors import InputError
from routers.ragged import Ragged


def rows_of(seed, empty=True, k=None, dtype=np.float32):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0 if empty else 1, 12, 40)
    shape = (lambda n: (n,)) if k is None else (lambda n: (n, k))
    rows = [-rng.exponential(1.0, shape(n)).astype(dtype) for n in lengths]
    if empty:
        rows[0], rows[7], rows[-1] = rows[0][:0], rows[7][:0], rows[-1][:0]
    return rows


@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_reductions_equal_a_loop(seed, empty):
    rows = rows_of(seed, empty)
    column = Ragged.of(rows)
    sums = [math.fsum(row.tolist()) for row in rows]
    np.testing.assert_allclose(features.row_sum(column), sums, rtol=1e-14)
    means = [s / max(len(row), 1) for s, row in zip(sums, rows, strict=True)]
    np.testing.assert_allclose(features.row_mean(column), means, rtol=1e-14)
    assert features.row_min(column).tolist() == [min(row.tolist(), default=0) for row in rows]
    assert features.row_max(column).tolist() == [max(row.tolist(), default=0) for row in rows]


def test_reductions_take_several_signals_per_token():
    rows = rows_of(4, k=3)
    column = Ragged.of([row for row in rows])
    for pooled, plain in [
        (features.row_sum, np.sum),
        (features.row_mean, np.mean),
        (features.row_min, np.min),
        (features.row_max, np.max),
    ]:
        want = [plain(r.astype(np.float64), axis=0) if len(r) else np.zeros(3) for r in rows]
        np.testing.assert_allclose(pooled(column), want, rtol=1e-14)


def test_a_positive_column_has_its_true_minimum_not_zero():
    column = Ragged.of([[2.0, 3.0], [5.0]])
    assert features.row_min(column).tolist() == [2.0, 5.0]
    assert features.row_max(Ragged.of([[-2.0, -3.0], [-5.0]])).tolist() == [-2.0, -5.0]


@pytest.mark.parametrize(
    "lengths", [[5] * 30, [1] * 90 + [400], [3, 0, 9, 4]], ids=["equal", "unequal", "padded"]
)
def test_quantiles_of_equal_and_of_wildly_unequal_rows(lengths):
    """Each way of sorting: as one matrix, one by one, padded."""
    rng = np.random.default_rng(len(lengths))
    rows = [-rng.exponential(1.0, n).astype(np.float32) for n in lengths]
    got = features.row_quantiles(Ragged.of(rows), features.ALPHAS)
    wide = [row.astype(np.float64) for row in rows]
    want = [np.quantile(r, features.ALPHAS) if len(r) else np.zeros(11) for r in wide]
    np.testing.assert_allclose(got, want, rtol=1e-13)


@pytest.mark.parametrize("seed", range(4))
def test_quantiles_equal_numpy_per_row(seed):
    rows = rows_of(seed)
    alphas = np.array([0.0, 0.05, 1 / 3, 0.5, 0.9, 0.999, 1.0])
    got = features.row_quantiles(Ragged.of(rows), alphas)
    for i, row in enumerate(rows):
        want = np.quantile(row.astype(np.float64), alphas) if len(row) else np.zeros(len(alphas))
        np.testing.assert_allclose(got[i], want, rtol=1e-14, atol=1e-15, err_msg=str(i))


def test_quantiles_do_not_depend_on_the_order_inside_a_row():
    rows = rows_of(9, empty=False)
    alphas = np.linspace(0, 1, 5)
    turned = Ragged.of([row[::-1] for row in rows])
    np.testing.assert_array_equal(
        features.row_quantiles(Ragged.of(rows), alphas), features.row_quantiles(turned, alphas)
    )


@pytest.mark.parametrize("rows", [[[], []], []])
def test_nothing_but_empty_rows(rows):
    column = Ragged.of(rows)
    n = len(rows)
    assert features.row_sum(column).tolist() == [0.0] * n
    assert features.row_quantiles(column, features.ALPHAS).shape == (n, 11)
    assert features.top_margins(column).values.shape == (0,)
    assert features.quantile_vector(column).tolist() == [[0.0] * 13] * n


def test_quantile_vector_is_grid_then_mean_then_length():
    rows = rows_of(2, empty=False)
    got = features.quantile_vector(Ragged.of(rows))
    for i, row in enumerate(rows):
        grid = [np.quantile(row.astype(np.float64), a / 10) for a in range(11)]
        want = [*grid, float(np.mean(row.astype(np.float64))), len(row)]
        np.testing.assert_allclose(got[i], want, rtol=1e-13)


def test_margins_are_first_minus_second():
    rows = [[[-0.1, -2.5, -4.0], [-0.7, -0.7, -9.0]], [[-0.2, -1.0, -1.5]]]
    margins = features.top_margins(Ragged.of(rows, np.float64))
    np.testing.assert_allclose(margins.values, [2.4, 0.0, 0.8], rtol=1e-15)
    assert margins.offsets.tolist() == [0, 2, 3]


def test_minus_infinity_in_a_top_k_column_stays_finite():
    column = Ragged.of([[[0.0, -np.inf]]])
    assert features.top_margins(column).values.tolist() == [-features.LOG_FLOOR]


@pytest.mark.parametrize("stored", [1, 3])
def test_too_small_a_top_k_is_one_clear_line(stored):
    column = Ragged(np.zeros((2, stored)), np.array([0, 2]))
    with pytest.raises(InputError, match=f"holds {stored} values per token") as caught:
        features.top_k(column, 4)
    assert "\n" not in str(caught.value)
    assert features.usable_k(column, 10) == max(2, stored)


def entropy_by_hand(probabilities, k):
    kept = sorted(probabilities, reverse=True)[:k]
    outcomes = [*kept, 1.0 - sum(kept)]
    return -sum(p * math.log(p) for p in outcomes if p > 1e-12)


@pytest.mark.parametrize("k", [2, 3, 6])
def test_top_k_entropy_lumps_the_rest(k):
    rng = np.random.default_rng(k)
    p_MV = rng.dirichlet(np.ones(8), size=20)
    top_MK = -np.sort(-np.log(p_MV), axis=1)[:, :k]
    got = features.topk_entropy(top_MK)
    np.testing.assert_allclose(got, [entropy_by_hand(p, k) for p in p_MV], rtol=1e-12)
    whole = -(p_MV * np.log(p_MV)).sum(1)
    assert (got <= whole + 1e-12).all()


def test_top_k_entropy_is_exact_when_one_entry_or_nothing_is_left():
    p = np.array([[0.5, 0.3, 0.2]])
    whole = -(p * np.log(p)).sum()
    np.testing.assert_allclose(features.topk_entropy(np.log(p)), [whole], rtol=1e-14)
    np.testing.assert_allclose(features.topk_entropy(np.log(p[:, :2])), [whole], rtol=1e-14)
    rounded_up = np.log(np.array([[0.7, 0.3]]) * (1 + 1e-7))
    assert np.isfinite(features.topk_entropy(rounded_up)).all()


def test_token_features_equal_a_loop():
    top_MK = -np.sort(np.random.default_rng(0).exponential(size=(7, 4)), axis=1) - 0.7
    got = features.token_features(top_MK)
    assert got.shape == (7, 1 + 6 + 4)
    for m, row in enumerate(top_MK.tolist()):
        pairs = [row[i] - row[j] for i in range(4) for j in range(i + 1, 4)]
        want = [entropy_by_hand([math.exp(v) for v in row], 4), *pairs, *row]
        np.testing.assert_allclose(got[m], want, rtol=1e-12)


def test_the_hash_is_stable_across_processes_and_depends_on_seed_and_id():
    # Written down once: a change would silently reshuffle everybody's random baseline.
    assert features.stable_hash(np.array(["query-0"])).tolist() == [15861022006974837410]
    ids = np.array([f"q{i}" for i in range(2000)])
    hashes = features.stable_hash(ids)
    assert len(set(hashes.tolist())) == 2000
    assert not set(hashes.tolist()) & set(features.stable_hash(ids, seed=1).tolist())
    longer = np.concatenate([ids, ["a much longer identifier"]])
    np.testing.assert_array_equal(features.stable_hash(longer)[:2000], hashes)


def test_column_names_what_is_missing():
    with pytest.raises(InputError, match="lack token_entropy"):
        features.column(from_rows(logprobs=[[-1.0]]), "token_entropy")
