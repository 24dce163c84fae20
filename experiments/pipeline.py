"""The stages of an experiment, each resumable, each reading and writing the run directory.

data → large → teacher → base (per seed) → arms (per arm and seed) → records → evaluations →
summary and report. A stage whose inputs' fingerprint has not changed is skipped.
"""

from __future__ import annotations

import dataclasses
import functools
from contextlib import AbstractContextManager
from pathlib import Path

import jax
import pyarrow as pa

from cat import (
    lora,
    masks,
    mesh,
    quality,
    score,
    tasks,
    teacher,
    tokenizers,
    train,
)
from cat.checkpoints import load_params, load_trained
from cat.config import Config, LoraConfig, ModelConfig, OptimizerConfig, arm, fingerprint
from cat.data import Rows, tokenize
from cat.flops import parameter_count
from cat.models.decoder import Decoder
from cat.quantize import int8
from cat.types import Teacher
from experiments import evaluation
from experiments.progress import Advance, bar
from experiments.rundir import RunDirectory, write_json
from experiments.tier import Tier, shared_tokenizer, tiers, vocabulary
from routers import records
from routers.errors import InputError

TRAIN, *JUDGED = tasks.SPLITS


def on_mesh() -> AbstractContextManager[object]:
    """The mesh of all devices JAX sees, as a context: training and scoring work inside it."""
    return jax.set_mesh(mesh.make_mesh())


def _seeded(optimizer: OptimizerConfig, seed: int) -> OptimizerConfig:
    """The optimiser of one run: the configured seed shifted by the run's."""
    return dataclasses.replace(optimizer, seed=optimizer.seed + seed)


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """One experiment bound to its run directory."""

    config: Config
    run: RunDirectory

    # -- data ---------------------------------------------------------------------------

    @functools.cached_property
    def splits(self) -> tasks.Splits:
        """The examples, as text."""
        return tasks.load(self.config.data)

    @functools.cached_property
    def small(self) -> Tier:
        """What every arm starts from, before the training its seeds share."""
        return tiers(self.config)[0]

    @functools.cached_property
    def large(self) -> Tier:
        """The model behind, before it is trained on the task."""
        return tiers(self.config)[1]

    @functools.cached_property
    def tokenizer(self) -> tokenizers.Tokenizer:
        """The checkpoints' tokenizer, or one trained on (or named for) the training texts."""
        given = shared_tokenizer(self.small, self.large)
        if given is not None:
            return given
        texts = [text for e in self.splits.train for text in (e.prompt, e.target)]
        return tokenizers.from_spec(self.config.data.tokenizer, texts)

    @functools.cached_property
    def rows(self) -> dict[str, Rows]:
        """Every split as token rows, examples beyond the length limits left out."""
        return {
            split: tokenize(getattr(self.splits, split), self.tokenizer, self.config.data)
            for split in tasks.SPLITS
        }

    @functools.cached_property
    def data_key(self) -> str:
        """Fingerprint of what models are trained on: the training rows and the tokenizer.

        How they came about is left out: another metric or test size trains no model again.
        """
        rows = self.rows[TRAIN]
        return fingerprint(rows.tokens, rows.targets, rows.mask, self.tokenizer.fingerprint)

    @functools.cached_property
    def judged_text(self) -> list[list[object]]:
        """The examples to be judged, whole: what a token row does not show changes records too."""
        examples = [e for split in JUDGED for e in self.rows[split].examples]
        return [[e.id, e.task, e.prompt, e.target, *e.references] for e in examples]

    def model_config(self, tier: Tier) -> ModelConfig:
        """A tier's sizes with the vocabulary it works with."""
        if tier.config.vocab_size:
            return tier.config
        size = vocabulary(self.small, self.large, self.tokenizer)
        return dataclasses.replace(tier.config, vocab_size=size)

    def prepare(self) -> None:
        """Check names and data, then claim the folder and write what was found to data.json."""
        for name in self.config.arms:
            masks.get(arm(name).mask)
        quality.check(self.config.data.metric)
        rows = self.rows
        for field, kept in (
            ("evaluation.topk", self.config.evaluation.topk),
            ("teacher_topk", self.config.teacher_topk),
        ):
            if kept > self.tokenizer.vocab_size:
                raise InputError(
                    f"{field}={kept} is more than the vocabulary's {self.tokenizer.vocab_size} "
                    "tokens; give that or less"
                )
        small, large = (self.model_config(tier) for tier in (self.small, self.large))
        tables = 1 if small.tied_embeddings else 2
        parameters = {
            "small": parameter_count(small),
            "large": parameter_count(large),
            "small_layers": parameter_count(small) - tables * small.vocab_size * small.width,
        }
        self.run.claim(self.config)  # from here on the data is known to be sound
        self.tokenizer.save(self.run.folder / "tokenizer.json")
        write_json(
            self.run.folder / "data.json",
            {
                "examples": {split: len(r) for split, r in rows.items()},
                "tokens_per_row": {split: r.tokens.shape[1] for split, r in rows.items()},
                "vocabulary": self.tokenizer.vocab_size,
                "parameters": parameters,
                "notes": [
                    *self.splits.notes,
                    *(f"{split}: {note}" for split, r in rows.items() for note in r.notes),
                ],
            },
        )

    # -- training -----------------------------------------------------------------------

    @property
    def large_key(self) -> str:
        """Fingerprint of the large model."""
        return fingerprint(self.data_key, self.large.ingredients, self.large.optimizer)

    @property
    def served_key(self) -> str:
        """Fingerprint of the large model as it answers and teaches."""
        return fingerprint(self.large_key, "int8") if self.config.large_int8 else self.large_key

    @property
    def teacher_key(self) -> str:
        """Fingerprint of the stored teacher."""
        return fingerprint(self.served_key, self.config.teacher_topk)

    def base_key(self, seed: int) -> str:
        """Fingerprint of the small model all arms of a seed start from."""
        adapters = [self.config.lora] if self.config.lora.rank else []
        parts = (self.small.ingredients, self.small.optimizer, seed, *adapters)
        return fingerprint(self.data_key, *parts)

    def arm_key(self, name: str, seed: int) -> str:
        """Fingerprint of one arm's small model."""
        parts = (self.base_key(seed), self.teacher_key, arm(name), self.config.arm_train)
        return fingerprint(*parts)

    def train(self) -> None:
        """Large model, its stored signals, then every arm's small model."""
        self.prepare()
        self._fit("large", self.large_key, self.large, self.large.optimizer)
        made = [f"teacher/{teacher.FILE}"]
        self.run.stage("teacher", self.teacher_key, self._teach, clear="teacher", makes=made)
        for seed in self.config.seeds:
            optimizer = _seeded(self.small.optimizer, seed)
            self._fit(f"base/seed{seed}", self.base_key(seed), self.small, optimizer)
            for arm_name in self.config.arms:
                self._fit_arm(arm_name, seed)

    def _fit_arm(self, name: str, seed: int) -> None:
        optimizer = _seeded(self.config.arm_train, seed + 1_000)
        folder, base = f"arms/{name}/seed{seed}", f"base/seed{seed}"
        self._fit(folder, self.arm_key(name, seed), self.small, optimizer, name, base)

    def _fit(
        self,
        name: str,
        key: str,
        tier: Tier,
        optimizer: OptimizerConfig,
        arm_name: str = "xent",
        base: str = "",
    ) -> None:
        """One training run as a stage; an arm begins from the parameters of the run ``base``."""
        if not optimizer.steps:  # only a checkpoint may be left as it is
            return

        def work() -> None:
            chosen = arm(arm_name)
            live = chosen.teacher == "live" and bool(base)
            start = self.load(base, tier) if base else tier.load() if tier.checkpoint else None
            with bar(name, optimizer.steps, "steps") as advance:
                train.train(
                    self.model_config(tier),
                    optimizer,
                    chosen,
                    self.rows[TRAIN],
                    folder=self.run.folder / name,
                    teacher=self.teacher if base and not live else None,
                    large=self.served("large", self.large) if live else None,
                    init=start,
                    lora=self.adapters(tier),
                    progress=advance,
                )

        made = [f"{name}/checkpoints"]
        self.run.stage(name.replace("/", "-"), key, work, clear=name, makes=made)

    def load(self, name: str, tier: Tier) -> Decoder:
        """The trained model of a stage, or the checkpoint where that stage trains nothing."""
        if not tier.optimizer.steps and not name.startswith("arms/"):
            return tier.load()
        folder, config = self.run.folder / name, self.model_config(tier)
        adapters = self.adapters(tier)
        if adapters is None:
            return load_params(folder, config)
        seed = name.rpartition("/")[2]
        base = self.load(f"base/{seed}", tier) if name.startswith("arms/") else tier.load()
        shapes = lora.split(lora.adapt(base, adapters, 0))[1]
        return lora.merged(base, load_trained(folder, config, shapes), adapters)

    def served(self, name: str, tier: Tier) -> Decoder:
        """The trained model as it answers and teaches: the large one in 8 bits where asked."""
        model = self.load(name, tier)
        return int8(model) if tier.name == "large" and self.config.large_int8 else model

    def adapters(self, tier: Tier) -> LoraConfig | None:
        """The adapters a tier is trained through; None = all its parameters are."""
        return self.config.lora if tier.name == "small" and self.config.lora.rank else None

    @functools.cached_property
    def teacher(self) -> Teacher:
        """The stored signals of the large model on the training rows."""
        return teacher.load(self.run.folder / "teacher", self.teacher_key)

    def _teach(self) -> None:
        rows = self.rows[TRAIN]
        with bar("teacher", len(rows), "rows") as advance:
            model = self.served("large", self.large)
            batch_size = self.config.evaluation.batch_size
            signals = teacher.compute(
                model,
                rows,
                topk=self.config.teacher_topk,
                batch_size=batch_size,
                progress=advance,
            )
        teacher.save(self.run.folder / "teacher", signals, self.teacher_key)
        rate = float(signals.hit.sum() / rows.mask.sum())
        write_json(self.run.folder / "teacher" / "hit_rate.json", {"train": rate})

    # -- scoring ------------------------------------------------------------------------

    def score(self) -> None:
        """Both tiers answer validation and test; one Parquet file per model."""
        self._score("large", "large", self.large, self.served_key)
        for seed in self.config.seeds:
            for name in self.config.arms:
                folder = f"arms/{name}/seed{seed}"
                self._score(f"{name}-seed{seed}", folder, self.small, self.arm_key(name, seed))

    def _score(self, name: str, folder: str, tier: Tier, model_key: str) -> None:
        """One model over validation and test as a stage."""
        config = self.config.evaluation
        data = self.config.data
        limits = (config.topk, data.metric, data.max_response_tokens)
        key = fingerprint(model_key, limits, self.judged_text)
        made = f"records/{name}.parquet"

        def work() -> None:
            model = self.served(folder, tier)
            total = sum(len(self.rows[split]) for split in JUDGED)
            with bar(f"score {name}", total, "queries") as advance:
                tables = [self._answers(model, name, split, advance) for split in JUDGED]
            about = {"checkpoint": model_key, "tokenizer": self.tokenizer.fingerprint}
            about |= {"config": fingerprint(self.config), "decoding": "greedy"}
            records.write(self.run.folder / made, records.Records(pa.concat_tables(tables), about))

        self.run.stage(f"records-{name}", key, work, makes=[made])

    def _answers(self, model: Decoder, name: str, split: str, advance: Advance) -> pa.Table:
        """One model's answers to one split."""
        before = 0

        def report(done: int, total: int) -> None:
            nonlocal before
            advance(done - before, split)
            before = done

        return score.score(
            model,
            model.config,
            self.rows[split].examples,
            self.tokenizer,
            model_name=name.rpartition("-seed")[0] or name,
            split=split,
            metric=self.config.data.metric,
            max_response_tokens=self.config.data.max_response_tokens,
            topk=self.config.evaluation.topk,
            batch_size=self.config.evaluation.batch_size,
            progress=report,
        )

    def all(self) -> Path:
        """Every stage, in order; returns the path of the report."""
        with on_mesh():
            self.train()
            self.score()
        return evaluation.report_run(self.config, self.run)
