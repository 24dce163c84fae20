"""results page: SCAN (commands to actions), three seeds

Command:   cascade run scan --data PATH/TO/scan
           (that folder holds train, validation and test .jsonl or .jsonl.gz)
Hardware:  1 CPU core
"""

import dataclasses

from cat.config import Config, ModelConfig
from experiments.configs._study import TEXT


def config() -> Config:
    """Words as tokens; a handful of words, long answers.

    The simple split: the length split holds out commands that the simple one trains on.
    """
    return dataclasses.replace(
        TEXT,
        name="scan",
        data=dataclasses.replace(
            TEXT.data,
            only=("scan_simple",),
            tokenizer="words:64",
            train_size=16_000,
            validation_size=817,
            test_size=4_000,
            max_prompt_tokens=16,
            max_response_tokens=40,
        ),
        small=ModelConfig(width=16, layers=2, heads=2, kv_heads=2, head_dim=8, ffn=48),
        large=ModelConfig(width=64, layers=3, heads=4, kv_heads=4, head_dim=16, ffn=192),
    )
