"""results page: a pretrained small model (656K, TinyStories) before a larger one on its vocabulary

Command:   cascade run pretrained --small-checkpoint PATH/TO/tinystories656K --data FOLDER
           (docs/results.md has the script that makes FOLDER: E2E descriptions and stories)
Hardware:  1 CPU core, about an hour
"""

import dataclasses

from cat.config import Config, ModelConfig
from experiments.configs._study import TEXT


def config() -> Config:
    """The large model learns stories too; the arms start from the checkpoint."""
    return dataclasses.replace(
        TEXT,
        name="pretrained",
        data=dataclasses.replace(
            TEXT.data,
            metric="chrf",
            train_size=20_000,
            validation_size=1_000,
            test_size=1_000,
            max_prompt_tokens=112,
            max_response_tokens=72,
        ),
        large=ModelConfig(width=192, layers=6, heads=6, kv_heads=6, head_dim=32, ffn=576),
        large_train=dataclasses.replace(TEXT.large_train, steps=1_200, batch_size=16),
        base_train=dataclasses.replace(
            TEXT.base_train, steps=200, batch_size=16, learning_rate=1e-3
        ),
        arm_train=dataclasses.replace(TEXT.arm_train, steps=400, batch_size=16, learning_rate=1e-3),
    )
