"""pre-training with CAT on running text (eleven English novels), every token a target

Command:   cascade run pretraining --data.path PATH/TO/lm_gutenberg
           (that folder holds train, validation and test .jsonl or .jsonl.gz, ``inputs`` empty)
Hardware:  1 CPU core, about 5 minutes
Expected:  bits per character of 500 test passages (printed, and in summary.json), one seed: xent
           2.49, cat_xent 3.91, random_mask 2.63, large 2.16; tokens whose argmax is right: .186,
           .204, .148, .275 (docs/training.md says how they are counted).
           CAT learns more of what can be known and nothing of the rest, a third of the tokens
           kept. Quality (chrF .117, .105, .117, .116) says nothing yet of a cascade.
"""

from cat.config import Config, DataConfig, EvaluationConfig, ModelConfig, OptimizerConfig

PACKED = 128


def config() -> Config:
    """512 pieces; rows of 128 tokens; passages of at most 95 characters continued by 30."""
    return Config(
        name="pretraining",
        data=DataConfig(
            task="text",
            running_text=True,
            pack=PACKED,
            metric="chrf",
            tokenizer="bpe:512",
            train_size=1_000,
            validation_size=500,
            test_size=500,
            max_prompt_tokens=PACKED - 32,
            max_response_tokens=32,
        ),
        small=ModelConfig(width=32, layers=2, heads=2, kv_heads=2, head_dim=16, ffn=96),
        large=ModelConfig(width=96, layers=4, heads=4, kv_heads=4, head_dim=24, ffn=288),
        large_train=OptimizerConfig(steps=500, batch_size=16, learning_rate=3e-3),
        base_train=OptimizerConfig(steps=200, batch_size=16, learning_rate=4e-3),
        arm_train=OptimizerConfig(steps=500, batch_size=16, learning_rate=4e-3),
        arms=("xent", "cat_xent", "random_mask"),
        seeds=(0,),
        evaluation=EvaluationConfig(
            routers=("length", "chow_sum", "chow_average", "chow_quantile:alpha=0")
        ),
    )
