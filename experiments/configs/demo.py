"""the embedded demo: a cascade trained with and without CAT on the generated suite

Command:   cascade run demo
Hardware:  2 CPU cores, about 5 minutes
Expected:  area under the deferral curve with chow_average: xent .536, cat_xent .611,
           random_mask .538, large_handles .270 (one seed; docs/results.md has five)
"""

from cat.config import Config, DataConfig, OptimizerConfig


def config() -> Config:
    """Four arms, one seed: enough to see the effect and the ablation that could explain it away."""
    return Config(
        name="demo",
        data=DataConfig(task="generated", mix="full", validation_size=2_000, test_size=4_000),
        large_train=OptimizerConfig(steps=2_000, learning_rate=4e-3),
        base_train=OptimizerConfig(steps=600),
        arm_train=OptimizerConfig(steps=1_200),
        arms=("xent", "cat_xent", "random_mask", "large_handles"),
        seeds=(0,),
    )
