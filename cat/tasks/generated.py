"""Eight families of character tasks made on the spot: no download, a cascade in minutes.

copy and part of reverse and sort are within reach of the small default model; sums and 200
memorised facts only of the large one; mod97 and noise of neither
(``mix="feasible"`` leaves these two out). Prompts have at most 14 characters, targets at most
8. Numbers in sums are written units first, zero-padded ("85+76" -> "521" is 58 + 67 = 125): in
that order every digit depends on its own column and a carry, at one distance, which a model
of a few layers can learn.

Our choice, not a published benchmark; see docs/data.md for the families.
"""

from __future__ import annotations

import zlib

import numpy as np

from cat.config import DataConfig
from cat.example import Example
from cat.tasks.families import FAMILIES, Family
from cat.tasks.splitting import of_split
from routers.errors import InputError, did_you_mean

MIXES = ["full", "feasible"]
_BLOCK = 1_024  # prompts drawn at once; part of the result, as the seed is


def examples(config: DataConfig, split: str) -> list[Example]:
    """``config.<split>_size`` examples, families in equal shares and mixed.

    A function of seed, mix, split and size. Prompts are distinct, and a prompt belongs to one
    split by its hash, so train, validation and test are disjoint whatever their sizes.

    Raises:
        InputError: unknown mix, or more sums asked than there are.
    """
    if config.mix not in MIXES:
        raise InputError(f"data.mix '{config.mix}' is unknown; {did_you_mean(config.mix, MIXES)}")
    families = [f for f in FAMILIES if f.feasible or config.mix == "full"]
    size = getattr(config, f"{split}_size")
    rows: list[Example] = []
    for number, family in enumerate(families):
        count = size // len(families) + (number < size % len(families))
        rows += _family_examples(family, split, count, config.seed)
    order = _generator(config.seed, "order", split).permutation(len(rows))
    return [rows[i] for i in order]


def _family_examples(family: Family, split: str, count: int, seed: int) -> list[Example]:
    _check_enough(family, split, count)
    rng = _generator(seed, family.name, split)
    prompts: dict[str, None] = {}  # a dict keeps the order of drawing, a set would not
    while len(prompts) < count:
        prompts.update(dict.fromkeys(of_split(family.draw(rng, _BLOCK), split)))
    return [
        Example(f"{family.name}-{split}-{i}", family.name, prompt, family.target(prompt, seed))
        for i, prompt in enumerate(list(prompts)[:count])
    ]


def _check_enough(family: Family, split: str, count: int) -> None:
    """A finite family cannot give more prompts than its split holds (less a margin of 5 %)."""
    share = 0.8 if split == "train" else 0.1
    if family.distinct is not None and count > 0.95 * share * family.distinct:
        raise InputError(
            f"data.{split}_size asks for {count:,} examples of {family.name}, which has about "
            f"{share * family.distinct:,.0f} in {split}; ask for a smaller split"
        )


def _generator(seed: int, name: str, split: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(f"{name}/{split}".encode())])
