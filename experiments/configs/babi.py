"""results page: bAbI (20 reasoning tasks over short stories), three seeds

Command:   cascade run babi --data PATH/TO/babi
           (that folder holds train, validation and test .jsonl or .jsonl.gz)
Hardware:  1 CPU core
"""

import dataclasses

from cat.config import Config
from experiments.configs._study import TEXT


def config() -> Config:
    """Words as tokens; stories of at most 64 words."""
    return dataclasses.replace(
        TEXT,
        name="babi",
        data=dataclasses.replace(
            TEXT.data,
            tokenizer="words:256",
            train_size=20_000,
            validation_size=2_000,
            test_size=4_000,
            max_prompt_tokens=64,
            max_response_tokens=8,
        ),
        large_train=dataclasses.replace(TEXT.large_train, steps=2_500),
    )
