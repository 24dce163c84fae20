"""Vocabularies from texts: what the ``tokenizers`` library calls a tokenizer.

Five special tokens come first: ``<pad> <bos> <eos> <sep> <unk>``, ids 0-4.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from routers.errors import InputError

SPECIALS = ("<pad>", "<bos>", "<eos>", "<sep>", "<unk>")
_BYTES = 256


def train(kind: str, texts: Iterable[str]) -> tokenizers.Tokenizer:
    """A tokenizer of that kind from texts.

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
            "or the path of a tokenizer.json or a checkpoint's folder"
        )
    size = int(number or 0)
    if size < least[name]:
        raise InputError(f"data.tokenizer '{kind}' is too small; give N of at least {least[name]}")
    if name == "characters":
        return _characters(texts)
    return _words(texts, size) if name == "words" else _byte_level(texts, size)


def read(path: Path) -> tokenizers.Tokenizer:
    """A tokenizer.json, which is made not to pad or cut.

    Raises:
        InputError: it is none.
    """
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise InputError(f"{path}: not a tokenizer.json ({error}); save one and retry") from None
    backend.no_padding()
    backend.no_truncation()
    return backend


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
