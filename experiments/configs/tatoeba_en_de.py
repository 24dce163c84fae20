"""results page: Tatoeba English to German, three seeds

Command:   cascade run tatoeba_en_de --data PATH/TO/tatoeba_en_de
           (that folder holds train, validation and test .jsonl or .jsonl.gz)
Hardware:  1 CPU core
"""

import dataclasses

from cat.config import Config, ModelConfig
from experiments.configs._study import TEXT


def config() -> Config:
    """Word pieces; quality is sentence chrF."""
    return dataclasses.replace(
        TEXT,
        name="tatoeba_en_de",
        data=dataclasses.replace(
            TEXT.data,
            tokenizer="bpe:1000",
            metric="chrf",
            train_size=60_000,
            validation_size=2_000,
            test_size=2_000,
            max_prompt_tokens=32,
            max_response_tokens=24,
        ),
        large=ModelConfig(width=128, layers=3, heads=4, kv_heads=4, head_dim=32, ffn=384),
        large_train=dataclasses.replace(TEXT.large_train, steps=3_000),
    )
