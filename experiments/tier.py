"""One tier of a run's cascade: a size trained from nothing, or a checkpoint to start from."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from pathlib import Path
from typing import Any

from cat.config import Config, ModelConfig, OptimizerConfig
from cat.models import huggingface
from cat.models.decoder import Decoder
from cat.tokenizers import Tokenizer, from_checkpoint, same_vocabulary


@dataclasses.dataclass(frozen=True)
class Tier:
    """The small or the large model before its training here.

    Args:
        name: small or large.
        size: what to build where there is no checkpoint.
        checkpoint: folder in Hugging Face format, or empty.
        optimizer: the training before the arms; 0 steps = the checkpoint as it is.
    """

    name: str
    size: ModelConfig
    checkpoint: str
    optimizer: OptimizerConfig

    @functools.cached_property
    def digest(self) -> str:
        """Twelve hex digits of SHA-256 over the checkpoint's configuration and weights."""
        folder, digest = Path(self.checkpoint), hashlib.sha256()
        for path in [folder / huggingface.CONFIG, *sorted(folder.glob("*.safetensors"))]:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()[:12]

    @property
    def ingredients(self) -> Any:
        """What fingerprints of everything made from this tier depend on."""
        return {"checkpoint": self.digest} if self.checkpoint else self.size

    @functools.cached_property
    def config(self) -> ModelConfig:
        """The sizes, ``vocab_size`` 0 where the tokenizer decides."""
        return huggingface.read_config(Path(self.checkpoint)) if self.checkpoint else self.size

    def load(self) -> Decoder:
        """The checkpoint on the current mesh."""
        return huggingface.load(Path(self.checkpoint))


def tiers(config: Config) -> tuple[Tier, Tier]:
    """The small and the large tier of a configuration."""
    small = Tier("small", config.small, config.small_checkpoint, config.base_train)
    return small, Tier("large", config.large, config.large_checkpoint, config.large_train)


def shared_tokenizer(small: Tier, large: Tier) -> Tokenizer | None:
    """The tokenizer of the checkpoints, which must share one; None without checkpoints.

    Raises:
        InputError: different vocabularies, or one that a model is too small for.
    """
    given = [tier for tier in (small, large) if tier.checkpoint]
    found = [from_checkpoint(Path(tier.checkpoint)) for tier in given]
    if not found:
        return None
    if len(found) == 2:
        same_vocabulary(found[0], found[1])
    for tier in given:
        found[0].check_fits(tier.config.vocab_size, tier.checkpoint)
    return found[0]


def vocabulary(small: Tier, large: Tier, tokenizer: Tokenizer) -> int:
    """V of a model built here: that of a checkpoint beside it, else the tokenizer's."""
    return max(small.config.vocab_size, large.config.vocab_size, tokenizer.vocab_size)
