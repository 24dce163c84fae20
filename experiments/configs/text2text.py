"""your own text-to-text JSONL: cascade run text2text --data my.jsonl --name mine

Rows are {"task", "split", "inputs", "targets", "choices"?}; see docs/data.md.
Hardware:  2 CPU cores take minutes for short texts; any GPU or TPU that JAX sees is used.
"""

from cat.config import Config, DataConfig, ModelConfig, OptimizerConfig


def config() -> Config:
    """Word pieces learned from the training split; a small and a large decoder from scratch."""
    return Config(
        name="text2text",
        data=DataConfig(
            task="jsonl",
            tokenizer="bpe:1000",
            train_size=100_000,
            validation_size=2_000,
            test_size=2_000,
            max_prompt_tokens=64,
            max_response_tokens=48,
        ),
        small=ModelConfig(width=32, layers=2, heads=2, kv_heads=2, head_dim=16, ffn=96),
        large=ModelConfig(width=128, layers=4, heads=4, kv_heads=4, head_dim=32, ffn=384),
        large_train=OptimizerConfig(steps=3_000, learning_rate=2e-3),
        base_train=OptimizerConfig(steps=1_000, learning_rate=4e-3),
        arm_train=OptimizerConfig(steps=2_000, learning_rate=4e-3),
        arms=("xent", "cat_xent", "random_mask"),
        seeds=(0,),
    )
