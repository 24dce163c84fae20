"""What an experiment trains on and is judged by: examples, tokenizer, token rows."""

from __future__ import annotations

import dataclasses
import functools

from cat import hosts, masks, profiling, quality, running_text, sinks, tasks, tokenizers
from cat.config import Config, ModelConfig, arm, fingerprint
from cat.data import Rows, framed, tokenize
from cat.flops import parameter_count
from cat.packing import Packed, pack
from cat.source import Signals, Source, taught
from experiments.rundir import RunDirectory, write_json
from experiments.tier import Tier, shared_tokenizer, tiers, vocabulary
from routers.errors import InputError

TRAIN, *JUDGED = tasks.SPLITS
VALIDATION = JUDGED[0]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The data of one experiment, bound to its run directory."""

    config: Config
    run: RunDirectory

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
        found = shared_tokenizer(self.small, self.large)
        if found is None:
            texts = [text for e in self.splits.train for text in (e.prompt, e.target)]
            found = tokenizers.from_spec(self.config.data.tokenizer, texts)
        return running_text.without_frame(found) if self.config.data.running_text else found

    @functools.cached_property
    def rows(self) -> dict[str, Rows]:
        """Every split as token rows, examples beyond the length limits left out."""
        running = self.config.data.running_text
        pairings = {split: framed for split in JUDGED}
        pairings |= {TRAIN: running_text.pieces if running else framed}
        return {
            split: tokenize(
                getattr(self.splits, split), self.tokenizer, self.config.data, pairing=pairing
            )
            for split, pairing in pairings.items()
        }

    @functools.cached_property
    def data_key(self) -> str:
        """Fingerprint of what models are trained on: the training rows and the tokenizer.

        How they came about is left out: another metric or test size trains no model again.
        """
        rows, data = self.rows[TRAIN], self.config.data
        packed = [{"pack": data.pack, "seed": data.seed}] if data.pack else []
        parts = (rows.tokens, rows.targets, rows.mask, self.tokenizer.fingerprint)
        return fingerprint(*parts, *packed)

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
        """Check names and data, then claim the folder and write what was found to data.json.

        All of several processes check; the first writes, the others go on when it has.
        """
        for name in self.config.arms:
            masks.parse(arm(name).mask)
        quality.check(self.config.data.metric)
        sinks.check(self.config.track)
        profiling.window(self.config.profile)
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
        packing = self._packing
        small, large = (self.model_config(tier) for tier in (self.small, self.large))
        tables = 1 if small.tied_embeddings else 2
        parameters = {
            "small": parameter_count(small),
            "large": parameter_count(large),
            "small_layers": parameter_count(small) - tables * small.vocab_size * small.width,
        }
        found = {
            "examples": {split: len(r) for split, r in rows.items()},
            "tokens_per_row": {split: r.tokens.shape[1] for split, r in rows.items()},
            "vocabulary": self.tokenizer.vocab_size,
            "parameters": parameters,
            "notes": [
                *self.splits.notes,
                *(f"{split}: {note}" for split, r in rows.items() for note in r.notes),
                *packing,
            ],
        }
        if hosts.first():
            self.run.claim(self.config)  # from here on the data is known to be sound
            self.tokenizer.save(self.run.folder / "tokenizer.json")
            write_json(self.run.folder / "data.json", found)
        hosts.wait("prepared")

    @property
    def keeps_logprob(self) -> bool:
        """Whether a mask asks how probable the target is, not only whether it is a hit."""
        return any(arm(name).mask_temperature > 0 for name in self.config.arms)

    def training_rows(self, told: Signals | None = None, before: Signals | None = None) -> Source:
        """The training rows with these signals beside them, packed where that is asked."""
        rows = taught(taught(self.rows[TRAIN], told), before, "before")
        return self._packed(rows) if self.config.data.pack else rows

    def _packed(self, rows: Source) -> Packed:
        return pack(rows, self.config.data.pack, self.config.data.seed)

    @property
    def _packing(self) -> list[str]:
        """What packing saves, for the reader of the results."""
        return self._packed(self.rows[TRAIN]).notes if self.config.data.pack else []
