"""results page: SCAN (commands to actions), three seeds

Command:   cascade run scan --data PATH/TO/scan
           (that folder holds train, validation and test .jsonl or .jsonl.gz)
Hardware:  1 CPU core
"""

from cat.config import Config, DataConfig, EvaluationConfig, ModelConfig, OptimizerConfig
from experiments.study import ROUTERS


def config() -> Config:
    """Words as tokens; a handful of words, long answers."""
    return Config(
        name="scan",
        data=DataConfig(
            task="jsonl",
            tokenizer="words:64",
            metric="exact_match",
            train_size=32000,
            validation_size=1670,
            test_size=4000,
            max_prompt_tokens=16,
            max_response_tokens=40,
        ),
        small=ModelConfig(width=16, layers=2, heads=2, kv_heads=2, head_dim=8, ffn=48),
        large=ModelConfig(width=64, layers=3, heads=4, kv_heads=4, head_dim=16, ffn=192),
        large_train=OptimizerConfig(steps=2000, learning_rate=2e-3),
        base_train=OptimizerConfig(steps=500, learning_rate=4e-3),
        arm_train=OptimizerConfig(steps=1500, learning_rate=4e-3),
        arms=("xent", "dist", "cat_xent", "cat_dist", "random_mask"),
        seeds=(0, 1, 2),
        teacher_topk=16,
        evaluation=EvaluationConfig(routers=ROUTERS),
    )
