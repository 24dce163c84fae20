"""Running text: every token a target once, whatever the width; bos and eos where they belong."""

import numpy as np
import pytest

from cat import row_store, running_text, tokenizers
from cat.config import DataConfig
from cat.data import tokenize
from cat.example import Example
from cat.packing import pack
from cat.running_text import pieces, without_frame
from routers.errors import InputError

TEXTS = ["one two", "three four five six", "x", "a b c d e f g h i j k l m n"]


def document(number, text):
    """A document as the task gives it: cut in two at a space."""
    half = text.find(" ", len(text) // 2)
    prompt, target = ("", text) if half < 0 else (text[:half], text[half + 1 :])
    return Example(str(number), "t", prompt, target)


DOCUMENTS = [document(i, text) for i, text in enumerate(TEXTS)]


@pytest.fixture(scope="module", params=["characters", "bpe:300", "bytes"])
def tokenizer(request):
    return without_frame(tokenizers.train(request.param, TEXTS))


def config(width):
    return DataConfig(max_prompt_tokens=width - 1, max_response_tokens=2)


@pytest.mark.parametrize("width", [2, 5, 7, 100])
def test_every_token_after_bos_is_a_target_once(width, tokenizer):
    found: dict[str, list[int]] = {}
    for example, pair in pieces(DOCUMENTS, tokenizer, config(width)):
        assert pair is not None
        prompt, response = pair
        assert len(prompt) == 1
        assert 1 <= len(response) <= width
        earlier = found.setdefault(example.id, [tokenizer.bos])
        assert prompt == earlier[-1:]  # the token before, bos only at the start
        earlier += response
    for example, text in zip(DOCUMENTS, TEXTS, strict=True):
        ids = found[example.id]
        assert ids[-1] == tokenizer.eos
        assert tokenizer.bos not in ids[1:]
        assert tokenizer.eos not in ids[:-1]
        assert tokenizer.decode(ids) == text


def test_rows_count_every_position(tokenizer):
    rows = tokenize(DOCUMENTS, tokenizer, config(7), pairing=pieces)
    np.testing.assert_array_equal(rows.mask, rows.segments.astype(np.float32))
    np.testing.assert_array_equal(rows.counted, rows.lengths)
    assert (rows.left_out, rows.lengths.max()) == (0, 7)
    tokens = sum(len(tokenizer.encode(text)) + 1 for text in TEXTS)
    assert rows.mask.sum() == tokens


def test_packing_and_the_disk_take_them_as_any_rows(tokenizer, tmp_path):
    rows = tokenize(DOCUMENTS, tokenizer, config(7), pairing=pieces)
    store = row_store.write(tmp_path / "rows", DOCUMENTS, tokenizer, config(7), pairing=pieces)
    for source in (rows, store):
        packed = pack(source, 16, seed=0)
        found = packed.batch(np.arange(len(packed)))
        assert found.mask.sum() == rows.mask.sum()
        np.testing.assert_array_equal(found.mask > 0, found.segments > 0)


def test_a_prompt_is_framed_as_the_text_goes_on():
    tokenizer = without_frame(tokenizers.train("characters", TEXTS))
    whole = [pair for _, pair in pieces(DOCUMENTS[:1], tokenizer, config(100))]
    prompt, target = DOCUMENTS[0].prompt, DOCUMENTS[0].target
    framed = tokenizer.frame([prompt])[0] + tokenizer.close([prompt], [target])[0]
    assert framed == whole[0][0] + whole[0][1]
    assert tokenizer.read(prompt, tokenizer.close([prompt], [target])[0]) == target


def test_without_a_bos_something_still_predicts_the_first_token():
    plain = tokenizers.train("characters", TEXTS)
    tokenizer = without_frame(tokenizers.Tokenizer(plain.backend, bos=None))
    (_, pair), *_ = pieces(DOCUMENTS[2:3], tokenizer, config(9))
    assert pair == ([tokenizer.eos], [*tokenizer.encode("x"), tokenizer.eos])


def test_a_chat_template_is_refused():
    import dataclasses

    from cat.chat import Chat

    chat = object.__new__(Chat)
    plain = tokenizers.train("characters", TEXTS)
    with pytest.raises(InputError, match=r"data\.running_text: .*chat template"):
        without_frame(dataclasses.replace(plain, layout=chat))
    assert running_text.without_frame(plain).sep is None
