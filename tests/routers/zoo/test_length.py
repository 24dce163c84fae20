"""Length: the count of response tokens."""

import numpy as np
from planted import from_rows

from routers.zoo.length import Length


def test_scores_by_hand():
    inputs = from_rows(response_tokens=np.array([3, 1, 250], np.int32))
    assert Length().score(inputs).tolist() == [3.0, 1.0, 250.0]
