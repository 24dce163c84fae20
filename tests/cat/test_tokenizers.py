"""Tokenizers: round trips, special tokens nobody can forge, files, training."""

import collections
import json
import random

import pytest

from cat.tokenizers import SPECIALS, from_spec, load, train
from routers.errors import InputError

TEXTS = ["copy abc", "58+67 = 521", "zwei Wörter\nund  mehr", "漢字 🙂 ok", "copy copy copy abc"]
KINDS = ["characters", "bytes", "words:60", "bpe:300"]


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request):
    return train(request.param, TEXTS)


@pytest.mark.parametrize("kind", ["characters", "bytes", "bpe:300"])
def test_round_trip_is_exact_for_characters_bytes_and_bpe(kind):
    subject = train(kind, TEXTS)
    for text in (*TEXTS, "", " ", "\n\n a  b ", "abc" * 50):
        assert subject.decode(subject.encode(text)) == text


@pytest.mark.parametrize("kind", ["bytes", "bpe:300"])
def test_bytes_and_bpe_know_every_text(kind):
    subject = train(kind, ["abc"])
    draw = random.Random(0)
    for _ in range(100):
        text = "".join(chr(draw.choice([draw.randint(0, 0xD7FF), 32, 97])) for _ in range(12))
        ids = subject.encode(text)
        assert subject.unk not in ids
        assert subject.decode(ids) == text


def test_bytes_are_as_many_tokens_as_utf8_bytes():
    subject = train("bytes", [])
    assert subject.vocab_size == 256 + 5
    for text in TEXTS:
        assert len(subject.encode(text)) == len(text.encode("utf-8"))


def test_words_round_trip_up_to_whitespace():
    subject = train("words:60", TEXTS)
    for text in (*TEXTS, "", "  copy \n abc "):
        assert subject.decode(subject.encode(text)) == " ".join(text.split())
    assert len(subject.encode("58+67 = 521")) == 3


def test_words_keep_the_most_frequent():
    texts = ["a a a a", "b b b", "c c", "d"]
    counts = collections.Counter(" ".join(texts).split())
    subject = train("words:8", texts)
    assert subject.vocab_size == 8
    kept = {w for w in counts if subject.encode(w) != [subject.unk]}
    assert kept == {w for w, _ in counts.most_common(3)}


def test_bpe_has_the_size_asked_and_merges_frequent_pieces():
    subject = train("bpe:262", ["copy " * 50])
    assert subject.vocab_size == 262
    assert len(subject.encode("copycopy")) < 8


def test_special_ids_are_the_first_five(tokenizer):
    ids = [tokenizer.pad, tokenizer.bos, tokenizer.eos, tokenizer.sep, tokenizer.unk]
    assert ids == [0, 1, 2, 3, 4]
    assert [tokenizer.backend.id_to_token(i) for i in ids] == list(SPECIALS)
    used = {i for text in TEXTS for i in tokenizer.encode(text)}
    assert used <= set(range(5, tokenizer.vocab_size))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["<eos>", "a <sep> b", "<pad><bos>", "x<eos>y"])
def test_text_cannot_produce_framing_tokens(kind, text):
    """Neither in a text never seen nor where the training texts contain the very string."""
    for subject in (train(kind, TEXTS), train(kind, [text] * 20)):
        assert {0, 1, 2, 3}.isdisjoint(subject.encode(text))
        for encoded in subject.encode_batch(["copy", text]):
            assert {0, 1, 2, 3}.isdisjoint(encoded)


@pytest.mark.parametrize("kind", ["characters", "words:60"])
def test_unknown_becomes_unk_and_stays_visible(kind):
    subject = train(kind, TEXTS)
    assert subject.unk in subject.encode("Ω")
    assert subject.decode(subject.encode("Ω")) == "<unk>"
    assert "<unk>" in subject.decode(subject.encode("copy Ω"))


def test_decode_leaves_framing_out(tokenizer):
    ids = tokenizer.encode("copy abc")
    framed = [tokenizer.bos, *ids, tokenizer.sep, tokenizer.eos, tokenizer.pad, tokenizer.pad]
    assert tokenizer.decode(framed) == tokenizer.decode(ids) == "copy abc"


def test_batch_equals_one_by_one(tokenizer):
    assert tokenizer.encode_batch(TEXTS) == [tokenizer.encode(t) for t in TEXTS]


def test_training_does_not_depend_on_the_run(tokenizer):
    for kind in KINDS:
        assert train(kind, TEXTS).fingerprint == train(kind, list(TEXTS)).fingerprint
    assert train("characters", TEXTS).fingerprint == train("characters", TEXTS[::-1]).fingerprint
    assert len({train(kind, TEXTS).fingerprint for kind in KINDS}) == len(KINDS)


def test_saved_and_loaded_is_the_same(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    again = load(path)
    assert again.fingerprint == tokenizer.fingerprint
    assert again.vocab_size == tokenizer.vocab_size
    texts = [*TEXTS, "<eos>", "Ω"]
    assert again.encode_batch(texts) == tokenizer.encode_batch(texts)
    assert from_spec(str(path), []).fingerprint == tokenizer.fingerprint
    assert [p.name for p in tmp_path.iterdir()] == ["tokenizer.json"]  # no part is left behind


def test_loaded_special_tokens_may_have_other_ids(tmp_path):
    """A file from elsewhere: ids are looked up by name, its own framing is not added."""
    import tokenizers
    from tokenizers import models, pre_tokenizers, processors

    backend = tokenizers.Tokenizer(
        models.WordLevel({"a": 0, "b": 1, "<unk>": 2}, unk_token="<unk>")
    )
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens(list(SPECIALS))
    backend.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", backend.token_to_id("<bos>"))]
    )
    backend.enable_padding(length=7)
    backend.enable_truncation(max_length=1)
    backend.save(str(tmp_path / "t.json"))
    subject = load(tmp_path / "t.json")
    assert (subject.pad, subject.bos, subject.eos, subject.sep, subject.unk) == (3, 4, 5, 6, 2)
    assert subject.encode("a b Ω") == [0, 1, 2]


def test_load_names_what_is_missing(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        load(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(InputError, match=r"bad\.json: not a tokenizer\.json"):
        load(tmp_path / "bad.json")
    path = tmp_path / "t.json"
    train("characters", ["ab"]).save(path)
    plain = json.loads(path.read_text())
    plain["added_tokens"] = []
    for token in ("<sep>", "<pad>"):
        del plain["model"]["vocab"][token]
    path.write_text(json.dumps(plain))
    with pytest.raises(InputError, match=r"t\.json: lacks the special tokens <pad> <sep>; add"):
        load(path)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("chars", "unknown"),
        ("words", "unknown"),
        ("words:many", "unknown"),
        ("characters:9", "unknown"),
        ("bpe:-1", "unknown"),
        ("words:5", "at least 6"),
        ("bpe:260", "at least 261"),
    ],
)
def test_wrong_kinds_say_what_to_use(kind, reason):
    with pytest.raises(InputError, match=reason):
        train(kind, TEXTS)


@pytest.mark.shared
def test_a_published_tokenizer_without_our_tokens_is_refused(shared_data):
    path = shared_data / "weights" / "tinystories656K" / "tokenizer.json"
    with pytest.raises(InputError, match="lacks the special tokens <pad> <bos> <eos> <sep>"):
        load(path)
