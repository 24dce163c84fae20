"""What frames a text in checkpoints of many makers, and files that do not belong together."""

import json

import pytest
import tokenizers
from tokenizers import AddedToken, models, processors

from cat import special_tokens
from cat.special_tokens import SpecialTokens
from routers.errors import InputError

SPECIALS = ["<pad>", "<s>", "</s>", "<end>", "<unk>"]


def backend(*, before: str = "", after: str = "") -> tokenizers.Tokenizer:
    """Letters a and b; its own framing if asked."""
    made = tokenizers.Tokenizer(models.BPE({"a": 0, "b": 1}, []))
    made.add_special_tokens(SPECIALS)
    if before or after:
        used = [(token, made.token_to_id(token)) for token in (before, after) if token]
        single = " ".join(filter(None, [before, "$A", after]))
        made.post_processor = processors.TemplateProcessing(single=single, special_tokens=used)
    return made


PAD, BOS, EOS, END, UNK = range(2, 7)


def read(folder, made, tokenizer_config=None, **files):
    for name, values in files.items():
        (folder / f"{name}.json").write_text(json.dumps(values))
    return special_tokens.read(folder, made, tokenizer_config or {})


def test_all_named(tmp_path):
    names = {f"{n}_token": f"<{n}>" for n in ("pad", "unk")}
    found = read(
        tmp_path,
        backend(before="<s>"),
        {**names, "bos_token": "<s>", "eos_token": "</s>"},
        generation_config={"eos_token_id": [END, EOS]},
    )
    variables = {**names, "bos_token": "<s>", "eos_token": "</s>"}
    assert found == SpecialTokens(BOS, (EOS, END), PAD, UNK, variables)


@pytest.mark.parametrize(
    ("framing", "wish", "expected"),
    [
        ({"before": "<s>"}, ..., BOS),  # Llama 3: tokenizer.json does it
        ({"before": "<s>", "after": "</s>"}, ..., BOS),
        ({"after": "</s>"}, ..., None),
        ({}, ..., None),  # GPT-2, OLMo, SmolLM: named, but not put before a text
        ({}, True, BOS),  # Gemma, Llama 2: the configuration says so
        ({"before": "<s>"}, False, None),  # Qwen
        ({"before": "<s>"}, None, BOS),
    ],
)
def test_what_a_text_starts_with(tmp_path, framing, wish, expected):
    config = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": wish}
    config = {key: value for key, value in config.items() if value is not ...}
    assert read(tmp_path, backend(**framing), config).bos == expected


def test_a_bos_id_of_the_model_alone_starts_nothing(tmp_path):
    """Qwen's config.json names one that its tokenizer never uses."""
    found = read(tmp_path, backend(), {"eos_token": "</s>"}, config={"bos_token_id": BOS})
    assert found.bos is None
    assert "bos_token" not in found.variables


@pytest.mark.parametrize(
    ("token", "generation", "config", "expected"),
    [
        ("</s>", None, None, (EOS,)),
        ("</s>", END, None, (EOS, END)),
        ("</s>", [END, EOS, END], None, (EOS, END)),
        ("</s>", END, PAD, (EOS, END)),  # generation_config.json counts before config.json
        (None, END, None, (END,)),
        (None, None, [EOS, END], (EOS, END)),
        ({"content": "</s>", "lstrip": False}, None, None, (EOS,)),
    ],
)
def test_what_ends_a_text(tmp_path, token, generation, config, expected):
    files = {"generation_config": generation, "config": config}
    files = {name: {"eos_token_id": v} for name, v in files.items() if v is not None}
    assert read(tmp_path, backend(), {"eos_token": token}, **files).ends == expected


def test_without_an_end_it_says_where_to_name_one(tmp_path):
    with pytest.raises(InputError, match="no file names the token that ends a text"):
        read(tmp_path, backend(), {}, config={"eos_token_id": None})


@pytest.mark.parametrize(
    ("config", "pad", "unk"),
    [
        ({}, EOS, None),  # Llama: no pad
        ({"pad_token": "<pad>"}, PAD, None),
        ({"pad_token": "a"}, EOS, None),  # text, which must stay visible
        ({"pad_token": "<unk>", "unk_token": "<unk>"}, UNK, UNK),  # TinyStories 656K
        ({"unk_token": "</s>", "pad_token": "</s>"}, EOS, None),  # GPT-2
        ({"unk_token": "<s>", "add_bos_token": True, "bos_token": "<s>"}, EOS, None),
    ],
)
def test_pad_and_unk(tmp_path, config, pad, unk):
    found = read(tmp_path, backend(), {"eos_token": "</s>", **config})
    assert (found.pad, found.unk) == (pad, unk)


def test_the_map_of_old_checkpoints_counts_where_the_configuration_is_silent(tmp_path):
    old = {"eos_token": {"content": "<end>"}, "bos_token": "<s>"}
    found = read(tmp_path, backend(), {"bos_token": "</s>"}, special_tokens_map=old)
    assert found.variables == {"bos_token": "</s>", "eos_token": "<end>"}
    assert found.ends == (END,)


@pytest.mark.parametrize(
    ("config", "files", "reason"),
    [
        ({"eos_token": "<|im_end|>"}, {}, "eos_token '<|im_end|>' is no token of tokenizer"),
        ({"eos_token": {"id": 3}}, {}, "eos_token 'None' is no token"),
        ({}, {"config": {"eos_token_id": 128001}}, r"config\.json: eos_token_id 128001 is no"),
        ({}, {"config": {"eos_token_id": -1}}, "eos_token_id -1 is no token"),
        ({}, {"generation_config": {"eos_token_id": [EOS, "3"]}}, "eos_token_id 3 is no token"),
        ({}, {"generation_config": [1]}, r"generation_config\.json: not a JSON object"),
    ],
)
def test_files_of_another_checkpoint_are_refused(tmp_path, config, files, reason):
    with pytest.raises(InputError, match=reason.replace("|", r"\|")) as refused:
        read(tmp_path, backend(), config, **files)
    assert str(tmp_path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_broken_json_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json: not JSON .*download it again"):
        special_tokens.optional_json(tmp_path, "config.json")
    assert special_tokens.optional_json(tmp_path, "none.json") == {}


def test_names_and_tokens(tmp_path):
    made = backend()
    made.add_tokens([AddedToken("<tool>", special=False)])
    made.add_special_tokens([AddedToken("<n>", normalized=True)])
    assert special_tokens.names(made) == {**dict(zip(SPECIALS, range(2, 7), strict=True)), "<n>": 8}
    everything = ["a", "b", *SPECIALS, "<tool>", "<n>"]
    assert special_tokens.tokens(made) == dict(enumerate(everything))


def test_a_folder_without_tokenizer_json_says_how_to_make_one(tmp_path):
    with pytest.raises(InputError, match=r"checkpoint '.*none' does not exist"):
        special_tokens.file_of(tmp_path / "none")
    (tmp_path / "tokenizer.model").write_bytes(b"\n")
    with pytest.raises(InputError, match=r"no tokenizer\.json; .*AutoTokenizer.*save_pretrained"):
        special_tokens.file_of(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    assert special_tokens.file_of(tmp_path) == tmp_path / "tokenizer.json"
