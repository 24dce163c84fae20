"""Agreement by hand, both normalisations, samples that are absent, and their charge."""

import numpy as np
import pytest
from planted import from_rows

from routers.errors import InputError
from routers.ragged import Ragged
from routers.zoo.agreement import Agreement

ANSWERS = np.array(["The cat.", "42", "no"], object)
SAMPLES = Ragged.of([["cat", "a  CAT!", "dog", "The cat."], ["42", "42 "], []], object)
INPUTS = from_rows(response=ANSWERS, sampled_responses=SAMPLES, response_tokens=np.array([3, 1, 2]))


@pytest.mark.parametrize(
    ("normal", "want"), [("squad", [0.25, 0.0, 0.0]), ("whitespace", [0.75, 0.0, 0.0])]
)
def test_scores_by_hand(normal, want):
    assert Agreement(normal=normal).score(INPUTS).tolist() == want


def test_squad_normalisation_is_that_of_the_f1_metric():
    quality = pytest.importorskip("cat.quality")
    for text in ("An apple, a day.", "Theatre\tthe  A", "", "the", "x-ray the ray"):
        assert Agreement()._normal(text).split() == quality.normalised_tokens(text)


def test_samples_are_charged_at_the_length_of_the_answer():
    assert Agreement().flops_per_query(INPUTS).tolist() == [0.0, 0.0, 0.0]
    paid = Agreement(token_flops=10.0).flops_per_query(INPUTS)
    assert paid.tolist() == [10.0 * 3 * 4, 10.0 * 1 * 2, 0.0]
    with pytest.raises(InputError, match="token_flops is -1"):
        Agreement(token_flops=-1.0)
