"""Text to token ids and back, through the Hugging Face ``tokenizers`` library.

One function frames a prompt and one its target, whatever the model (``Tokenizer.frame`` and
``Tokenizer.close``):

* tokenizers trained here: ``<bos> prompt <sep>`` and ``target <eos>``, with the five special
  tokens ``<pad> <bos> <eos> <sep> <unk>``, ids 0-4;
* a checkpoint with a chat template: what the template writes (``cat.chat``);
* a checkpoint without: the text itself and its end of text (``cat.framing``).

Text can never produce a special token that frames, whatever it contains.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import tokenizers

from cat import chat, framing, special_tokens, vocabularies
from cat.chat import Chat
from cat.config import fingerprint
from cat.framing import Plain
from cat.vocabularies import SPECIALS
from routers.errors import InputError
from routers.files import written


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """A Hugging Face tokenizer and how it frames a prompt and its target.

    ``decode(encode(x)) == x`` for bytes and bpe, and for characters where all of x is known;
    for words, x with each run of whitespace turned into one space. What is unknown becomes
    ``unk`` and is decoded as ``<unk>``, so that it never passes for a right answer.

    Args:
        backend: the library's tokenizer.
        pad: fills rows; masked, so that any id serves.
        bos: starts a prompt; None = nothing does.
        eos: ends a response in training rows.
        sep: between prompt and target; None = nothing is.
        unk: stands for unknown text; None = there is none.
        stops: further ids at which the model may end a response.
        layout: the text around prompt and target; None = just them.

    >>> t = train("characters", ["copy abc"])
    >>> t.encode("abz"), t.decode([t.bos, *t.encode("abz"), t.eos])
    ([6, 7, 4], 'ab<unk>')
    >>> t.frame(["ab"]), t.close(["ab"], ["c"]), t.read("ab", [8, t.eos])
    ([[1, 6, 7, 3]], [[8, 2]], 'c')
    """

    backend: tokenizers.Tokenizer
    pad: int = 0
    bos: int | None = 1
    eos: int = 2
    sep: int | None = 3
    unk: int | None = 4
    stops: tuple[int, ...] = ()
    layout: Plain | Chat | None = None

    def __post_init__(self) -> None:
        self.backend.encode_special_tokens = True  # "<eos>" in a text is text

    @property
    def ends(self) -> tuple[int, ...]:
        """Every id that ends a response, ``eos`` first."""
        return (self.eos, *self.stops)

    @property
    def vocab_size(self) -> int:
        """V: one more than the largest id that a text or its frame can give."""
        return max(self.producible) + 1

    @functools.cached_property
    def producible(self) -> frozenset[int]:
        """Ids that a text or its frame can give.

        Other special tokens do not count: Gemma 3's text models have no row for their
        tokenizer's picture token.
        """
        text = self.layout.rendered if isinstance(self.layout, Chat) else ""
        framed = {i for name, i in self._specials.items() if name in text}
        unused = set(self._specials.values()) - self._framing - {self.pad, self.unk} - framed
        return frozenset(self.backend.get_vocab().values()) - unused

    @functools.cached_property
    def fingerprint(self) -> str:
        """Twelve hex digits that change with the vocabulary, the rules or the frame."""
        rules = self.backend.to_str()
        if self.layout is None:
            return fingerprint(rules)
        ids = [self.pad, self.bos, self.sep, self.unk, *self.ends]
        template = (
            [self.layout.source, dict(self.layout.variables)]
            if isinstance(self.layout, Chat)
            else []
        )
        return fingerprint(rules, ids, template)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of many texts, faster than one by one.

        Raises:
            InputError: a text holds a special token's name, and there is no other way to encode
                it and no ``unk``.
        """
        rows = _ids(self.backend, texts)
        return [
            row if self._framing.isdisjoint(row) else self._without_framing(row, text)
            for row, text in zip(rows, texts, strict=True)
        ]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Text of token ids; those that frame are left out, unk stays visible."""
        kept = [int(i) for i in ids if int(i) not in self._framing]
        return self.backend.decode(kept, skip_special_tokens=False)

    def frame(self, prompts: Sequence[str]) -> list[list[int]]:
        """What a model is given to continue: each prompt in its frame.

        A prompt of no tokens is ``eos`` where nothing else starts a text: something must
        predict the first token. Source: lm-evaluation-harness, ``prefix_token_id``.
        """
        texts = prompts if self.layout is None else [self.layout.prompt(p) for p in prompts]
        if isinstance(self.layout, Chat):
            return self._encode_marked(texts)
        before = [] if self.bos is None else [self.bos]
        between = [] if self.sep is None else [self.sep]
        rows = [[*before, *ids, *between] for ids in self.encode_batch(texts)]
        return [row or [self.eos] for row in rows]

    def close(self, prompts: Sequence[str], targets: Sequence[str]) -> list[list[int]]:
        """What a model shall answer to ``frame(prompts)``, ``eos`` at the end.

        Prompt and target are encoded apart, so that a prompt is the same tokens with its answer
        and without; the target is encoded as it stands behind other text.
        """
        layout = self.layout
        if layout is None:
            return [[*ids, self.eos] for ids in self.encode_batch(targets)]
        texts = [layout.response(p, t) for p, t in zip(prompts, targets, strict=True)]
        anchors = [layout.anchor(p) for p in prompts]
        if isinstance(layout, Chat):  # which writes eos itself
            return framing.behind(anchors, texts, self._encode_marked)
        rows = framing.behind(anchors, texts, self.encode_batch)
        return [[*ids, self.eos] for ids in rows]

    def read(self, prompt: str, ids: Sequence[int] | np.ndarray) -> str:
        """The answer in the ids of a response to that prompt: what ``close`` took as target."""
        if self.layout is None:
            return self.decode(ids)
        before = self._anchor_ids(self.layout.anchor(prompt))
        first, whole = self.decode(before), self.decode([*before, *map(int, ids)])
        text = whole[len(first) :] if whole.startswith(first) else self.decode(ids)
        return self.layout.answer(prompt, text)

    def check_fits(self, vocab_size: int, model: str) -> None:
        """Raise InputError if this tokenizer gives ids for which that model has no row."""
        if self.vocab_size > vocab_size:
            last = self.vocab_size - 1
            raise InputError(
                f"{model}: its tokenizer has ids up to {last} ({self.backend.id_to_token(last)!r}) "
                f"for a vocabulary of {vocab_size}; use the tokenizer it was trained with"
            )

    def save(self, path: str | Path) -> None:
        """Write ``tokenizer.json``, whole or not at all."""
        with written(Path(path)) as temporary:
            temporary.write_text(self.backend.to_str(pretty=True), encoding="utf-8")

    @functools.cached_property
    def _framing(self) -> frozenset[int]:
        """Ids that no text gives and no decoded text shows."""
        ids = (self.pad, self.bos, self.sep, *self.ends)
        return frozenset(i for i in ids if i is not None and i != self.unk)

    @functools.cached_property
    def _specials(self) -> dict[str, int]:
        return special_tokens.names(self.backend)

    @functools.cached_property
    def _unguarded(self) -> framing.Encode:
        """Encodes with a copy to which special tokens in a text are special."""
        copy = tokenizers.Tokenizer.from_str(self.backend.to_str())
        return functools.partial(_ids, copy)

    def _without_framing(self, row: list[int], text: str) -> list[int]:
        if self.unk is None:
            raise InputError(
                f"text {text[:60]!r} holds the name of a special token, which this tokenizer "
                "cannot encode as text; change the text"
            )
        return [self.unk if i in self._framing else i for i in row]

    def _encode_marked(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of what a chat template writes."""
        forgeable = {name: i for name, i in self._specials.items() if i != self.unk}
        return chat.encode(texts, self.encode_batch, self._unguarded, forgeable)

    def _anchor_ids(self, anchor: str) -> list[int]:
        """Ids of what stands for a prompt."""
        encode = self._unguarded if isinstance(self.layout, Chat) else self.encode_batch
        return encode([anchor])[0]


def train(kind: str, texts: Iterable[str]) -> Tokenizer:
    """A tokenizer of that kind (``cat.vocabularies.train``), from texts of the training split."""
    return Tokenizer(vocabularies.train(kind, texts))


def load(path: str | Path) -> Tokenizer:
    """A ``tokenizer.json``, which must define the five special tokens by name.

    Raises:
        InputError: no such file, not a tokenizer.json, or a special token is absent.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"tokenizer '{path}' does not exist; give the path of a tokenizer.json")
    backend = vocabularies.read(path)
    ids = [backend.token_to_id(token) for token in SPECIALS]
    absent = [token for token, number in zip(SPECIALS, ids, strict=True) if number is None]
    if absent:
        raise InputError(
            f"{path}: lacks the special tokens {' '.join(absent)}; add them with "
            "tokenizers.Tokenizer.add_special_tokens and save the file again, or give the "
            "folder of its checkpoint"
        )
    pad, bos, eos, sep, unk = (number for number in ids if number is not None)
    return Tokenizer(backend, pad, bos, eos, sep, unk)


def from_checkpoint(folder: Path) -> Tokenizer:
    """The tokenizer of a checkpoint in Hugging Face format, in its chat template if it has one.

    Ids are those of ``tokenizer.json`` as it stands, which ``transformers`` 5 rebuilds for
    some families: a Llama's text that starts with a space may differ there.

    Args:
        folder: ``tokenizer.json`` and the files beside it that name special tokens.

    Raises:
        InputError: a file is absent, broken or of another checkpoint; nothing ends a text; the
            template cannot be rendered, or does not continue its own prompt.
    """
    backend = vocabularies.read(special_tokens.file_of(folder))
    config = special_tokens.optional_json(folder, "tokenizer_config.json")
    found = special_tokens.read(folder, backend, config)
    special_tokens.mark(backend, found)
    plain = Tokenizer(
        backend, found.pad, found.bos, found.ends[0], None, found.unk, found.ends[1:], Plain()
    )
    source = chat.find(folder, config)
    if source is None:
        return plain
    names = special_tokens.names(backend)
    layout = Chat(source, found.variables, names, f"{folder}: chat template")
    end = layout.specials[layout.end]
    stops = tuple(i for i in found.ends if i != end)
    subject = dataclasses.replace(plain, eos=end, stops=stops, layout=layout)
    closed = subject.close([chat.PROBE], [chat.PROBE])[0]
    if closed[-1:] != [end]:
        raise InputError(
            f"{layout.where}: ends an answer with {layout.end!r}, which the tokenizer does not "
            "take for one token there; set normalized to false for it in tokenizer.json"
        )
    return subject


def from_spec(spec: str, texts: Iterable[str]) -> Tokenizer:
    """What ``data.tokenizer`` says.

    ``load`` for a path that ends in .json, ``from_checkpoint`` for another path (with a slash),
    else ``train``.
    """
    if spec.endswith(".json"):
        return load(spec)
    return from_checkpoint(Path(spec)) if "/" in spec else train(spec, texts)


def same_vocabulary(a: Tokenizer, b: Tokenizer) -> None:
    """Raise InputError unless every id that either can give is the same token to both.

    Cascade-aware training (2406.00060) and distillation compare two distributions over the same
    tokens; rows of padding and special tokens that nothing gives may differ.
    """
    tokens_a, tokens_b = special_tokens.tokens(a.backend), special_tokens.tokens(b.backend)
    for i in sorted(a.producible | b.producible):
        first, second = tokens_a.get(i), tokens_b.get(i)
        if first != second:
            raise InputError(
                f"the two models do not share a vocabulary (id {i} is {_named(first)} to one and "
                f"{_named(second)} to the other), which CAT and distillation need: use models of "
                "one family, or what works without: train the arm xent alone, and run routers "
                "and cascade evaluate on the records of both; training on the large model's "
                "text is another method and not offered"
            )


def _named(token: str | None) -> str:
    return "nothing" if token is None else repr(token)


def _ids(backend: tokenizers.Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    encoded = backend.encode_batch_fast(list(texts), add_special_tokens=False)
    return [one.ids for one in encoded]
