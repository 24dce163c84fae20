"""results page: the generated suite, mix `full`, all arms and ablations, five seeds

Command:   cascade run generated_full
Hardware:  1 CPU core
"""

import dataclasses

from cat.config import Config
from experiments.configs._study import GENERATED


def config() -> Config:
    """Every arm at equal steps, data order, learning rate and seeds."""
    return dataclasses.replace(
        GENERATED,
        name="generated_full",
        data=dataclasses.replace(GENERATED.data, mix="full"),
    )
