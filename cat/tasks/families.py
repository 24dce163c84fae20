"""The families of the generated task: each draws prompts and knows the one right target.

``draw(rng, count)`` returns that many prompts (duplicates possible); ``target(prompt, seed)``
is a function of its arguments alone, so the same prompt has the same target everywhere.

Characters: a-z, 0-9, ``+``, ``*``, ``%`` and the space, 40 in all.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import string
from collections.abc import Callable

import numpy as np

LETTERS = string.ascii_lowercase
ALPHABET = LETTERS + string.digits + "+*% "
FACTS = 200  # 120 sightings each in the default large training; 300 (80 sightings) are half learned
KEYS = LETTERS + string.digits

Draw = Callable[[np.random.Generator, int], list[str]]


@dataclasses.dataclass(frozen=True)
class Family:
    """One kind of question. ``feasible``: a model that is large enough can learn it."""

    name: str
    draw: Draw
    target: Callable[[str, int], str]
    feasible: bool = True
    distinct: int | None = None  # how many prompts exist, where they are few enough to run out


def _words(prefix: str, letters: str, shortest: int, longest: int) -> Draw:
    """Prompts ``<prefix> <word>``, word lengths uniform from shortest to longest."""

    def draw(rng: np.random.Generator, count: int) -> list[str]:
        lengths = rng.integers(shortest, longest + 1, count)
        rows = np.array(list(letters))[rng.integers(0, len(letters), (count, longest))]
        return [f"{prefix} {''.join(row[:n])}" for row, n in zip(rows, lengths, strict=True)]

    return draw


def _sums(digits: int) -> Draw:
    """Prompts ``a+b``: operands of exactly that many digits, zero-padded, units first."""

    def draw(rng: np.random.Generator, count: int) -> list[str]:
        pairs = rng.integers(0, 10**digits, (count, 2)).tolist()
        return [f"{_units_first(a, digits)}+{_units_first(b, digits)}" for a, b in pairs]

    return draw


def _products(rng: np.random.Generator, count: int) -> list[str]:
    pairs = rng.integers(0, 1_000, (count, 2)).tolist()
    return [f"{a:03}*{b:03}%97" for a, b in pairs]


def _fact_questions(rng: np.random.Generator, count: int) -> list[str]:
    """Two random letters before the key: one fact is asked in many wordings."""
    keys = rng.integers(0, FACTS, count).tolist()
    nonces = np.array(list(LETTERS))[rng.integers(0, len(LETTERS), (count, 2))]
    return [f"{''.join(n)} fact {_key(k)}" for k, n in zip(keys, nonces, strict=True)]


def _key(number: int) -> str:
    """Two characters, spread over all 36 x 36 pairs (5 and 1,296 have no common divisor)."""
    first, second = divmod(number * 5 % len(KEYS) ** 2, len(KEYS))
    return KEYS[first] + KEYS[second]


def _word(prompt: str) -> str:
    return prompt.split()[1]


def _units_first(number: int, digits: int) -> str:
    return f"{number:0{digits}}"[::-1]


def _sum(prompt: str, seed: int) -> str:
    """Units first, as the operands: every digit needs the same two columns and one carry.

    >>> _sum("85+76", seed=0)  # 58 + 67 = 125
    '521'
    """
    a, b = prompt.split("+")
    return _units_first(int(a[::-1]) + int(b[::-1]), len(a) + 1)


def _product(prompt: str, seed: int) -> str:
    a, b = prompt.removesuffix("%97").split("*")
    return f"{int(a) * int(b) % 97:02}"


@functools.lru_cache(maxsize=4)
def facts(seed: int) -> dict[str, str]:
    """The value of every key: two random letters, fixed by the seed."""
    rng = np.random.default_rng([seed, FACTS])
    rows = np.array(list(LETTERS))[rng.integers(0, len(LETTERS), (FACTS, 2))]
    return {_key(k): "".join(row) for k, row in enumerate(rows)}


def _noise(prompt: str, seed: int) -> str:
    """Three letters by a hash of prompt and seed: nothing to learn, the same each time."""
    digest = hashlib.blake2b(f"{seed} {prompt}".encode(), digest_size=8).digest()
    number = int.from_bytes(digest, "little")
    return "".join(LETTERS[number // 26**i % 26] for i in range(3))


FAMILIES = (
    Family("copy", _words("copy", LETTERS[:10], 4, 8), lambda p, s: _word(p)),
    Family("reverse", _words("reverse", LETTERS[:10], 4, 6), lambda p, s: _word(p)[::-1]),
    Family("sort", _words("sort", string.digits, 5, 8), lambda p, s: "".join(sorted(_word(p)))),
    Family("add2", _sums(2), _sum, distinct=10_000),
    Family("add4", _sums(4), _sum),
    Family("facts", _fact_questions, lambda p, s: facts(s)[p.split()[2]]),
    Family("mod97", _products, _product, feasible=False),
    Family("noise", _words("noise", LETTERS, 5, 6), _noise, feasible=False),
)
"""In equal shares, the task ``generated`` with ``mix="full"``; those feasible: ``"feasible"``."""
