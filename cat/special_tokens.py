"""Which tokens frame a text, as the files of a checkpoint say."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import tokenizers

from routers.errors import InputError

TOKENIZER = "tokenizer.json"
_NAMES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


@dataclasses.dataclass(frozen=True)
class SpecialTokens:
    """Ids of a checkpoint's special tokens.

    Args:
        bos: what its tokenizer puts before a text; None = nothing (Qwen), even where
            ``config.json`` names an id.
        ends: ids that end a response, the tokenizer's own first.
        pad: the tokenizer's if it is a special token, else the first of ``ends`` (our choice:
            pads are masked, so that any id serves).
        unk: what stands for text it cannot spell; None for bytes.
        variables: ``bos_token`` and its like, for chat templates.
    """

    bos: int | None
    ends: tuple[int, ...]
    pad: int
    unk: int | None
    variables: dict[str, str]


def read(
    folder: Path, backend: tokenizers.Tokenizer, tokenizer_config: dict[str, Any]
) -> SpecialTokens:
    """From ``tokenizer_config.json``, ``special_tokens_map.json`` and ``generation_config.json``.

    Raises:
        InputError: a token or id that the tokenizer does not have, or no token that ends a text.
    """
    named = {**optional_json(folder, "special_tokens_map.json"), **tokenizer_config}
    keys = [f"{name}_token" for name in _NAMES]
    variables = {key: _content(named[key]) for key in keys if named.get(key)}
    ids = {key: _id(folder, backend, key, name) for key, name in variables.items()}
    ends = [*([ids["eos_token"]] if "eos_token" in ids else []), *_listed_ends(folder, backend)]
    if not ends:
        raise InputError(
            f"{folder}: no file names the token that ends a text; add eos_token to "
            "tokenizer_config.json"
        )
    bos = _before(backend, tokenizer_config.get("add_bos_token"), ids.get("bos_token"))
    unique = tuple(dict.fromkeys(ends))
    pad, unk = ids.get("pad_token", unique[0]), ids.get("unk_token")
    return SpecialTokens(
        bos=bos,
        ends=unique,
        pad=pad if pad in names(backend).values() else unique[0],
        # GPT-2 names its end of text as unk too, though bytes spell everything.
        unk=None if unk in (bos, *unique) else unk,
        variables=variables,
    )


def mark(backend: tokenizers.Tokenizer, found: SpecialTokens) -> None:
    """Make what starts and ends a text special: some files leave it a token that text can spell."""
    known, named = names(backend).values(), tokens(backend)
    ids = [i for i in (found.bos, *found.ends) if i is not None and i not in known]
    backend.add_special_tokens([named[i] for i in ids])


def names(backend: tokenizers.Tokenizer) -> dict[str, int]:
    """The special tokens of a tokenizer and their ids."""
    added = backend.get_added_tokens_decoder()
    return {token.content: i for i, token in added.items() if token.special}


def tokens(backend: tokenizers.Tokenizer) -> dict[int, str]:
    """Every token by its id; the library's own look-up shows some after normalisation."""
    added = backend.get_added_tokens_decoder()
    pieces = {i: piece for piece, i in backend.get_vocab(with_added_tokens=False).items()}
    return pieces | {i: token.content for i, token in added.items()}


def file_of(folder: Path) -> Path:
    """The ``tokenizer.json`` of a checkpoint.

    Raises:
        InputError: there is none.
    """
    path = folder / TOKENIZER
    if not folder.is_dir():
        raise InputError(f"checkpoint '{folder}' does not exist; give a folder with a {TOKENIZER}")
    if not path.is_file():
        raise InputError(
            f"{folder}: no {TOKENIZER}; where transformers is installed, write one from its other "
            f"files: transformers.AutoTokenizer.from_pretrained('{folder}')"
            f".save_pretrained('{folder}')"
        )
    return path


def optional_json(folder: Path, name: str) -> dict[str, Any]:
    """A JSON file of a checkpoint, empty where there is none.

    Raises:
        InputError: not a JSON object.
    """
    path = folder / name
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}); download it again") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: not a JSON object; download it again")
    return values


def _before(backend: tokenizers.Tokenizer, wish: bool | None, bos: int | None) -> int | None:
    """What a text starts with: as ``add_bos_token`` says, else as tokenizer.json does it."""
    if wish is not None:
        return bos if wish else None
    encoded = backend.encode("a")
    first = encoded.special_tokens_mask[:1] == [1]  # put there by the post-processor
    return encoded.ids[0] if first else None


def _listed_ends(folder: Path, backend: tokenizers.Tokenizer) -> list[int]:
    """``eos_token_id``, one or several, of the generation configuration, else the model's."""
    for file in ("generation_config.json", "config.json"):
        given = optional_json(folder, file).get("eos_token_id")
        if given is None:
            continue
        ids = given if isinstance(given, list) else [given]
        for number in ids:
            if not isinstance(number, int) or number < 0 or backend.id_to_token(number) is None:
                raise InputError(
                    f"{folder / file}: eos_token_id {number} is no token of {TOKENIZER}; are "
                    "the two of one checkpoint?"
                )
        return ids
    return []


def _id(folder: Path, backend: tokenizers.Tokenizer, key: str, name: str) -> int:
    found = backend.token_to_id(name)
    if found is None:
        raise InputError(
            f"{folder}: {key} '{name}' is no token of {TOKENIZER}; are the files of one checkpoint?"
        )
    return found


def _content(token: Any) -> str:
    """A token is its name, or an object that holds it."""
    return str(token.get("content") if isinstance(token, dict) else token)
