"""Tokenizers: round trips, special tokens nobody can forge, files, training, checkpoints."""

import collections
import dataclasses
import gzip
import json
import random

import pytest
import tokenizers
from golden import chats
from tokenizers import models, pre_tokenizers, processors

from cat.framing import Plain
from cat.tokenizers import (
    SPECIALS,
    Tokenizer,
    from_checkpoint,
    from_spec,
    load,
    same_vocabulary,
    train,
)
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


def test_frames_of_a_tokenizer_trained_here(tokenizer):
    texts = [*TEXTS, "", "<eos>"]
    framed, closed = tokenizer.frame(texts), tokenizer.close(texts, texts[::-1])
    for text, row in zip(texts, framed, strict=True):
        assert row == [tokenizer.bos, *tokenizer.encode(text), tokenizer.sep]
    for text, row in zip(texts[::-1], closed, strict=True):
        assert row == [*tokenizer.encode(text), tokenizer.eos]
        assert tokenizer.read("any", row) == tokenizer.decode(row)
    assert tokenizer.ends == (tokenizer.eos,)


# -- checkpoints ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A golden family's tokenizer without its chat template."""
    known = {}

    def get(name, **changes):
        key = (name, *changes.items())
        if key not in known:
            folder = tmp_path_factory.mktemp(name)
            chats.write(folder, name, **{"chat_template": ..., **changes})
            known[key] = from_checkpoint(folder)
        return known[key]

    return get


PROMPTS = ["the answer", "the answer ", "the answer:\n", "what is 2 + 2?  ", "x\ty\t"]
TARGETS = ["four", "  four ", "\nfour", "", "naïve 漢 🙂"]


@pytest.mark.parametrize("name", chats.FAMILIES)
@pytest.mark.parametrize("prompt", [*PROMPTS, ""])
@pytest.mark.parametrize("target", TARGETS)
def test_a_checkpoints_prompt_and_target_are_one_text(plain, name, prompt, target):
    """Their ids together are the text, and a prompt's do not depend on its target."""
    tokenizer = plain(name)
    (ids,), (response,) = tokenizer.frame([prompt]), tokenizer.close([prompt], [target])
    space = " " if prompt and not prompt[-1].isspace() else ""
    assert tokenizer.decode(ids + response) == prompt + space + target
    assert response[-1] == tokenizer.eos
    assert set(tokenizer.ends).isdisjoint(response[:-1])
    assert tokenizer.read(prompt, response) == target
    assert tokenizer.read(prompt, response[:-1]) == target
    if tokenizer.bos is not None:
        assert ids[0] == tokenizer.bos
        assert ids.count(tokenizer.bos) == 1


@pytest.mark.parametrize("name", chats.FAMILIES)
def test_ids_apart_are_ids_together(plain, name):
    """As lm-evaluation-harness cuts them: the whole text's ids behind the prompt's."""
    tokenizer = plain(name)
    for prompt in PROMPTS:
        (ids,), (response,) = tokenizer.frame([prompt]), tokenizer.close([prompt], ["the four"])
        space = "" if prompt[-1].isspace() else " "
        whole = tokenizer.encode(f"{prompt}{space}the four")
        assert ids + response == ([tokenizer.bos] * (tokenizer.bos is not None)) + whole + [
            tokenizer.eos
        ]


def test_what_starts_a_text_and_what_ends_it(plain):
    token = {name: plain(name).backend.id_to_token for name in chats.FAMILIES}
    assert {n: plain(n).bos and token[n](plain(n).bos) for n in chats.FAMILIES} == {
        "chatml": None,
        "thinking": None,
        "llama3": "<|begin_of_text|>",
        "gemma": "<bos>",
        "zephyr": "<s>",
        "llama2": "<s>",
    }
    assert [token["chatml"](i) for i in plain("chatml").ends] == ["<|im_end|>", "<|endoftext|>"]
    assert [token["gemma"](i) for i in plain("gemma").ends] == ["<eos>", "<end_of_turn>"]
    assert plain("gemma", add_bos_token=False).bos is None


def test_a_prompt_of_no_tokens_has_something_to_predict_from(plain):
    qwen, gemma = plain("chatml"), plain("gemma")
    assert qwen.frame(["", "  ", "the"]) == [[qwen.eos], [qwen.eos], qwen.encode("the")]
    assert gemma.frame([""]) == [[gemma.bos]]


@pytest.mark.parametrize("name", chats.FAMILIES)
def test_a_checkpoints_special_tokens_cannot_be_spelled(plain, name):
    tokenizer = plain(name)
    specials = {t["content"]: t["id"] for t in chats.GOLDEN[name]["tokenizer"]["added_tokens"]}
    for content in specials:
        for text in (content, f"a{content}b", content * 2):
            rows = [tokenizer.encode(text), tokenizer.close(["x"], [text])[0][:-1]]
            assert set(specials.values()).isdisjoint(rows[0] + rows[1])
            assert tokenizer.read("x", rows[1]) == text


def test_an_end_that_is_not_marked_as_special_cannot_be_spelled_either(tmp_path):
    golden = chats.GOLDEN["chatml"]["tokenizer"]
    folder = chats.write(tmp_path, "chatml", chat_template=...)
    added = [{**token, "special": False} for token in golden["added_tokens"]]
    (folder / "tokenizer.json").write_text(json.dumps({**golden, "added_tokens": added}))
    tokenizer = from_checkpoint(folder)
    assert set(tokenizer.ends).isdisjoint(tokenizer.encode("<|im_end|><|endoftext|>"))
    assert tokenizer.decode(tokenizer.encode("<|im_end|>")) == "<|im_end|>"


def test_a_special_token_that_text_must_spell_is_refused():
    """A vocabulary of whole words, one of which ends a text, and nothing for unknown words."""
    backend = tokenizers.Tokenizer(models.WordLevel({"a": 0, "</s>": 1}, unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = Tokenizer(backend, 1, None, 1, None, None, (), Plain())
    assert tokenizer.encode("a a") == [0, 0]
    with pytest.raises(InputError, match=r"text 'a </s>' holds the name of a special token"):
        tokenizer.encode_batch(["a", "a </s>"])


def test_gpt2s_unk_is_its_end_and_is_left_out(plain):
    tokenizer = plain("chatml", unk_token="<|im_end|>")
    assert tokenizer.unk is None
    assert tokenizer.decode([*tokenizer.encode("the"), tokenizer.eos]) == "the"


def test_unused_special_tokens_need_no_row(tmp_path):
    """Gemma 3's text models have fewer rows than their tokenizer has tokens."""
    golden = chats.GOLDEN["gemma"]["tokenizer"]
    size = len(golden["model"]["vocab"])
    picture = {**golden["added_tokens"][0], "content": "<picture>", "id": size}
    more = {**golden, "added_tokens": [*golden["added_tokens"], picture]}
    for template in ({}, {"chat_template": ...}):
        folder = chats.write(tmp_path / str(len(template)), "gemma", **template)
        (folder / "tokenizer.json").write_text(json.dumps(more))
        tokenizer = from_checkpoint(folder)
        assert tokenizer.backend.get_vocab_size() == size + 1
        assert tokenizer.vocab_size == size
        tokenizer.check_fits(size, "model")
        with pytest.raises(InputError, match=rf"model: its tokenizer has ids up to {size - 1} "):
            tokenizer.check_fits(size - 1, "model")
    used = chats.write(tmp_path / "used", "gemma", chat_template="<picture>" + TEMPLATE)
    (used / "tokenizer.json").write_text(json.dumps(more))
    assert from_checkpoint(used).vocab_size == size + 1


TEMPLATE = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}<eos>{% endfor %}"
TEMPLATE += "{% if add_generation_prompt %}a:{% endif %}"


def test_a_template_whose_end_is_not_one_token_is_refused(tmp_path):
    """Special tokens that are looked for after normalisation, which puts a space before them."""
    golden = chats.GOLDEN["llama2"]["tokenizer"]
    template = TEMPLATE.replace("<eos>", "</s>")
    folder = chats.write(tmp_path, "llama2", chat_template=template)
    assert from_checkpoint(folder).eos
    added = [{**token, "normalized": True} for token in golden["added_tokens"]]
    (folder / "tokenizer.json").write_text(json.dumps({**golden, "added_tokens": added}))
    with pytest.raises(InputError, match=r"ends an answer with '</s>', .*set normalized to false"):
        from_checkpoint(folder)


def test_only_sentencepiece_files_say_how_to_convert(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(b"")
    with pytest.raises(InputError, match=r"no tokenizer\.json; .*save_pretrained"):
        from_checkpoint(tmp_path)
    (tmp_path / "tokenizer.json").write_text("[]")
    with pytest.raises(InputError, match=r"tokenizer\.json: not a tokenizer\.json"):
        from_checkpoint(tmp_path)


def test_spec_of_a_folder(tmp_path):
    folder = chats.write(tmp_path / "model", "llama3")
    found = from_spec(str(folder), [])
    assert found.fingerprint == from_checkpoint(folder).fingerprint
    with pytest.raises(InputError, match="checkpoint 'no/such' does not exist"):
        from_spec("no/such", [])


def test_fingerprints_differ_by_frame(plain):
    tokenizer = plain("chatml")
    others = [
        dataclasses.replace(tokenizer, eos=tokenizer.stops[0], stops=(tokenizer.eos,)),
        dataclasses.replace(tokenizer, bos=5),
        dataclasses.replace(tokenizer, layout=None),
        plain("llama3"),
    ]
    assert len({one.fingerprint for one in [tokenizer, *others]}) == 5
    assert dataclasses.replace(tokenizer).fingerprint == tokenizer.fingerprint


# -- one vocabulary ---------------------------------------------------------------------


def with_tokens(folder, change):
    """The golden gemma tokenizer with a changed file, in plain text."""
    folder = chats.write(folder, "gemma", chat_template=...)
    golden = json.loads((folder / "tokenizer.json").read_text())
    change(golden)
    (folder / "tokenizer.json").write_text(json.dumps(golden))
    return from_checkpoint(folder)


def test_the_same_vocabulary_may_differ_in_rules_and_unused_tokens(tmp_path, plain):
    def more(golden):
        size = len(golden["model"]["vocab"])
        golden["added_tokens"].append({**golden["added_tokens"][0], "content": "<n>", "id": size})
        golden["normalizer"] = None

    gemma = plain("gemma")
    other = with_tokens(tmp_path, more)
    assert other.fingerprint != gemma.fingerprint
    same_vocabulary(gemma, other)
    same_vocabulary(other, gemma)
    same_vocabulary(gemma, gemma)


def test_another_vocabulary_says_what_still_works(tmp_path, plain):
    def swap(golden):
        vocab = golden["model"]["vocab"]
        vocab["h"], vocab["e"] = vocab["e"], vocab["h"]

    gemma, other = plain("gemma"), with_tokens(tmp_path, swap)
    vocab = gemma.backend.get_vocab()
    first = min(vocab["h"], vocab["e"])
    names = [repr(t.backend.id_to_token(first)) for t in (gemma, other)]
    with pytest.raises(InputError) as refused:
        same_vocabulary(gemma, other)
    said = str(refused.value)
    assert f"id {first} is {names[0]} to one and {names[1]} to the other" in said
    for offer in ("arm xent", "routers", "cascade evaluate", "another method and not offered"):
        assert offer in said
    assert "\n" not in said


def test_a_larger_vocabulary_is_another_one(tmp_path, plain):
    def longer(golden):
        golden["model"]["vocab"]["zz"] = len(golden["model"]["vocab"])

    gemma, other = plain("gemma"), with_tokens(tmp_path, longer)
    for pair in ((gemma, other), (other, gemma)):
        with pytest.raises(InputError, match=rf"id {gemma.vocab_size} is .*nothing"):
            same_vocabulary(*pair)


# -- a published checkpoint -------------------------------------------------------------


@pytest.mark.shared
def test_a_published_tokenizer_without_our_tokens_is_refused(shared_data):
    path = shared_data / "weights" / "tinystories656K" / "tokenizer.json"
    with pytest.raises(InputError, match="lacks the special tokens <pad> <bos> <eos> <sep>"):
        load(path)


@pytest.mark.shared
def test_a_published_checkpoint_without_template(shared_data):
    """Ids as transformers has them; stories come back as they were."""
    tokenizer = from_checkpoint(shared_data / "weights" / "tinystories656K")
    assert (tokenizer.bos, tokenizer.ends, tokenizer.pad, tokenizer.unk) == (1, (2,), 0, 0)
    assert (tokenizer.vocab_size, tokenizer.layout) == (2048, Plain())
    text = "Once upon a time, there was\n\nTom's dog  ran."
    ids = [80, 147, 201, 282, 215, 248, 197, 3, 3, 380, 228, 401, 80, 494, 10]
    assert tokenizer.frame([text]) == [[1, *ids]]
    with gzip.open(shared_data / "lm_tinystories" / "validation.jsonl.gz", "rt") as lines:
        stories = [json.loads(line)["targets"] for line in lines]
    known = [story for story in stories if tokenizer.unk not in tokenizer.encode(story)]
    assert len(known) > 10
    for story, row in zip(known, tokenizer.close([""] * len(known), known), strict=True):
        assert tokenizer.decode(row) == tokenizer.read("", row) == story
        start, end = story[:40], story[40:]
        (head,), (rest,) = tokenizer.frame([start]), tokenizer.close([start], [end])
        space = "" if start[-1].isspace() else " "
        assert tokenizer.decode(head + rest) == f"{start}{space}{end}"
        assert tokenizer.read(start, rest) == end
