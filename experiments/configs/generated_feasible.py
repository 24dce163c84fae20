"""results page: the generated suite, mix `feasible`, all arms and ablations, five seeds

Command:   cascade run generated_feasible
Hardware:  1 CPU core
"""

from cat.config import ARMS, Config, DataConfig, EvaluationConfig, OptimizerConfig
from experiments.study import ROUTERS


def config() -> Config:
    """Every arm at equal steps, data order, learning rate and seeds."""
    return Config(
        name="generated_feasible",
        data=DataConfig(task="generated", mix="feasible", validation_size=5_000, test_size=4_000),
        large_train=OptimizerConfig(steps=3_000, learning_rate=3e-3),
        base_train=OptimizerConfig(steps=1_000),
        arm_train=OptimizerConfig(steps=1_500),
        arms=tuple(ARMS),
        seeds=(0, 1, 2, 3, 4),
        teacher_topk=16,
        evaluation=EvaluationConfig(routers=ROUTERS),
    )
