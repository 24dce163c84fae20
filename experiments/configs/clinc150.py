"""results page: CLINC150 (150 intents and out-of-scope), three seeds

Command:   cascade run clinc150 --data PATH/TO/clinc150
           (that folder holds train, validation and test .jsonl or .jsonl.gz)
Hardware:  1 CPU core
"""

import dataclasses

from cat.config import Config
from experiments.configs._study import TEXT


def config() -> Config:
    """Words as tokens, rare ones unknown."""
    return dataclasses.replace(
        TEXT,
        name="clinc150",
        data=dataclasses.replace(
            TEXT.data,
            tokenizer="words:2000",
            train_size=20_000,
            validation_size=3_100,
            test_size=5_500,
            max_prompt_tokens=24,
            max_response_tokens=8,
        ),
    )
