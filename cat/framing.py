"""A prompt and its target as one text, for checkpoints without a chat template."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

NEWLINE, _LETTER = "\n", "a"
Encode = Callable[[Sequence[str]], list[list[int]]]


@dataclasses.dataclass(frozen=True)
class Plain:
    """The text itself, a space between prompt and target unless whitespace is there.

    Spaces at the end of a prompt belong to the response, as pieces of text begin with their
    space in most vocabularies; newlines stay with the prompt (our choice: the answer to a
    prompt that ends its line starts the next).

    Source: lm-evaluation-harness, its default ``target_delimiter`` and ``_encode_pair``.

    >>> plain = Plain()
    >>> [plain.prompt(p) + "|" + plain.response(p, "x") for p in ("a", "a ", "f():\\n", "")]
    ['a| x', 'a| x', 'f():\\n|x', '|x']
    """

    def prompt(self, text: str) -> str:
        """What a model is given."""
        return text.rstrip(" ")

    def response(self, prompt: str, target: str) -> str:
        """What it shall write."""
        return _gap(prompt) + target

    def anchor(self, prompt: str) -> str:
        """Text that stands for what comes before a response: nothing, or anything."""
        return NEWLINE if self.prompt(prompt) else ""

    def answer(self, prompt: str, response: str) -> str:
        """The target in a response."""
        return response.removeprefix(_gap(prompt))


def behind(anchors: Sequence[str], texts: Sequence[str], encode: Encode) -> list[list[int]]:
    """Ids of texts as they stand behind anchors, none of them with a part of the anchor.

    Some tokenizers put a space before whatever comes first; here it does not come first. Where
    anchor and text would share a token (newlines), the text is encoded behind a letter.
    """
    distinct = list(dict.fromkeys(anchors))
    first = dict(zip(distinct, encode(distinct), strict=True))
    wholes = encode([anchor + text for anchor, text in zip(anchors, texts, strict=True)])
    rows = []
    for anchor, text, whole in zip(anchors, texts, wholes, strict=True):
        n = len(first[anchor])
        rows.append(whole[n:] if whole[:n] == first[anchor] else _apart(text, encode))
    return rows


def _apart(text: str, encode: Encode) -> list[int]:
    """Ids behind a letter; by itself where even those merge."""
    first, whole = encode([_LETTER, _LETTER + text])
    return whole[len(first) :] if whole[: len(first)] == first else encode([text])[0]


def _gap(prompt: str) -> str:
    """The whitespace a response starts with."""
    spaces = prompt[len(prompt.rstrip(" ")) :]
    return " " if prompt and not prompt[-1].isspace() else spaces
