"""OpenAI- and vLLM-compatible JSONL with logprobs: chat, completions, batches; add --quality

A line is a response body, a line of the batch API (``custom_id``, ``response.body``), or
``{"request": ..., "response": ...}``. The query id is ``custom_id``, or a field of the line
named with ``--map query_id=FIELD``; other columns can be mapped from the line the same way.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from routers.errors import InputError
from routers.importers.complete import complete
from routers.importers.openai_tokens import Tokens, least_k, tokens
from routers.importers.options import Options
from routers.importers.sources import objects, text_files
from routers.importers.table import target
from routers.importers.tabular import convert, pick
from routers.records import Records

_PLAIN = ("prompt", "model", "response", "prompt_tokens", "response_tokens")


def read(sources: Sequence[Path], options: Options) -> Records:
    """Records of logged API responses, one row per line.

    ``token_logprob`` and ``topk_logprob`` (descending, the K that every token of a model has)
    come from ``logprobs``; ``token_entropy`` stays absent, as K entries of a distribution do
    not give its entropy. Counts of tokens come from ``usage``.

    Raises:
        InputError: a line that is no response, a failed request, a response with several
            choices, logprobs in some responses of a model only, or no query id.
    """
    options.refuse("openai", "metric")
    for ours in options.columns:
        if target(ours)[1]:
            raise InputError(
                f"--map {ours}=...: brackets are for format 'table'; use {target(ours)[0]}"
            )
    files = text_files(sources, "*.jsonl*")
    rows, logged = [], []
    for path in files:
        for where, line in objects(path):
            row, found = _row(line, options, where)
            rows.append(row)
            logged.append(found)
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: [row.get(name) for row in rows] for name in names}
    columns["token_logprob"] = [found.logprob for found in logged]
    models = [name or options.model for name in columns.get("model", [])]
    topk, notes = least_k(models, [found.topk for found in logged])
    return complete(columns | {"topk_logprob": topk}, "openai", files, options, **notes)


def _row(line: dict[str, Any], options: Options, where: str) -> tuple[dict[str, Any], Tokens]:
    body, request = _body(line, where)
    choice = _choice(body, where)
    usage, message = _object(body.get("usage")), choice.get("message")
    values = (
        _prompt(request),
        body.get("model") or request.get("model"),
        message.get("content") if isinstance(message, dict) else choice.get("text"),
        usage.get("prompt_tokens"),
        usage.get("completion_tokens"),
    )
    row: dict[str, Any] = {"query_id": line.get("custom_id")} | dict(
        zip(_PLAIN, values, strict=True)
    )
    row |= {ours: pick(line, theirs) for ours, theirs in options.columns.items()}
    if row["query_id"] is None:
        raise InputError(
            f"{where}: no '{options.columns.get('query_id', 'custom_id')}' that says which query "
            f"it is; give --map query_id=FIELD (the line has {', '.join(list(line)[:12])})"
        )
    row = {name: convert(value, name, f"{where}: '{name}'") for name, value in row.items()}
    return row, tokens(choice.get("logprobs"), where)


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _body(line: dict[str, Any], where: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The response body of a line, and the request where the line holds it."""
    response = line.get("response", line)
    request = line.get("request") or {}
    if isinstance(request, dict) and isinstance(request.get("body"), dict):
        request = request["body"]
    failed = line.get("error") or (response.get("error") if isinstance(response, dict) else None)
    status = response.get("status_code", 200) if isinstance(response, dict) else 200
    if failed or status != 200:
        reason = json.dumps(failed)[:120] if failed else f"status {status}"
        raise InputError(f"{where}: a failed request ({reason}); run it again or drop the line")
    body = response.get("body", response) if isinstance(response, dict) else None
    if not isinstance(body, dict) or not isinstance(request, dict):
        raise InputError(f"{where}: no response body; a line is a response, or holds 'response'")
    return body, request


def _choice(body: dict[str, Any], where: str) -> dict[str, Any]:
    if str(body.get("object", "")).endswith(".chunk"):
        raise InputError(f"{where}: a piece of a stream; log whole responses (stream=false)")
    choices = body.get("choices")
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise InputError(
            f"{where}: no 'choices'; expected a chat or text completion "
            f"(the body has {', '.join(map(str, list(body)[:12]))})"
        )
    if len(choices) != 1:
        raise InputError(f"{where}: {len(choices)} choices; a record is one answer, ask with n=1")
    return choices[0]


def _prompt(request: dict[str, Any]) -> str | None:
    """What was asked, for people: the prompt, or the messages as ``role: content`` lines."""
    messages = request.get("messages")
    if not isinstance(messages, list):
        prompt = request.get("prompt")
        return prompt if isinstance(prompt, str) else None
    said = [m for m in messages if isinstance(m, dict) and isinstance(m.get("content"), str)]
    return "\n".join(f"{m.get('role', 'user')}: {m['content']}" for m in said) or None
