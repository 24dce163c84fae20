"""results page: bAbI (20 reasoning tasks over short stories), three seeds

Command:   cascade run babi --data PATH/TO/babi
           (that folder holds train, validation and test .jsonl or .jsonl.gz)
Hardware:  1 CPU core
"""

from cat.config import Config, DataConfig, EvaluationConfig, ModelConfig, OptimizerConfig
from experiments.study import ROUTERS


def config() -> Config:
    """Words as tokens; stories of at most 64 words."""
    return Config(
        name="babi",
        data=DataConfig(
            task="jsonl",
            tokenizer="words:256",
            metric="exact_match",
            train_size=20000,
            validation_size=2000,
            test_size=4000,
            max_prompt_tokens=64,
            max_response_tokens=8,
        ),
        small=ModelConfig(width=24, layers=2, heads=2, kv_heads=2, head_dim=12, ffn=72),
        large=ModelConfig(width=96, layers=3, heads=4, kv_heads=4, head_dim=24, ffn=288),
        large_train=OptimizerConfig(steps=2500, learning_rate=2e-3),
        base_train=OptimizerConfig(steps=500, learning_rate=4e-3),
        arm_train=OptimizerConfig(steps=1500, learning_rate=4e-3),
        arms=("xent", "dist", "cat_xent", "cat_dist", "random_mask"),
        seeds=(0, 1, 2),
        teacher_topk=16,
        evaluation=EvaluationConfig(routers=ROUTERS),
    )
