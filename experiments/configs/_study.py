"""What the experiments of the results page have in common; each file says what differs."""

from cat.config import ARMS, Config, DataConfig, EvaluationConfig, ModelConfig, OptimizerConfig

ROUTERS = (
    "length",
    "chow_sum",
    "chow_average",
    "chow_quantile:alpha=0",
    "edge_inference",
    "cat_router",
    "post_hoc:learner=booster",
)

GENERATED = Config(
    data=DataConfig(task="generated", validation_size=5_000, test_size=4_000),
    large_train=OptimizerConfig(steps=3_000, learning_rate=3e-3),
    base_train=OptimizerConfig(steps=1_000),
    arm_train=OptimizerConfig(steps=1_500),
    arms=tuple(ARMS),
    seeds=(0, 1, 2, 3, 4),
    teacher_topk=16,
    evaluation=EvaluationConfig(routers=ROUTERS),
)
"""Every arm and ablation at equal steps, data order, learning rate and seeds."""

TEXT = Config(
    data=DataConfig(task="jsonl"),
    small=ModelConfig(width=24, layers=2, heads=2, kv_heads=2, head_dim=12, ffn=72),
    large=ModelConfig(width=96, layers=3, heads=4, kv_heads=4, head_dim=24, ffn=288),
    large_train=OptimizerConfig(steps=2_000, learning_rate=2e-3),
    base_train=OptimizerConfig(steps=500, learning_rate=4e-3),
    arm_train=OptimizerConfig(steps=1_500, learning_rate=4e-3),
    arms=("xent", "dist", "cat_xent", "cat_dist", "random_mask"),
    seeds=(0, 1, 2),
    teacher_topk=16,
    evaluation=EvaluationConfig(routers=ROUTERS),
)
"""A data set of short texts: the arms of the paper and the ablation, three seeds."""
