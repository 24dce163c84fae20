"""Token masks: which response tokens the small model is trained on, as a small language.

An expression says which tokens are kept: ``small | large`` is CAT's rule. Its words:

=============  ====================================================================
``small``      the model being trained is right, in this very forward pass
``before``     the small model was right before this training (stored)
``large``      the large model is right (stored or live)
``|  &  ~``    or, and, not; with parentheses
``1``          every token
``random(x)``  as many tokens as ``x`` keeps of the global batch, but drawn by lot
a name         of ``NAMED``: ``random(either_hit)``
=============  ====================================================================

*Right* means a hit: the model's most likely token equals the target, teacher-forced on the
reference. With ``ArmConfig.mask_temperature`` above 0 it is the probability of being right
instead (``rightness``), events count as independent, and weights lie in [0, 1] (our choice).

Letters: B batch, T tokens, N draws of an expression.
"""

from __future__ import annotations

import ast
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from routers.errors import InputError, did_you_mean

NAMED = {
    # Every response token: the baseline arms.
    "all": "1",
    # Drops the tokens both models get wrong. Source: CAT (2406.00060), the token weight alpha
    # as secondary sources report it; that "small" is the model being trained, not its frozen
    # start, is our reading (the other one is "before | large").
    "either_hit": "small | large",
    # Drops what the large model would repair: a second reading, our choice, not CAT's rule.
    "large_handles": "small | ~large",
    # Ablations, our choice.
    "large_hit": "large",
    "small_hit": "small",
    "both_hit": "small & large",
    # Separates "fewer tokens" from "the right tokens".
    "random_like": "random(either_hit)",
}
"""The masks that have a name; the others are written out."""

WORDS = ("small", "before", "large")


class Hits(NamedTuple):
    """Where each model is right: 0/1 or a probability. ``mask_BT`` is 1 on response tokens."""

    small_BT: Array | Any
    large_BT: Array | Any | None
    mask_BT: Float[Array, "B T"] | Any
    before_BT: Array | Any | None = None


class Table(NamedTuple):
    """Response tokens by (small hit, large hit): ``n10`` = small right and large wrong."""

    n11: Int[Array, ""] | Any
    n10: Int[Array, ""] | Any
    n01: Int[Array, ""] | Any
    n00: Int[Array, ""] | Any


def weights(expression: str, hits: Hits, key: Any = None) -> Float[Array, "B T"]:
    """The weight of every token, 0 off the response; no gradient flows through it.

    Args:
        expression: a name of ``NAMED`` or an expression.
        key: for ``random(...)``; others read none.

    Raises:
        InputError: not an expression, or it reads a model that ``hits`` does not know.

    >>> bits = jnp.array([[True, True, False, False]]), jnp.array([[True, False, True, False]])
    >>> weights("small | large", Hits(*bits, jnp.ones((1, 4)))).tolist()
    [[1.0, 1.0, 1.0, 0.0]]
    """
    lots_NBT = draw(expression, key, hits.mask_BT.shape)
    return weigh(expression, hits, lots_NBT, rates(expression, hits))


def draw(expression: str, key: Any, shape: tuple[int, ...]) -> Float[Array, "N B T"] | None:
    """The uniform numbers its ``random(...)`` compare with their rates; None without any."""
    count = len(_drawn(parse(expression)))
    if not count:
        return None
    keys = [key, *(jax.random.fold_in(key, i) for i in range(1, count))]
    return jnp.stack([jax.random.uniform(k, shape) for k in keys])


def rates(expression: str, hits: Hits) -> Float[Array, " N"] | None:
    """What each ``random(x)`` keeps: the mean of x over all response tokens of ``hits``."""
    drawn = _drawn(parse(expression))
    if not drawn:
        return None
    kept_NBT = jnp.stack([_on(hits, _value(node.args[0], hits, iter(()))) for node in drawn])
    return kept_NBT.sum(axis=(1, 2)) / jnp.maximum(hits.mask_BT.sum(), 1.0)


def weigh(
    expression: str,
    hits: Hits,
    lots_NBT: Float[Array, "N B T"] | None,
    rates_N: Float[Array, " N"] | None,
) -> Float[Array, "B T"]:
    """``weights`` of some of a batch's tokens, with the whole batch's draws and rates."""
    lots = () if lots_NBT is None or rates_N is None else zip(lots_NBT, rates_N, strict=True)
    kept = iter([(lot_BT < rate).astype(jnp.float32) for lot_BT, rate in lots])
    return jax.lax.stop_gradient(_on(hits, _value(parse(expression), hits, kept)))


def rightness(logprob_BT: Float[Array, "B T"], temperature: float) -> Float[Array, "B T"]:
    """``sigmoid(logit(p) / temperature)``, p = the probability a model gives to the target.

    At temperature 1 p itself; towards 0 it becomes "p > 1/2", which is stricter than a hit. A
    model whose probability is not a number is not right: 0. Our choice.

    >>> rightness(jnp.log(jnp.array([[0.25, 0.75]])), 1.0).round(4).tolist()
    [[0.25, 0.75]]
    """
    below_BT = jnp.minimum(logprob_BT.astype(jnp.float32), -1e-7)  # log(1 - p) stays finite
    right_BT = jax.nn.sigmoid((below_BT - jnp.log(-jnp.expm1(below_BT))) / temperature)
    return jnp.where(jnp.isnan(right_BT), 0.0, right_BT)


def two_by_two(hits: Hits) -> Table:
    """Counts of response tokens by (small hit, large hit), over the global batch.

    >>> bits = jnp.array([[True, True, False]]), jnp.array([[True, False, True]])
    >>> [int(n) for n in two_by_two(Hits(*bits, jnp.ones((1, 3))))]
    [1, 1, 1, 0]
    """
    on_BT = hits.mask_BT > 0
    small_BT, large_BT = hits.small_BT, _known("large", hits)
    cells = (small_BT & large_BT, small_BT & ~large_BT, ~small_BT & large_BT)
    n11, n10, n01 = (jnp.sum(cell & on_BT, dtype=jnp.int32) for cell in cells)
    return Table(n11, n10, n01, jnp.sum(on_BT, dtype=jnp.int32) - n11 - n10 - n01)


def reads(expression: str) -> frozenset[str]:
    """The models whose hits an expression reads.

    >>> sorted(reads("random(before & ~large)")), sorted(reads("all"))
    (['before', 'large'], [])
    """
    named = [node.id for node in ast.walk(parse(expression)) if isinstance(node, ast.Name)]
    return frozenset(named) & frozenset(WORDS)


@functools.lru_cache
def parse(expression: str) -> ast.expr:
    """The expression's tree, names of ``NAMED`` put in; InputError says what is wrong with it."""
    if expression in NAMED:
        return parse(NAMED[expression])
    try:
        tree = ast.parse(expression, mode="eval").body
    except SyntaxError:
        raise _refused(expression, "it is not an expression") from None
    return _checked(tree, expression)


def _checked(node: ast.expr, whole: str, inside: bool = False) -> ast.expr:
    """The same node if it is of the language, names replaced by what they stand for."""
    match node:
        case ast.Name(id=word) if word in WORDS:
            return node
        case ast.Name(id=name) if name in NAMED:
            return _checked(parse(NAMED[name]), whole, inside)
        case ast.Constant(value=1):
            return node
        case ast.UnaryOp(op=ast.Invert(), operand=x):
            return ast.UnaryOp(node.op, _checked(x, whole, inside))
        case ast.BinOp(left=x, op=ast.BitOr() | ast.BitAnd(), right=y):
            return ast.BinOp(_checked(x, whole, inside), node.op, _checked(y, whole, inside))
        case ast.Call(func=ast.Name(id="random"), args=[x], keywords=[]) if not inside:
            return ast.Call(node.func, [_checked(x, whole, True)], [])
        case ast.Name(id=name):
            raise _refused(whole, f"'{name}': {did_you_mean(name, [*WORDS, *NAMED, 'random'])}")
    raise _refused(whole, f"'{ast.unparse(node)}' is not part of the language")


def _refused(expression: str, why: str) -> InputError:
    """What is wrong, and how expressions look."""
    return InputError(
        f"token mask {expression!r}: {why}; use small, before, large, |, &, ~, random(...) or a "
        f"name: {', '.join(NAMED)}"
    )


def _drawn(tree: ast.expr) -> list[ast.Call]:
    """Its ``random(...)``, in the order ``_value`` meets them."""
    match tree:
        case ast.Call():
            return [tree]
        case ast.UnaryOp(operand=x):
            return _drawn(x)
        case ast.BinOp(left=x, right=y):
            return _drawn(x) + _drawn(y)
    return []


def _value(tree: ast.expr, hits: Hits, kept: Any) -> Array:
    """A tree's weights in [0, 1]; ``kept`` yields what each ``random(...)`` drew."""
    match tree:
        case ast.Name(id=word):
            return _known(word, hits).astype(jnp.float32)
        case ast.Constant():
            return jnp.ones_like(hits.mask_BT)
        case ast.UnaryOp(operand=x):
            return 1.0 - _value(x, hits, kept)
        case ast.BinOp(left=left, op=op, right=right):
            x, y = _value(left, hits, kept), _value(right, hits, kept)
            return x * y if isinstance(op, ast.BitAnd) else x + y - x * y
    return next(kept)


def _known(word: str, hits: Hits) -> Array:
    """That model's hits, or an error that says how to get them."""
    found = getattr(hits, f"{word}_BT")
    if found is None:
        given = (
            "pass before= (stored)"
            if word == "before"
            else "pass teacher= (stored) or large= (live)"
        )
        raise InputError(f"this token mask reads the hits of '{word}'; {given}")
    return found


def _on(hits: Hits, kept_BT: Array) -> Array:
    """Weights on the response, 0 elsewhere."""
    return jnp.where(hits.mask_BT > 0, kept_BT, 0.0)
