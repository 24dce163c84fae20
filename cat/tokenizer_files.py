"""A tokenizer trained here as the files of a checkpoint folder in Hugging Face format."""

from __future__ import annotations

import json

from cat.tokenizers import Tokenizer

TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '<bos>' + message['content'] + '<sep>' }}"
    "{% else %}{{ message['content'] + '<eos>' }}{% endif %}"
    "{% endfor %}"
)
"""The framing of training rows, said as a chat template."""


def files(tokenizer: Tokenizer) -> dict[str, bytes]:
    """Names and contents: vocabulary, special tokens, chat template, the end of a generation.

    ``apply_chat_template`` of ``transformers`` then frames a prompt as in training, and
    ``cat.tokenizers.from_checkpoint`` reads the same framing back.
    """
    special = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
    config = {
        **special,
        "unk_token": "<unk>",
        "add_bos_token": False,  # the template writes it
        "chat_template": TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    ends = {
        "bos_token_id": tokenizer.bos,
        "eos_token_id": tokenizer.eos,
        "pad_token_id": tokenizer.pad,
    }
    return {
        "tokenizer.json": tokenizer.backend.to_str(pretty=True).encode(),
        "tokenizer_config.json": _json(config),
        "special_tokens_map.json": _json({**special, "unk_token": "<unk>"}),
        "generation_config.json": _json(ends),
    }


def _json(values: object) -> bytes:
    return (json.dumps(values, indent=2, sort_keys=True) + "\n").encode()
