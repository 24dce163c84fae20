"""Write ``text/chat.json`` again, with transformers: what its ``apply_chat_template`` gives.

    python tests/golden/make_chat_goldens.py

The tiny tokenizers are stored within. A file that comes out as it was shows no difference in git.
"""

import json
import sys
from pathlib import Path
from typing import Any

import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from golden.chat_families import FAMILIES, TURNS


def turn(tokenizer: Any, prompt: str, answer: str) -> dict[str, Any]:
    """One prompt alone and with its answer: text, ids, and the mask of what the assistant wrote."""
    user = [{"role": "user", "content": prompt}]
    both = [*user, {"role": "assistant", "content": answer}]
    how = dict(tokenize=True, return_dict=True)
    whole = tokenizer.apply_chat_template(both, return_assistant_tokens_mask=True, **how)
    return {
        "prompt": prompt,
        "answer": answer,
        "prompt_text": tokenizer.apply_chat_template(
            user, tokenize=False, add_generation_prompt=True
        ),
        "text": tokenizer.apply_chat_template(both, tokenize=False),
        "prompt_ids": tokenizer.apply_chat_template(user, add_generation_prompt=True, **how)[
            "input_ids"
        ],
        "ids": whole["input_ids"],
        "mask": whole["assistant_masks"],
    }


def make(name: str) -> dict[str, Any]:
    family = FAMILIES[name]
    backend = family["tokenizer"]()
    config = family["config"]
    named = {key: value for key, value in config.items() if key.endswith("_token")}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=family["template"],
        **{key: value for key, value in named.items() if isinstance(value, str)},
    )
    return {
        "tokenizer": json.loads(backend.to_str()),
        "tokenizer_config": {**config, "chat_template": family["template"]},
        "eos_token_id": [backend.token_to_id(token) for token in family["eos"]],
        "turns": [turn(tokenizer, prompt, answer) for prompt, answer in TURNS],
    }


if __name__ == "__main__":
    about = {"made_with": {"transformers": transformers.__version__}}
    about |= {name: make(name) for name in FAMILIES}
    text = json.dumps(about, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    (Path(__file__).with_name("text") / "chat.json").write_text(text.replace('},"', '},\n"') + "\n")
    print(f"chat.json: {', '.join(FAMILIES)}, {len(text):,} bytes")
