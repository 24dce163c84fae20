"""The stages of an experiment, each resumable, each reading and writing the run directory.

data → large → teacher → base (per seed) → arms (per arm and seed) → records → evaluations →
summary and report. A stage whose inputs' fingerprint has not changed is skipped.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import jax
import pyarrow as pa

from cat import (
    hosts,
    lora,
    masks,
    mesh,
    score,
    sinks,
    teacher_store,
    train,
)
from cat.checkpoints import load_params, load_trained
from cat.config import Config, LoraConfig, MeshConfig, OptimizerConfig, arm, fingerprint
from cat.models.decoder import Decoder
from cat.quantize import int8
from cat.teacher_store import TeacherStore
from experiments import evaluation
from experiments.compilation import keep_compiled
from experiments.dataset import JUDGED, TRAIN, VALIDATION, Dataset
from experiments.progress import Advance, bar
from experiments.rundir import write_json
from experiments.tier import Tier
from routers import records


def on_mesh(sizes: MeshConfig = Config.mesh) -> AbstractContextManager[object]:
    """A mesh of the devices JAX sees, as a context: training and scoring work inside it."""
    keep_compiled()
    return jax.set_mesh(mesh.make_mesh(sizes.data, sizes.fsdp, sizes.tensor))


def seeded(optimizer: OptimizerConfig, seed: int) -> OptimizerConfig:
    """The optimiser of one run: the configured seed shifted by the run's."""
    return dataclasses.replace(optimizer, seed=optimizer.seed + seed)


@dataclasses.dataclass(frozen=True)
class Pipeline(Dataset):
    """One experiment bound to its run directory."""

    # -- training -----------------------------------------------------------------------

    @property
    def large_key(self) -> str:
        """Fingerprint of the large model."""
        optimizer = self.large.optimizer
        parts = (self.large.ingredients, optimizer, *self._judges(optimizer))
        return fingerprint(self.data_key, *parts)

    @property
    def served_key(self) -> str:
        """Fingerprint of the large model as it answers and teaches."""
        return fingerprint(self.large_key, "int8") if self.config.large_int8 else self.large_key

    @property
    def teacher_key(self) -> str:
        """Fingerprint of the stored teacher."""
        kept = ["logprob"] if self.keeps_logprob else []
        return fingerprint(self.served_key, self.config.teacher_topk, *kept)

    def base_key(self, seed: int) -> str:
        """Fingerprint of the small model all arms of a seed start from."""
        adapters = [self.config.lora] if self.config.lora.rank else []
        optimizer = self.small.optimizer
        parts = (self.small.ingredients, optimizer, seed, *adapters, *self._judges(optimizer))
        return fingerprint(self.data_key, *parts)

    def arm_key(self, name: str, seed: int, optimizer: OptimizerConfig | None = None) -> str:
        """Fingerprint of one arm's small model; ``optimizer`` None = the configured one."""
        optimizer = optimizer or self.config.arm_train
        chosen = arm(name)
        # of the stored teacher, what this arm reads: others' wishes train nothing again
        kept = ["logprob"] if chosen.mask_temperature else []
        told = fingerprint(self.served_key, self.config.teacher_topk, *kept)
        parts = (self.base_key(seed), told, chosen, optimizer)
        return fingerprint(*parts, *self._judges(optimizer))

    def _judges(self, optimizer: OptimizerConfig) -> list[str]:
        """What a training run that validates depends on besides: the validation rows."""
        return [self.rows[VALIDATION].fingerprint] if optimizer.validate_every else []

    def train(self) -> None:
        """Large model, its stored signals, then every arm's small model."""
        self.train_shared()
        for seed in self.config.seeds:
            for arm_name in self.config.arms:
                self._fit_arm(arm_name, seed)

    def train_shared(self) -> None:
        """What all arms start from: large model, its stored signals, the base of every seed."""
        self.prepare()
        self.fit("large", self.large_key, self.large, self.large.optimizer)
        made = [f"teacher/{teacher_store.RECIPE}"]
        self._stage("teacher", self.teacher_key, self._teach, clear="teacher", makes=made)
        for seed in self.config.seeds:
            optimizer = seeded(self.small.optimizer, seed)
            self.fit(f"base/seed{seed}", self.base_key(seed), self.small, optimizer)

    def _fit_arm(self, name: str, seed: int) -> None:
        optimizer = seeded(self.config.arm_train, seed + 1_000)
        folder, base = f"arms/{name}/seed{seed}", f"base/seed{seed}"
        self.fit(folder, self.arm_key(name, seed), self.small, optimizer, name, base)

    def fit(
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
            earlier = base and "before" in masks.reads(chosen.mask)
            start = self.load(base, tier) if base else tier.load() if tier.checkpoint else None
            folder, title = self.run.folder / name, f"{self.config.name} {name}"
            track = self.config.track if hosts.first() else ()
            rows = self.training_rows(
                self.teacher if base and not live else None,
                self.before(int(base.rpartition("seed")[2])) if earlier else None,
            )
            with (
                bar(name, optimizer.steps, "steps") as advance,
                sinks.opened(track, folder, title) as watching,
            ):
                train.train(
                    self.model_config(tier),
                    optimizer,
                    chosen,
                    rows,
                    folder=folder,
                    large=self.served("large", self.large) if live else None,
                    init=start,
                    lora=self.adapters(tier),
                    validation=self.rows[VALIDATION] if optimizer.validate_every else None,
                    sinks=watching,
                    profile=self.config.profile,
                    progress=advance,
                )

        made = [f"{name}/checkpoints"]
        self._stage(name.replace("/", "-"), key, work, clear=name, makes=made)

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
    def teacher(self) -> TeacherStore:
        """The stored signals of the large model on the training rows; damaged shards made again."""
        key = {"large": self.served_key, "tokenizer": self.tokenizer.fingerprint}
        topk = self.config.teacher_topk
        return self._signals("teacher", key, topk, lambda: self.served("large", self.large))

    def _teach(self) -> None:
        signals = self.teacher  # all make their shards
        if hosts.first():
            write_json(signals.folder / "hit_rate.json", {"train": signals.hit_rate()})

    def before(self, seed: int) -> TeacherStore:
        """The same of the small model that all arms of a seed start from."""
        name = f"before/seed{seed}"
        key = {"small": self.base_key(seed), "tokenizer": self.tokenizer.fingerprint}

        def made() -> TeacherStore:
            return self._signals(name, key, 0, lambda: self.load(f"base/seed{seed}", self.small))

        stage = {"clear": name, "makes": [f"{name}/{teacher_store.RECIPE}"]}
        done = fingerprint(key, self.keeps_logprob)
        self._stage(name.replace("/", "-"), done, made, **stage)
        return made()

    def _signals(
        self, name: str, key: dict[str, str], topk: int, model: Callable[[], Decoder]
    ) -> TeacherStore:
        """A model's signals on the training rows, in the folder ``name``."""
        rows = self.rows[TRAIN]
        with ExitStack() as stack:
            shown = functools.cache(lambda: stack.enter_context(bar(name, len(rows), "rows")))
            found = teacher_store.fill(
                self.run.folder / name,
                rows,
                stack.enter_context(hosts.alone(model)),
                key=key,
                topk=topk,
                logprob=self.keeps_logprob,
                batch_size=self.config.evaluation.batch_size,
                process=jax.process_index(),
                processes=jax.process_count(),
                progress=lambda count, note: shown()(count, note),  # no bar where all is there
            )
        hosts.wait(name)
        return found

    def _stage(self, name: str, key: str, work: Callable[[], Any], **where: Any) -> None:
        """A stage that all processes do together; the first says if it is due, and keeps notes."""
        if not hosts.any_says(hosts.first() and self.run.begin(name, key, **where)):
            return
        start = time.perf_counter()
        work()
        hosts.wait(name)
        if hosts.first():
            self.run.end(name, key, time.perf_counter() - start)

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

        self._stage(f"records-{name}", key, work, makes=[made])

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
        with on_mesh(self.config.mesh):
            self.train()
            self.score()
        return evaluation.report_run(self.config, self.run)
