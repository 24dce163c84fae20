"""Tokenizers and chat templates against ``transformers`` itself, where it is installed."""

import gzip
import json
import random
from types import SimpleNamespace

import pytest
from golden import chats
from golden.chat_families import FAMILIES

from cat.tokenizers import from_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore")  # those of transformers are not ours

LETTERS = "the answr qufmoi  .,?\n\n\t-0123456789éß漢🙂<>|/[]{}'\""


@pytest.fixture(scope="module")
def theirs():
    """transformers, and the functions that wrote the golden file."""
    transformers = pytest.importorskip("transformers")
    from golden import make_chat_goldens

    return SimpleNamespace(lib=transformers, make=make_chat_goldens)


def texts(seed, count):
    draw = random.Random(seed)
    lengths = [draw.randint(0, 30) for _ in range(count)]
    return ["".join(draw.choice(LETTERS) for _ in range(n)) for n in lengths]


def fast(theirs, folder, **changes):
    """The folder's tokenizer in transformers, without a class that rebuilds it."""
    config = json.loads((folder / "tokenizer_config.json").read_text())
    named = {key: value for key, value in config.items() if isinstance(value, str)}
    file = str(folder / "tokenizer.json")
    return theirs.lib.PreTrainedTokenizerFast(tokenizer_file=file, **named, **changes)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_golden_turns_are_what_it_says_today(theirs, name):
    assert json.loads(json.dumps(theirs.make.make(name))) == chats.GOLDEN[name]


@pytest.mark.parametrize("name", FAMILIES)
def test_random_turns(theirs, name, tmp_path):
    folder = chats.write(tmp_path, name)
    ours, tokenizer = from_checkpoint(folder), fast(theirs, folder)
    prompts, answers = texts(1, 200), texts(2, 200)
    framed, closed = ours.frame(prompts), ours.close(prompts, answers)
    equal = 0
    for prompt, answer, ids, response in zip(prompts, answers, framed, closed, strict=True):
        turn = theirs.make.turn(tokenizer, prompt, answer)
        assert ids == turn["prompt_ids"]
        melted = turn["ids"][: len(ids)] != ids
        assert melted or turn["ids"][len(ids) : len(ids) + len(response)] == response
        text = tokenizer.decode(ids + response, skip_special_tokens=False)
        assert text == tokenizer.decode(turn["ids"], skip_special_tokens=False).rstrip()
        equal += not melted
    assert equal > 150  # answers that start with a newline may melt into the prompt's


@pytest.mark.parametrize("name", FAMILIES)
def test_plain_text_starts_as_it_does_there(theirs, name, tmp_path):
    folder = chats.write(tmp_path, name, chat_template=...)
    ours, tokenizer = from_checkpoint(folder), fast(theirs, folder)
    prompts = [text.rstrip(" ") for text in texts(3, 100)]
    for prompt, ids in zip(prompts, ours.frame(prompts), strict=True):
        assert ids == (tokenizer(prompt)["input_ids"] or [ours.eos])


@pytest.mark.shared
def test_tinystories_656k(theirs, shared_data, monkeypatch):
    """Ids and texts of real stories, as its own class in transformers has them."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = shared_data / "weights" / "tinystories656K"
    ours = from_checkpoint(folder)
    tokenizer = theirs.lib.AutoTokenizer.from_pretrained(folder)
    path = shared_data / "lm_tinystories" / "validation.jsonl.gz"
    with gzip.open(path, "rt") as lines:
        stories = [json.loads(line)["targets"] for line in lines]
    known = [story for story in stories if ours.unk not in ours.encode(story)]
    assert len(known) > 10
    for story, ids in zip(known, ours.frame(known), strict=True):
        assert ids == tokenizer(story)["input_ids"]
        assert ours.decode(ids) == tokenizer.decode(ids, skip_special_tokens=True) == story
