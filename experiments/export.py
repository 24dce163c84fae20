"""A trained model of a run as a checkpoint folder in Hugging Face format."""

from __future__ import annotations

from pathlib import Path

from cat import tokenizer_files, tokenizers
from cat.models import huggingface
from experiments.pipeline import Pipeline


def export(run: Pipeline, arm: str, seed: int, folder: Path, dtype: str = "") -> None:
    """Write one arm's small model, or the large one for no arm; on the current mesh.

    Raises:
        InputError: not trained yet, or as ``cat.models.huggingface.save``.
    """
    tier = run.small if arm else run.large
    model = run.load(f"arms/{arm}/seed{seed}" if arm else "large", tier)
    if tier.checkpoint:
        huggingface.save(model, folder, like=Path(tier.checkpoint), dtype=dtype)
        return
    other = next((t.checkpoint for t in (run.small, run.large) if t.checkpoint), "")
    if other:  # its tokenizer is this model's, too
        files = huggingface.beside(Path(other))
    else:
        files = tokenizer_files.files(tokenizers.load(run.run.folder / "tokenizer.json"))
    huggingface.save(model, folder, files=files, dtype=dtype)
