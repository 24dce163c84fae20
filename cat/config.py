"""The configuration tree of an experiment; the only place with defaults.

A run is a function of this tree. Every field can be overridden on the command line by its
dotted name (``--train.steps 500``); the resolved tree is saved as ``config.json``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any, Literal, get_type_hints

import numpy as np

from cat.models.config import ModelConfig, check_model, off
from routers.errors import InputError, did_you_mean
from routers.fields import replace_fields

LossName = Literal["cross_entropy", "distill", "gatekeeper", "hand_over"]
"""Functions of cat/losses.py."""


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which examples, and how they become tokens."""

    task: str = "generated"  # a file of cat/tasks, e.g. generated, jsonl, tfds, text
    mix: str = "full"  # generated: full | feasible (no hopeless families)
    path: str = ""  # jsonl, text: a .jsonl[.gz] file or a folder of them
    tfds: str = ""  # tfds: dataset name, e.g. super_glue/boolq
    only: tuple[str, ...] = ()  # use just these tasks of the data; none named = all
    metric: str = "exact_match"  # exact_match | f1 | chrf | bleu; quality in [0, 1]
    tokenizer: str = "characters"  # or bytes, words:N, bpe:N, a path (with /)
    train_size: int = 40_000  # examples used at most
    validation_size: int = 2_000
    test_size: int = 4_000
    max_prompt_tokens: int = 32  # longer examples are left out, counted and reported
    max_response_tokens: int = 16  # EOS included; also the generation limit
    pack: int = off(0)  # tokens of a training row of several examples; 0 = one example a row
    running_text: bool = off(False)  # train on prompt and target as one text, every token counted
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with linear warm-up and a cosine to ``final_fraction`` of the peak."""

    steps: int = 2_000
    batch_size: int = 64
    learning_rate: float = 4e-3
    warmup_steps: int = 50
    final_fraction: float = 0.1
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    accumulate: int = off(1)  # parts a batch is cut into, one after another; the same result
    steps_per_dispatch: int = 25  # optimiser steps per compiled call
    checkpoint_every: int = 500
    seed: int = 0
    on_nan: Literal["stop", "skip"] = off("stop")  # skip: leave such a step out, 19 in a row
    validate_every: int = off(0)  # steps between validation losses; 0 = never
    select: Literal["last", "best"] = off("last")  # best: parameters of the least of them
    patience: int = off(0)  # validations without a new least one that end training; 0 = none do


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters in place of full fine-tuning; merged into the weights when loaded."""

    rank: int = 0  # 0 = no adapters, every parameter is trained
    alpha: float = 16.0  # the update is alpha / rank times A B
    modules: str = "attention|ffn"  # regular expression of module names


@dataclasses.dataclass(frozen=True)
class ArmConfig:
    """One way to fine-tune the small model: a loss and a token mask, both by name."""

    loss: LossName = "cross_entropy"
    mask: str = "all"  # which tokens count: a name or an expression of cat/masks.py
    label_weight: float = 0.5  # distill: w of w * CE + (1 - w) * CE to the teacher
    temperature: float = 1.0  # distill: of both distributions
    correct_weight: float = 0.5  # gatekeeper, hand_over: a of a * CE, (1 - a) * KL to uniform
    teacher: Literal["stored", "live"] = "stored"
    denominator: Literal["tokens", "kept"] = "tokens"
    mask_temperature: float = off(0.0)  # 0 = hits; else of the probability of being right
    mask_warmup: int = off(0)  # steps over which the mask comes into force, linearly


ARMS: dict[str, ArmConfig] = {
    "xent": ArmConfig(),
    "dist": ArmConfig(loss="distill"),
    "cat_xent": ArmConfig(mask="either_hit"),
    "cat_dist": ArmConfig(loss="distill", mask="either_hit"),
    "gatekeeper": ArmConfig(loss="gatekeeper"),
    "large_handles": ArmConfig(mask="large_handles"),
    "random_mask": ArmConfig(mask="random_like"),
    "large_hit": ArmConfig(mask="large_hit"),
    "small_hit": ArmConfig(mask="small_hit"),
    "both_hit": ArmConfig(mask="both_hit"),
    "cat_frozen": ArmConfig(mask="before | large"),
    "cat_soft": ArmConfig(mask="either_hit", mask_temperature=1.0),
    "cat_gatekeeper": ArmConfig(loss="hand_over", mask="either_hit"),
}
"""The arms by name; ``Config.arms`` chooses among them."""


def arm(name: str) -> ArmConfig:
    """The arm of that name, with fields changed as in ``dist:label_weight=0.25``.

    >>> arm("cat_xent").mask, arm("dist:label_weight=0.25").label_weight
    ('either_hit', 0.25)
    """
    base, _, changes = name.partition(":")
    if base not in ARMS:
        raise InputError(f"unknown arm '{base}'; {did_you_mean(base, list(ARMS))}")
    return replace_fields(ARMS[base], changes)


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """Routers and statistics of the report."""

    routers: tuple[str, ...] = (
        "length",
        "chow_sum",
        "chow_average",
        "chow_quantile:alpha=0",
        "entropy",
        "margin",
        "edge_inference",
        "cat_router",
        "post_hoc:learner=booster",
        "post_hoc:learner=mlp",
        "prompt",
    )
    topk: int = 10  # largest log-probabilities stored per response token
    batch_size: int = 256
    bootstrap: int = 1_000
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis (docs/training.md); one may be -1: all that are left."""

    data: int = -1  # copies of the parameters, each with its rows of a batch
    fsdp: int = 1  # parts of one copy, which also have their own rows
    tensor: int = 1  # parts of heads, feed-forward width and vocabulary


@dataclasses.dataclass(frozen=True)
class Config:
    """One experiment, whole."""

    name: str = "demo"
    data: DataConfig = DataConfig()
    small: ModelConfig = ModelConfig(width=16, layers=2, heads=2, kv_heads=2, head_dim=8, ffn=48)
    large: ModelConfig = ModelConfig()
    small_checkpoint: str = off("")  # folder in Hugging Face format: its sizes, weights, tokenizer
    large_int8: bool = off(False)  # the trained large model answers and teaches in 8-bit weights
    mesh: MeshConfig = off(MeshConfig())  # how devices are used; the numbers stay the same
    lora: LoraConfig = off(LoraConfig())  # of the small model, in its base training and the arms
    large_checkpoint: str = off("")  # the same for the large model; both must share a vocabulary
    large_train: OptimizerConfig = OptimizerConfig(steps=3_000)
    base_train: OptimizerConfig = OptimizerConfig(steps=1_000)  # small: shared start of all arms
    arm_train: OptimizerConfig = OptimizerConfig(steps=2_500)
    arms: tuple[str, ...] = ("xent", "cat_xent")
    seeds: tuple[int, ...] = (0,)
    teacher_topk: int = 0  # stored teacher: 0 = the hit bit only; V = whole distribution
    evaluation: EvaluationConfig = EvaluationConfig()
    track: tuple[str, ...] = off(())  # tensorboard, wandb: log lines go there, too
    profile: str = off("")  # first and last step to trace in each training run, e.g. 10:15

    def check(self) -> None:
        """Raise InputError for values that cannot run, before anything is written."""
        counts = ("steps", "batch_size", "steps_per_dispatch", "checkpoint_every")
        given = {"base_train": self.small_checkpoint, "large_train": self.large_checkpoint}
        for name in ("large_train", "base_train", "arm_train"):
            least = dict.fromkeys(counts, 1) | {"seed": 0}
            least |= {"steps": 0} if given.get(name) else {}  # 0 = the checkpoint as it is
            least |= {"validate_every": 0, "patience": 0}
            _at_least(getattr(self, name), name, least)
            check_selection(getattr(self, name), name)
            _check_parts(name, getattr(self, name))
        least = {"topk": 2, "batch_size": 1, "bootstrap": 0, "seed": 0}
        _at_least(self.evaluation, "evaluation", least)
        _at_least(self, "", {"teacher_topk": 0})
        _at_least(self.data, "data", {"pack": 0})
        _at_least(self.lora, "lora", {"rank": 0})
        if self.lora.rank and not self.small_checkpoint:
            raise InputError(
                f"lora.rank={self.lora.rank} adapts a pretrained model; set small_checkpoint"
            )
        for name in ("small", "large"):
            check_model(name, getattr(self, name))
        if not self.name or set(self.name) & set("/\\"):
            raise InputError(f"name={self.name!r}; give the name of a folder, without / or \\")
        if not self.arms or len(set(self.arms)) != len(self.arms):
            raise InputError(f"arms={list(self.arms)}; name at least one, each once")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds) or min(self.seeds) < 0:
            raise InputError(f"seeds={list(self.seeds)}; give at least one >= 0, each once")
        for name in self.arms:
            chosen = arm(name)
            _check_arm(name, chosen)
            if chosen.loss == "distill" and chosen.teacher == "stored" and not self.teacher_topk:
                raise InputError(
                    f"arm '{name}' distils from stored probabilities but teacher_topk is 0; "
                    f"set --teacher-topk 16 (or more), or the arm {name}:teacher=live"
                )


def _at_least(part: Any, where: str, least: dict[str, int]) -> None:
    """Raise InputError for the first field below its least value."""
    for field, bound in least.items():
        value = getattr(part, field)
        if value < bound:
            dotted = f"{where}.{field}" if where else field
            raise InputError(f"{dotted}={value}; must be >= {bound}")


def check_selection(optimizer: OptimizerConfig, where: str) -> None:
    """Raise InputError for a choice among validations that never happen."""
    chooses = optimizer.select == "best" or optimizer.patience
    if chooses and not optimizer.validate_every:
        asked = "select=best" if optimizer.select == "best" else f"patience={optimizer.patience}"
        raise InputError(f"{where}.{asked} needs validation losses; set {where}.validate_every")


def _check_parts(name: str, optimizer: OptimizerConfig) -> None:
    """Raise InputError for a batch that does not divide into its parts."""
    rows, parts = optimizer.batch_size, optimizer.accumulate
    if parts < 1 or rows % parts:
        raise InputError(
            f"{name}.accumulate={parts} does not divide {name}.batch_size={rows}; give a divisor"
        )


def _check_arm(name: str, chosen: ArmConfig) -> None:
    """Raise InputError for weights outside [0, 1] or a temperature that is not positive."""
    for field in ("label_weight", "correct_weight"):
        if not 0 <= getattr(chosen, field) <= 1:
            raise InputError(f"arm '{name}': {field}={getattr(chosen, field)}; give 0 to 1")
    if chosen.temperature <= 0:
        raise InputError(f"arm '{name}': temperature={chosen.temperature}; give a positive number")
    for field in ("mask_temperature", "mask_warmup"):
        if getattr(chosen, field) < 0:
            raise InputError(f"arm '{name}': {field}={getattr(chosen, field)}; give 0 or more")


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass tree as plain JSON values; fields that are off (``models.config``) left out.

    >>> to_dict(ArmConfig())["mask"]
    'all'
    """
    return json.loads(json.dumps(_plain(config)))


def _plain(value: Any) -> Any:
    """Dataclasses as dictionaries, whatever their depth."""
    if not dataclasses.is_dataclass(value):
        return value
    fields = [(field, getattr(value, field.name)) for field in dataclasses.fields(value)]
    return {
        field.name: _plain(found)
        for field, found in fields
        if not (field.metadata.get("off") and found == field.default)
    }


def from_dict(kind: type, values: Any) -> Any:
    """The dataclass tree that ``to_dict`` wrote; unknown fields raise InputError.

    >>> from_dict(Config, to_dict(Config())) == Config()
    True
    """
    if not isinstance(values, dict):
        raise InputError(f"{kind.__name__}: {values!r} where fields belong; was it edited by hand?")
    hints = get_type_hints(kind)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        fields = ", ".join(unknown)
        raise InputError(f"{kind.__name__} has no field {fields}; made by another version?")

    def restore(hint: Any, value: Any) -> Any:
        if dataclasses.is_dataclass(hint):
            return from_dict(hint, value)  # type: ignore[arg-type]
        return tuple(value) if isinstance(value, list) else value

    return kind(**{name: restore(hints[name], value) for name, value in values.items()})


def fingerprint(*parts: Any) -> str:
    """Twelve hex digits of SHA-256 over dataclasses, arrays, and JSON values.

    >>> fingerprint(ArmConfig()) == fingerprint(ArmConfig()), len(fingerprint(1, "a"))
    (True, 12)
    """
    digest = hashlib.sha256()
    for i, part in enumerate(parts):
        digest.update(b"\0" * (i > 0))  # so that (1, 23) and (12, 3) differ
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype.str}{part.shape}".encode() + part.tobytes())
        else:
            plain = to_dict(part) if dataclasses.is_dataclass(part) else part
            digest.update(json.dumps(plain, sort_keys=True).encode())
    return digest.hexdigest()[:12]
