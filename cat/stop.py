"""Stop strings: texts that end a response, wherever they fall between tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from routers.errors import InputError


@dataclasses.dataclass(frozen=True)
class Stop:
    r"""A response ends with the token that completes one of ``strings`` in its decoded text.

    That token is generated, paid for and recorded; the text is cut before the string
    (``before``). The text is looked at on the host, every few tokens: an automaton over tokens
    would have to know how each tokenizer joins its pieces.

    Args:
        strings: at least one, none of them empty.
        decode: token ids to text, e.g. ``Tokenizer.decode``. The text of a longer prefix must
            begin with that of a shorter one, but for unfinished characters at its end; byte-level,
            SentencePiece, word and character tokenizers do so.

    Raises:
        InputError: no string, or an empty one.

    >>> stop = Stop(("\n\n",), lambda ids: "".join("ab\n"[i] for i in ids))
    >>> stop.end([0, 2, 1, 2, 2, 0], start=0)
    5
    >>> stop.before("a\nb\n\n")
    'a\nb'
    """

    strings: tuple[str, ...]
    decode: Callable[[Sequence[int] | np.ndarray], str]

    def __post_init__(self) -> None:
        if not self.strings or not all(self.strings):
            raise InputError(f"stop strings {list(self.strings)}; give one or more, none empty")

    def end(self, ids: Sequence[int] | np.ndarray, start: int) -> int | None:
        """Tokens up to the one that completes a string, itself included; None without one.

        Args:
            ids: a response so far.
            start: its tokens that are known to hold no string.
        """
        if not self._found(ids):
            return None
        return next(n for n in range(start + 1, len(ids) + 1) if self._found(ids[:n]))

    def before(self, text: str) -> str:
        """The text up to where the first of the strings begins; all of it without one."""
        return text[: min((at for s in self.strings if (at := text.find(s)) >= 0), default=None)]

    def _found(self, ids: Sequence[int] | np.ndarray) -> bool:
        text = self.decode(ids)
        return any(string in text for string in self.strings)
