"""Stop strings against every prefix, decoded by real tokenizers."""

import numpy as np
import pytest

from cat.stop import Stop
from cat.tokenizers import train
from routers.errors import InputError

TEXTS = ["one two, three. END", "Question: a\n\nQuestion: b", "no stop", "É nd ÉÉND", "END END"]
STRINGS = ("END", "\n\nQ", "two,", "ÉÉ")


def brute_force(ids, decode):
    """The first prefix whose text contains a string."""
    for n in range(1, len(ids) + 1):
        if any(string in decode(ids[:n]) for string in STRINGS):
            return n
    return None


@pytest.mark.parametrize("kind", ["characters", "bytes", "bpe:300"])
def test_end_is_the_first_prefix_with_a_string(kind):
    """Strings cross token borders; with bytes, a token may be half a character."""
    tokenizer = train(kind, TEXTS * 20)
    stop, ends = Stop(STRINGS, tokenizer.decode), 0
    for text in TEXTS:
        ids = [*tokenizer.encode(text), tokenizer.eos]
        want = brute_force(ids, tokenizer.decode)
        ends += want is not None
        for start in range(len(ids) if want is None else want):
            assert stop.end(np.array(ids), start) == want
        if want is not None:
            assert stop.end(ids[: want - 1], 0) is None
    assert ends == 4


@pytest.mark.parametrize(
    ("text", "kept"),
    [("one END two", "one "), ("ENDtwo,", ""), ("two, END", ""), ("EN D", "EN D"), ("", "")],
)
def test_text_is_cut_where_the_first_string_begins(text, kept):
    assert Stop(STRINGS, str).before(text) == kept


@pytest.mark.parametrize("strings", [(), ("",), ("a", "")])
def test_empty_strings_are_refused(strings):
    with pytest.raises(InputError, match="give one or more, none empty"):
        Stop(strings, str)
