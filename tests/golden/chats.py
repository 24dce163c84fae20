"""The golden chats as checkpoint folders, without weights."""

import json
from pathlib import Path
from typing import Any

GOLDEN = json.loads((Path(__file__).with_name("text") / "chat.json").read_text())
FAMILIES = sorted(set(GOLDEN) - {"made_with"})


def write(folder: Path, name: str, **changes: Any) -> Path:
    """The tokenizer files of that family; changes are fields of ``tokenizer_config.json``."""
    golden = GOLDEN[name]
    config = {**golden["tokenizer_config"], **changes}
    files = {
        "tokenizer.json": golden["tokenizer"],
        "tokenizer_config.json": {k: v for k, v in config.items() if v is not ...},
        "generation_config.json": {"eos_token_id": golden["eos_token_id"]},
    }
    folder.mkdir(parents=True, exist_ok=True)
    for file, values in files.items():
        (folder / file).write_text(json.dumps(values))
    return folder
