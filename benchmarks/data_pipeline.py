"""Data at size: token rows and the stored teacher on disk, read in random order by the loop.

    python benchmarks/data_pipeline.py            # ten million rows: 0.8 GB of disk free
    python benchmarks/data_pipeline.py 1000000

Rows of 8 to 31 random tokens (a tokenizer is not timed), with a hit bit and the label's
log-probability for each response token. Printed: seconds and bytes to write; then, for a step of
64 rows that takes 0, 2 or 10 ms, rows a second through the whole pipeline (order, gather,
signals, prefetch) and starvation, the part of the time that the loop waits for rows. Memory is
this process's own (RssAnon) over what it had before opening: mapped files are not counted, since
the system takes their pages back. Last, the peer: the same random reads of the same ids
from ArrayRecord, group size 1, through Grain.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import grain
import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from cat import row_store, teacher_store, tokenizers
from cat.config import DataConfig
from cat.data import Pair, batches
from cat.example import Example
from cat.packing import pack
from cat.source import Source, taught
from cat.types import Teacher

PROMPT, VOCABULARY, BATCH, DISPATCH, PEER = 4, 500, 64, 25, 100_000
EXAMPLE = Example("", "", "", "")


def random_pairs(count: int) -> Iterator[tuple[Example, Pair]]:
    rng = np.random.default_rng(0)
    for start in range(0, count, 2**16):
        lengths = rng.integers(9, 33, min(2**16, count - start))
        ids = rng.integers(5, VOCABULARY, int(lengths.sum())).tolist()
        first = 0
        for length in lengths.tolist():
            row = ids[first : first + length]
            first += length
            yield EXAMPLE, (row[:PROMPT], row[PROMPT:])


def fill_teacher(folder: Path, rows: row_store.RowStore) -> teacher_store.TeacherStore:
    """The files that a large model's pass would write, with random signals."""
    recipe = {"count": len(rows), "shard_rows": teacher_store.SHARD_ROWS, "topk": 0}
    store = teacher_store.TeacherStore(folder, {**recipe, "logprob": True})
    rng, counted_N = np.random.default_rng(0), rows.counted
    none = np.zeros((0, 0))
    for number in range(-(-len(rows) // teacher_store.SHARD_ROWS)):
        here = counted_N[np.array(store.rows(number))]
        logprob = -rng.exponential(size=int(here.sum())).astype(np.float32)
        found = Teacher(logprob > -0.7, none, none, logprob)
        teacher_store._write(store, number, found, here, VOCABULARY)
    return store


def anonymous_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def size_mib(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.iterdir()) / 2**20


def read(source: Source, seconds: float, step: float) -> tuple[float, float, float, float]:
    """Seconds to the first rows; then rows a second, starvation in [0, 1] and MiB of a loop."""
    sizes = {"batch_size": BATCH, "steps_per_dispatch": DISPATCH, "seed": 0}
    began = time.perf_counter()
    stream = iter(batches(source, steps=10**7, **sizes))
    next(stream)  # the permutation of the pass, and the checksum of every shard it touches
    first = time.perf_counter() - began
    rows, waited, most, began = 0, 0.0, 0.0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        asked = time.perf_counter()
        batch = next(stream)
        waited += time.perf_counter() - asked
        time.sleep(step * DISPATCH)
        rows += batch.tokens.shape[0] * BATCH
        most = max(most, anonymous_mib())
    took = time.perf_counter() - began
    return first, rows / took, waited / took, most


def array_record(folder: Path, store: row_store.RowStore) -> tuple[float, float]:
    """(bytes a row, rows a second) of some of the rows, as bytes."""
    path = str(folder / "peer.array_record")
    writer = ArrayRecordWriter(path, "group_size:1,uncompressed")
    for shard in range(-(-PEER // 1_000)):
        batch = store.batch(np.arange(shard * 1_000, (shard + 1) * 1_000))
        for tokens, length in zip(batch.tokens, batch.segments.sum(1), strict=True):
            writer.write(tokens[:length].astype(np.uint16).tobytes())
    writer.close()
    source = grain.sources.ArrayRecordDataSource(path)
    order = np.random.default_rng(0).permutation(PEER)
    began = time.perf_counter()
    for start in range(0, PEER, BATCH * DISPATCH):
        source.__getitems__(order[start : start + BATCH * DISPATCH].tolist())
    return Path(path).stat().st_size / PEER, PEER / (time.perf_counter() - began)


def pairing(examples: Iterable[Example], *_: object) -> Iterator[tuple[Example, Pair]]:
    return random_pairs(sum(1 for _ in examples))


def main(count: int) -> None:
    tokenizer = tokenizers.train("characters", ["ab"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        began = time.perf_counter()
        stream = (EXAMPLE for _ in range(count))
        rows = row_store.write(folder / "rows", stream, tokenizer, DataConfig(), pairing=pairing)
        took = time.perf_counter() - began
        print(f"{count:,} rows: {took:.0f} s to write ({count / took:,.0f} rows/s), "
              f"{size_mib(folder / 'rows'):,.0f} MiB")  # fmt: skip
        (folder / "teacher").mkdir()
        store = fill_teacher(folder / "teacher", rows)
        print(f"signals of {rows.counted.sum():,} tokens: {size_mib(folder / 'teacher'):,.0f} MiB")
        rows, store = dataclasses.replace(rows), dataclasses.replace(store)  # nothing open
        before = anonymous_mib()
        print(f"{'rows':24} {'step ms':>8} {'first s':>8} {'rows/s':>10} {'starved':>8} {'MiB':>6}")
        both = taught(rows, store)
        for label, source, step in (
            ("ids", rows, 0.0), ("ids, signals", both, 0.0), ("ids, signals", both, 0.002),
            ("ids, signals", both, 0.01), ("packed to 64, signals", pack(both, 64, 0), 0.002),
        ):  # fmt: skip
            first, speed, starved, most = read(source, 10.0, step)
            print(f"{label:24} {1000 * step:8.0f} {first:8.1f} {speed:10,.0f} {starved:8.1%} "
                  f"{most - before:6,.0f}")  # fmt: skip
        if count >= PEER:
            size, speed = array_record(folder, rows)
            print(f"{'peer: ArrayRecord':24} {0:8} {'':8} {speed:10,.0f}   {size:.0f} bytes a row "
                  f"(here {2**20 * size_mib(folder / 'rows') / count:.0f})")  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000)
