"""The ``logprobs`` of a response, chat or completions, as values per token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from routers.errors import InputError
from routers.importers.sources import number


class Tokens(NamedTuple):
    """Natural logs per logged token: of the token itself, and of the most likely ones."""

    logprob: list[float] | None
    topk: list[list[float]] | None  # descending, as many as were logged for each token


def tokens(logprobs: Any, where: str) -> Tokens:
    """Values per token of one choice; None where nothing was logged.

    Chat: ``content[].logprob`` and ``content[].top_logprobs[].logprob``. Completions:
    ``token_logprobs[]`` and ``top_logprobs[]``, a dictionary from token to value each.

    Raises:
        InputError: neither form, a value that is missing (``echo``) or not finite.

    >>> tokens({"token_logprobs": [-0.1], "top_logprobs": [{"b": -3.0, "a": -0.1}]}, "here")
    Tokens(logprob=[-0.1], topk=[[-0.1, -3.0]])
    """
    if logprobs is None:
        return Tokens(None, None)
    if isinstance(logprobs, dict) and isinstance(logprobs.get("token_logprobs"), list):
        own, top = logprobs["token_logprobs"], logprobs.get("top_logprobs")
        listed = [_of_dictionary(entry, where) for entry in top] if isinstance(top, list) else []
    elif isinstance(logprobs, dict) and isinstance(logprobs.get("content"), list):
        content = logprobs["content"]
        own = [_get(entry, "logprob", where) for entry in content]
        listed = [_of_list(_get(entry, "top_logprobs", where), where) for entry in content]
    elif isinstance(logprobs, dict) and set(logprobs) <= {"content", "refusal"}:
        return Tokens(None, None)  # nothing was answered, or the model refused
    else:
        raise InputError(f"{where}: 'logprobs' has neither 'content' nor 'token_logprobs'")
    values = [_nats(value, where) for value in own]
    if values and not any(listed):
        return Tokens(values, None)
    if len(listed) != len(values):
        raise InputError(f"{where}: {len(values)} token_logprobs, {len(listed)} top_logprobs")
    return Tokens(values, [sorted(entry, reverse=True) for entry in listed])


def least_k(
    models: Sequence[Any], topk: Sequence[list[list[float]] | None]
) -> tuple[list[list[list[float]] | None], dict[str, str]]:
    """Each model's top-K cut to the K that all its tokens have, and a note of each K.

    Completions log K + 1 entries where the sampled token is not among the K largest; a model
    without entries for some token has no column at all.
    """
    least: dict[Any, int] = {}
    for model, rows in zip(models, topk, strict=True):
        widths = [len(row) for row in rows or []]
        least[model] = min([least.get(model, 10**6), *widths])
    known = {model: k for model, k in least.items() if 0 < k < 10**6}
    cut = [
        [row[: known[model]] for row in rows] if rows is not None and model in known else None
        for model, rows in zip(models, topk, strict=True)
    ]
    said = ", ".join(f"{model}: {k}" for model, k in known.items())
    return cut, {"topk": said} if said else {}


def _get(entry: Any, key: str, where: str) -> Any:
    if not isinstance(entry, dict):
        raise InputError(f"{where}: an entry of logprobs.content is not an object")
    return entry.get(key)


def _of_dictionary(entry: Any, where: str) -> list[float]:
    if entry is not None and not isinstance(entry, dict):
        raise InputError(f"{where}: an entry of top_logprobs is not an object of token to value")
    return [_nats(value, where) for value in (entry or {}).values()]


def _of_list(entries: Any, where: str) -> list[float]:
    if entries is not None and not isinstance(entries, list):
        raise InputError(f"{where}: top_logprobs is not a list")
    return [_nats(_get(entry, "logprob", where), where) for entry in entries or []]


def _nats(value: Any, where: str) -> float:
    if value is None:
        raise InputError(
            f"{where}: a token without log-probability; the prompt was logged too (echo), "
            "ask for the response alone"
        )
    found = number(value if not isinstance(value, str | bool) else [], f"{where}: a logprob")
    assert found is not None
    return found
