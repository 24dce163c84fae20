"""Splits by a stable hash of the text, so that no prompt can be in two of them.

The split of a prompt is a function of the prompt alone: the same on every machine, in every
order, for every size.
"""

from __future__ import annotations

import hashlib

from cat.example import Example

BUCKETS = 10
VALIDATION_BUCKET, TEST_BUCKET = 8, 9  # 0-7 are train


def buckets(texts: list[str]) -> list[int]:
    """One of 10 buckets for each text, by BLAKE2b of its UTF-8 bytes.

    >>> buckets(["copy abc", "copy abd"])
    [0, 5]
    """
    digests = (hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts)
    return [int.from_bytes(digest, "little") % BUCKETS for digest in digests]


def of_split(texts: list[str], split: str) -> list[str]:
    """The texts that belong to that split: train 80 %, validation 10 %, test 10 % of all texts.

    >>> of_split(["copy abc", "copy abd"], "train")
    ['copy abc', 'copy abd']
    """
    number = {"validation": VALIDATION_BUCKET, "test": TEST_BUCKET}.get(split)
    held_out = (VALIDATION_BUCKET, TEST_BUCKET)
    pairs = zip(texts, buckets(texts), strict=True)
    return [t for t, b in pairs if (b == number if number is not None else b not in held_out)]


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
            chosen = [b == number for b in buckets([_key(e) for e in train])]
            full[split] = [e for e, take in zip(train, chosen, strict=True) if take]
            full["train"] = [e for e, take in zip(train, chosen, strict=True) if not take]
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
