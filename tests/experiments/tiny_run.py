"""The arguments and the outcome of the tiny run that tests of the pipeline share."""

import dataclasses
from pathlib import Path

VALIDATION, TEST = 48, 40
ARMS, SEEDS = ("xent", "cat_xent"), (0, 1)
ROUTERS = ("random", "chow_average", "prompt", "post_hoc:learner=booster")
TINY = f"""
--data.train-size 64 --data.validation-size {VALIDATION} --data.test-size {TEST}
--data.max-prompt-tokens 16 --data.max-response-tokens 10 --data.metric chrf
--small.width 8 --small.layers 1 --small.heads 1 --small.kv-heads 1 --small.head-dim 8
--small.ffn 16 --large.width 16 --large.layers 1 --large.heads 1 --large.kv-heads 1
--large.head-dim 8 --large.ffn 32
--large-train.steps 40 --large-train.batch-size 16 --large-train.steps-per-dispatch 8
--base-train.steps 8 --base-train.batch-size 16 --base-train.steps-per-dispatch 4
--arm-train.steps 8 --arm-train.batch-size 16 --arm-train.steps-per-dispatch 4
--large-train.warmup-steps 2 --base-train.warmup-steps 2 --arm-train.warmup-steps 2
--evaluation.batch-size 48 --evaluation.topk 3 --evaluation.bootstrap 20
""".split()
"""Sizes, for a list of arguments; quality by chrF, so that bad answers still differ."""


@dataclasses.dataclass(frozen=True)
class Finished:
    """A run that went to its end: what the command returned and printed."""

    code: int
    folder: Path
    printed: str
