"""the embedded demo: a cascade trained with and without CAT on the generated suite

Command:   cascade run demo
Hardware:  2 CPU cores, about 5 minutes
Expected:  area under the deferral curve with chow_average, two versions that round sums
           differently: xent .536 and .451, cat_xent .611 and .483, random_mask .538 and .449,
           large_handles .270 and .172 (one seed; docs/results.md has five). The large model
           learns in jumps, .72 and .57 of its answers right in the end: the order of the arms
           stays, their distances do not
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
