"""Text to token ids and back, through the Hugging Face ``tokenizers`` library.

Five special tokens frame every example: ``<pad> <bos> <eos> <sep> <unk>``, ids 0-4 in the
tokenizers trained here. Text can never produce the first four, whatever it contains.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from cat.config import fingerprint
from routers.errors import InputError
from routers.files import written

SPECIALS = ("<pad>", "<bos>", "<eos>", "<sep>", "<unk>")
_BYTES = 256


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """A Hugging Face tokenizer and the ids of its special tokens.

    ``decode(encode(x)) == x`` for bytes and bpe, and for characters where all of x is known;
    for words, x with each run of whitespace turned into one space. What is unknown becomes
    ``unk`` and is decoded as ``<unk>``, so that it never passes for a right answer.

    >>> t = train("characters", ["copy abc"])
    >>> t.encode("abz"), t.decode([t.bos, *t.encode("abz"), t.eos])
    ([6, 7, 4], 'ab<unk>')
    """

    backend: tokenizers.Tokenizer
    pad: int = 0
    bos: int = 1
    eos: int = 2
    sep: int = 3
    unk: int = 4

    def __post_init__(self) -> None:
        self.backend.encode_special_tokens = True  # "<eos>" in a text is text

    @property
    def vocab_size(self) -> int:
        """V, special tokens included."""
        return self.backend.get_vocab_size()

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits that change with the vocabulary or the rules."""
        return fingerprint(self.backend.to_str())

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Token ids of many texts, faster than one by one."""
        framing = {self.pad, self.bos, self.eos, self.sep}
        rows = [e.ids for e in self.backend.encode_batch_fast(texts, add_special_tokens=False)]
        return [
            row if framing.isdisjoint(row) else [self.unk if i in framing else i for i in row]
            for row in rows
        ]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Text of token ids; pad, bos, eos and sep are left out, unk stays visible."""
        framing = {self.pad, self.bos, self.eos, self.sep}
        kept = [int(i) for i in ids if int(i) not in framing]
        return self.backend.decode(kept, skip_special_tokens=False)

    def save(self, path: str | Path) -> None:
        """Write ``tokenizer.json``, whole or not at all."""
        with written(Path(path)) as temporary:
            temporary.write_text(self.backend.to_str(pretty=True), encoding="utf-8")


def train(kind: str, texts: Iterable[str]) -> Tokenizer:
    """A tokenizer of that kind from texts (of the training split only).

    * ``characters``: every character that occurs; others are unknown.
    * ``bytes``: the 256 byte values of UTF-8; nothing is unknown.
    * ``words:N``: the N - 5 most frequent whitespace-separated words.
    * ``bpe:N``: byte-level byte-pair encoding with N entries in all (at least 261).

    Raises:
        InputError: unknown kind or too small an N.
    """
    name, _, number = kind.partition(":")
    least = {"characters": 0, "bytes": 0, "words": len(SPECIALS) + 1, "bpe": len(SPECIALS) + _BYTES}
    well_formed = number.isdecimal() if least.get(name) else kind == name
    if name not in least or not well_formed:
        raise InputError(
            f"data.tokenizer '{kind}' is unknown; use characters, bytes, words:N, bpe:N "
            "or the path of a tokenizer.json"
        )
    size = int(number or 0)
    if size < least[name]:
        raise InputError(f"data.tokenizer '{kind}' is too small; give N of at least {least[name]}")
    if name == "characters":
        return Tokenizer(_characters(texts))
    return Tokenizer(_words(texts, size) if name == "words" else _byte_level(texts, size))


def load(path: str | Path) -> Tokenizer:
    """A ``tokenizer.json``, which must define the five special tokens by name.

    Raises:
        InputError: no such file, not a tokenizer.json, or a special token is absent.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"tokenizer '{path}' does not exist; give the path of a tokenizer.json")
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise InputError(f"{path}: not a tokenizer.json ({error}); save one and retry") from None
    ids = {token: backend.token_to_id(token) for token in SPECIALS}
    absent = [token for token, number in ids.items() if number is None]
    if absent:
        raise InputError(
            f"{path}: lacks the special tokens {' '.join(absent)}; add them with "
            f"tokenizers.Tokenizer.add_special_tokens and save the file again"
        )
    backend.no_padding()
    backend.no_truncation()
    return Tokenizer(backend, *[number for number in ids.values() if number is not None])


def from_spec(spec: str, texts: Iterable[str]) -> Tokenizer:
    """What ``data.tokenizer`` says: ``load`` for a path ending in .json, else ``train``."""
    return load(spec) if spec.endswith(".json") else train(spec, texts)


def _word_level(words: Iterable[str]) -> tokenizers.Tokenizer:
    vocab = {word: i for i, word in enumerate([*SPECIALS, *words])}
    backend = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.add_special_tokens(list(SPECIALS))
    return backend


def _characters(texts: Iterable[str]) -> tokenizers.Tokenizer:
    backend = _word_level(sorted(set().union(*texts)))
    one = tokenizers.Regex(r"[\s\S]")  # "." would leave newlines out
    backend.pre_tokenizer = pre_tokenizers.Split(one, "isolated")  # type: ignore[assignment]
    backend.decoder = decoders.Fuse()  # type: ignore[assignment]
    return backend


def _words(texts: Iterable[str], size: int) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.WordLevel(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    trainer = trainers.WordLevelTrainer(
        vocab_size=size, special_tokens=list(SPECIALS), show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    return backend


def _byte_level(texts: Iterable[str], size: int) -> tokenizers.Tokenizer:
    """Bytes as the alphabet; ``size`` 0 = no merges, which is the tokenizer ``bytes``."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if size:
        backend = tokenizers.Tokenizer(models.BPE())
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=list(SPECIALS),
            initial_alphabet=alphabet,
            show_progress=False,
        )
    else:
        vocab = {piece: i for i, piece in enumerate([*SPECIALS, *alphabet])}
        backend, trainer = tokenizers.Tokenizer(models.BPE(vocab, [])), None
        backend.add_special_tokens(list(SPECIALS))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    backend.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    if trainer is not None:
        backend.train_from_iterator(texts, trainer)
    return backend
