"""Running text from JSON lines (--data.path): documents to learn from, passages to continue.

The documents are the ``targets`` of the files (``cat.tasks.jsonl``), whose ``inputs`` are empty.
Training examples are whole documents, cut in the middle: with ``data.running_text`` they are
joined again and every token counts. Validation and test documents become passages: a prompt of
at most ``max_prompt_tokens - 1`` characters and its continuation of at most
``max_response_tokens - 2``, both cut at a space: with bos, the space between them and eos, each
fits where no character takes more than one token. Other passages that do not fit are left out and
counted, as any example is. A word too long for its place is skipped; so is a rest too short for
both.

A continuation ends where the passage is cut, not where the author stopped: its end of text is no
prediction to be judged by (our choice; bits per character leave it out).
"""

from __future__ import annotations

from collections.abc import Iterator

from cat.config import DataConfig
from cat.example import Example
from cat.tasks import jsonl, splitting
from routers.errors import InputError


def examples(config: DataConfig, split: str) -> list[Example]:
    """Documents (train) or passages in the order of the text (validation, test).

    A split that the files have not is carved from the training documents, before any is cut.

    Raises:
        InputError: as ``cat.tasks.jsonl``; a document with inputs.
    """
    names = ("train", "validation", "test")
    documents, _ = splitting.complete({name: jsonl.examples(config, name) for name in names})
    for document in documents[split]:
        if document.prompt:
            raise InputError(
                f"task 'text': document '{document.id}' has inputs; leave them empty, or use "
                "the task jsonl"
            )
    if split == "train":
        return [_halved(document) for document in documents[split]]
    sizes = (config.max_prompt_tokens - 1, config.max_response_tokens - 2)
    return [p for document in documents[split] for p in _passages(document, *sizes)]


def _halved(document: Example) -> Example:
    text = document.target
    prompt, target = _cut(text, len(text) // 2)
    return Example(document.id, document.task, prompt, target)


def _passages(document: Example, prompt_size: int, target_size: int) -> Iterator[Example]:
    """Prompt and continuation, and again from where that ends."""
    rest, number = document.target, 0
    while rest:
        prompt, rest = _cut(rest, prompt_size)
        target, rest = _cut(rest, target_size) if prompt else ("", rest)
        if prompt and target:
            yield Example(f"{document.id}#{number}", document.task, prompt, target)
            number += 1
        else:  # the next word is too long for its place
            rest = rest.lstrip(" ").partition(" ")[2]


def _cut(text: str, size: int) -> tuple[str, str]:
    """At most ``size`` characters up to a space, and what follows that space.

    >>> _cut("one two three", 9), _cut("one", 9), _cut("unbroken", 4)
    (('one two', 'three'), ('one', ''), ('', 'unbroken'))
    """
    text = text.lstrip(" ")
    if len(text) <= size:
        return text, ""
    place = text.rfind(" ", 0, size + 1)
    return text[: max(place, 0)].rstrip(" "), text[place + 1 :]
