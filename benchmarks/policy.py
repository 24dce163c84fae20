"""Time of a deployed policy's decision, by the number of queries decided at once.

    python benchmarks/policy.py            seconds; NumPy alone, which the script asserts

``decide``: microseconds a query of ``Policy.decide`` on ``Inputs`` at hand. ``with inputs``: the
same and building ``Inputs`` from lists of log-probabilities, as a server would. The peer is what
the rule costs by hand, ``-np.mean(logprobs) >= threshold`` on one array a query; ``ratio`` is
decide over that. 20 response tokens a query; the policy has been saved and loaded.

The second table is of policies over three models, of which none, one or two have answered:
microseconds a query of ``TierPolicy.decide``, and the goals for cascades of Chow rules.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from routers import Policy, TierPolicy
from routers.base import Inputs
from routers.build import build
from routers.cascade import Cascade, Mixed
from routers.ragged import Ragged

TOKENS, TASKS = 20, ("news", "code", "mail")
SPECS = ("chow_average", "chow_sum", "chow_quantile:alpha=0", "chow_quantile:alpha=0.1", "length")
BATCHES = {1: 50, 1_000: 2}  # queries at once: decisions in one timing
GOALS = {1: 50.0, 1_000: 2.0}  # µs a query for Chow rules
MODELS = ("small", "medium", "large")


def fastest(repeats: int, work: Callable[[], object]) -> float:
    """Seconds of a run: the least of 50 means, as other processes only ever add time."""
    means = []
    for _ in range(50):
        start = time.perf_counter()
        for _ in range(repeats):
            work()
        means.append((time.perf_counter() - start) / repeats)
    return min(means)


def inputs_of(rows: list[list[float]]) -> Inputs:
    """What a server knows of these answers."""
    n = len(rows)
    return Inputs(
        query_id=np.array([str(i) for i in range(n)]),
        task=np.array([TASKS[i % 3] for i in range(n)]),
        prompt_tokens=None,
        response_tokens=np.full(n, TOKENS),
        token_logprob=Ragged.of(rows),
    )


def deployed(spec: str, by_task: dict[str, float]) -> Policy:
    """A policy that went through its files."""
    with tempfile.TemporaryDirectory() as folder:
        Policy(build(spec), 0.5, {}, by_task).save(Path(folder) / "policy.json")
        return Policy.load(Path(folder) / "policy.json")


def cascades() -> dict[str, TierPolicy]:
    """Policies over three models that went through their files."""
    made: dict[str, TierPolicy] = {}
    for spec in SPECS:
        made[spec] = Cascade(MODELS, (build(spec),) * 2, (0.5, 0.4))
    cheap, dear = (Cascade(MODELS, (build(SPECS[0]),) * 2, (t, t)) for t in (0.9, 0.4))
    made[f"{SPECS[0]}, two mixed"] = Mixed(MODELS, cheap, dear, 0.3)
    loaded = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, policy in made.items():
            policy.save(Path(folder) / "policy.json")
            loaded[name] = TierPolicy.load(Path(folder) / "policy.json")
    return loaded


def over_three_models(rng: np.random.Generator) -> None:
    """The table of ``TierPolicy.decide``."""
    heads = ("cascade of 3", "batch", "before any µs", "after one µs", "after two µs", "goal µs")
    print(f"\n{heads[0]:<36}" + "".join(f"{head:>16}" for head in heads[1:]))
    for name, policy in cascades().items():
        for batch, repeats in BATCHES.items():
            rows = np.log(rng.random((2, batch, TOKENS))).tolist()
            first, second = map(inputs_of, rows)
            steps = ({}, {0: first}, {0: first, 1: second})
            times = [
                1e6 / batch * fastest(repeats, lambda p=policy, i=first, s=seen: p.decide(i, s))
                for seen in steps
            ]
            shown = "".join(f"{value:>16.2f}" for value in (*times, GOALS[batch]))
            print(f"{name:<36}{batch:>16,}{shown}")


def main() -> None:
    rng = np.random.default_rng(0)
    heads = ("policy", "batch", "decide µs", "with inputs µs", "by hand µs", "ratio")
    print(f"{heads[0]:<36}" + "".join(f"{head:>16}" for head in heads[1:]))
    cases = [(spec, {}) for spec in SPECS] + [(SPECS[0], dict.fromkeys(TASKS[:2], 0.4))]
    for spec, by_task in cases:
        policy = deployed(spec, by_task)
        name = spec + (", per task" if by_task else "")
        for batch, repeats in BATCHES.items():
            rows = np.log(rng.random((batch, TOKENS))).tolist()
            arrays = [np.array(row, np.float32) for row in rows]
            inputs = inputs_of(rows)

            def by_hand(arrays: list[np.ndarray] = arrays) -> list[bool]:
                return [bool(-np.mean(array) >= 0.5) for array in arrays]

            decide = fastest(repeats, lambda p=policy, i=inputs: p.decide(i))
            whole = fastest(repeats, lambda p=policy, r=rows: p.decide(inputs_of(r)))
            peer = fastest(repeats, by_hand)
            times = (1e6 * seconds / batch for seconds in (decide, whole, peer))
            shown = "".join(f"{value:>16.2f}" for value in times)
            print(f"{name:<36}{batch:>16,}{shown}{decide / peer:>16.2f}")
    over_three_models(rng)
    heavy = {"jax", "scipy", "sklearn", "pyarrow"} & {m.partition(".")[0] for m in sys.modules}
    assert not heavy, f"deciding imported {heavy}"
    print("imported: NumPy; not JAX, SciPy, scikit-learn, PyArrow")


if __name__ == "__main__":
    main()
