"""Running text as token rows: pre-training, where every token is a target.

A document is ``<bos> text <eos>`` (without a bos, what the tokenizer puts before an empty prompt),
cut into rows of equal width. A row that goes on a document begins with the last token of the row
before and without bos: every token after the first is a target exactly once, and bits per
character are those of the text. Short rows, the ends of documents, are packed (``cat.packing``).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator

from cat.chat import Chat
from cat.config import DataConfig
from cat.data import BLOCK, Pair
from cat.example import Example
from cat.framing import Plain
from cat.tokenizers import Tokenizer
from routers.errors import InputError


def without_frame(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer that continues a text: nothing between prompt and target but a space.

    Raises:
        InputError: a chat template, which running text has no place for.
    """
    if isinstance(tokenizer.layout, Chat):
        raise InputError(
            "data.running_text: this tokenizer has a chat template, which frames prompts and "
            "answers; use a base model's tokenizer or one trained here"
        )
    return dataclasses.replace(tokenizer, sep=None, layout=Plain())


def pieces(
    examples: Iterable[Example], tokenizer: Tokenizer, config: DataConfig
) -> Iterator[tuple[Example, Pair | None]]:
    """Each example's prompt and target as one document, cut into rows; a ``data.Pairing``.

    A row has at most ``max_prompt_tokens + max_response_tokens - 1`` positions, as a framed
    example has; nothing is left out.
    """
    width = config.max_prompt_tokens + config.max_response_tokens - 1
    layout = tokenizer.layout or Plain()
    if isinstance(layout, Chat):
        raise InputError("running text has no chat template; see running_text.without_frame")
    start = tokenizer.frame([""])[0]
    stream = iter(examples)
    while block := list(itertools.islice(stream, BLOCK)):
        texts = [layout.prompt(e.prompt) + layout.response(e.prompt, e.target) for e in block]
        bodies = tokenizer.close([""] * len(texts), texts)
        for example, body in zip(block, bodies, strict=True):
            ids, prompt = [*start, *body], len(start)
            for first in range(0, len(ids) - 1, width):
                row = ids[first : first + width + 1]
                yield example, (row[:prompt], row[prompt:])
                prompt = 1
