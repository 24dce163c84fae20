"""results page: Tatoeba English to German, three seeds

Command:   cascade run tatoeba_en_de --data PATH/TO/tatoeba_en_de
           (that folder holds train, validation and test .jsonl or .jsonl.gz)
Hardware:  1 CPU core
"""

from cat.config import Config, DataConfig, EvaluationConfig, ModelConfig, OptimizerConfig
from experiments.study import ROUTERS


def config() -> Config:
    """Word pieces; quality is sentence chrF."""
    return Config(
        name="tatoeba_en_de",
        data=DataConfig(
            task="jsonl",
            tokenizer="bpe:1000",
            metric="chrf",
            train_size=60000,
            validation_size=2000,
            test_size=2000,
            max_prompt_tokens=32,
            max_response_tokens=24,
        ),
        small=ModelConfig(width=24, layers=2, heads=2, kv_heads=2, head_dim=12, ffn=72),
        large=ModelConfig(width=128, layers=3, heads=4, kv_heads=4, head_dim=32, ffn=384),
        large_train=OptimizerConfig(steps=3000, learning_rate=2e-3),
        base_train=OptimizerConfig(steps=500, learning_rate=4e-3),
        arm_train=OptimizerConfig(steps=1500, learning_rate=4e-3),
        arms=("xent", "dist", "cat_xent", "cat_dist", "random_mask"),
        seeds=(0, 1, 2),
        teacher_topk=16,
        evaluation=EvaluationConfig(routers=ROUTERS),
    )
