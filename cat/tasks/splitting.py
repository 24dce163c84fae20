"""Splits by a stable hash of the text, so that no prompt can be in two of them.

The split of a prompt is a function of the prompt alone: the same on every machine, in every
order, for every size.
"""

from __future__ import annotations

import hashlib

from cat.types import Example

BUCKETS = 10
VALIDATION_BUCKET, TEST_BUCKET = 8, 9  # 0-7 are train


def bucket(text: str) -> int:
    """One of 10 buckets, by BLAKE2b of the text.

    >>> bucket("copy abc"), bucket("copy abd")
    (0, 5)
    """
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % BUCKETS


def split_of(text: str) -> str:
    """train (80 %), validation (10 %) or test (10 %): the split this text belongs to."""
    return {VALIDATION_BUCKET: "validation", TEST_BUCKET: "test"}.get(bucket(text), "train")


def complete(splits: dict[str, list[Example]]) -> tuple[dict[str, list[Example]], list[str]]:
    """Carve what is missing from train, then drop train rows that would leak; with notes.

    A validation (test) split that is empty becomes the train rows of bucket 8 (9): 10 % of
    the distinct prompts. Existing splits are never changed, except that train loses the rows
    whose prompt occurs in validation or test.
    """
    full, notes = dict(splits), []
    for split, number in (("validation", VALIDATION_BUCKET), ("test", TEST_BUCKET)):
        if not full[split]:
            train = full["train"]
            full[split] = [e for e in train if bucket(_key(e)) == number]
            full["train"] = [e for e in train if bucket(_key(e)) != number]
            notes.append(
                f"{split}: absent, so {len(full[split]):,} of {len(train):,} train examples "
                "became it (by a hash of the prompt)"
            )
    held_out = {split: {_key(e) for e in full[split]} for split in ("validation", "test")}
    seen = held_out["validation"] | held_out["test"]
    kept = [e for e in full["train"] if _key(e) not in seen]
    if len(kept) < len(full["train"]):
        dropped = len(full["train"]) - len(kept)
        notes.append(f"train: {dropped:,} examples dropped, their prompt is in validation or test")
    shared = len(held_out["validation"] & held_out["test"])
    if shared:
        notes.append(f"validation and test share {shared:,} prompts; both were kept as given")
    return {**full, "train": kept}, notes


def _key(example: Example) -> str:
    """What must not be in two splits: the prompt; for prompt-less rows, the target."""
    return example.prompt or example.target
