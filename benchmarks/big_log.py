"""A log that does not fit in memory, judged from the command line: time and peak memory.

    python benchmarks/big_log.py 1000000       a million queries, 20 response tokens each
    python benchmarks/big_log.py               ten million; 8 GB under the temporary folder

Writes a synthetic log to a temporary folder (one Parquet file, two models; of the small one the
log-probability, the entropy and the five largest log-probabilities of every response token),
runs ``cascade evaluate --stream`` on it with every training-free router that these columns
feed, and removes the log. Each row is a process of its own: wall clock, processor time of all
its threads, and greatest resident memory. ``floor`` is the peer: the same columns of the same
file, read batch by batch with PyArrow and thrown away.
"""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

QUERIES = 10_000_000
GROUP = 100_000  # rows of a row group, and the most that is in memory while writing
TOKENS, TOPK = 20, 5  # response tokens per query on average; log-probabilities per token
ROUTERS = (
    "chow_average",
    "chow_quantile:alpha=0",
    "chow_quantile:alpha=0.5",
    "chow_sum",
    "entropy",
    "entropy:reduce=max",
    "length",
    "margin",
    "max_softmax",
    "random",
)
FLOOR = """
import sys, pyarrow.parquet as pq
file = pq.ParquetFile(sys.argv[1], pre_buffer=False)
names = [n for n in file.schema_arrow.names]
print(sum(len(batch) for batch in file.iter_batches(columns=names)))
"""


def small_rows(first: int, rows: int, rng: np.random.Generator) -> pa.Table:
    """The small model's rows: harder queries have less likely tokens and worse answers."""
    hard = rng.random(rows, np.float32)
    lengths = rng.integers(TOKENS // 2, TOKENS * 3 // 2 + 1, rows)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    tokens = int(offsets[-1])
    top = rng.standard_exponential((tokens, TOPK), np.float32)
    top[:, 0] *= np.repeat(hard, lengths)
    top = -np.cumsum(top, axis=1, dtype=np.float32)
    inner = pa.array(np.arange(tokens + 1, dtype=np.int32) * TOPK)
    each = pa.ListArray.from_arrays(inner, pa.array(top.reshape(-1)))
    entropy = np.repeat(hard, lengths) + rng.random(tokens, np.float32)
    shared = common(first, "small", rng.random(rows) < 1 - hard, 1e9 * lengths)
    return pa.table(
        shared
        | {
            "response_tokens": lengths.astype(np.int32),
            "token_logprob": pa.ListArray.from_arrays(offsets, pa.array(top[:, 0].copy())),
            "token_entropy": pa.ListArray.from_arrays(offsets, pa.array(entropy)),
            "topk_logprob": pa.ListArray.from_arrays(offsets, each),
        }
    )


def common(first: int, model: str, right: np.ndarray, flops: np.ndarray) -> dict[str, pa.Array]:
    rows = len(right)
    return {
        "query_id": pa.array([f"q{i:08d}" for i in range(first, first + rows)]),
        "model": pa.array([model] * rows),
        "quality": pa.array(right.astype(np.float32)),
        "flops": pa.array(flops.astype(np.float64)),
    }


def write_log(path: Path, queries: int) -> None:
    rng = np.random.default_rng(0)
    parts = [(i, min(GROUP, queries - i)) for i in range(0, queries, GROUP)]
    columns = small_rows(0, 1, rng).schema
    with pq.ParquetWriter(path, columns) as writer:
        for first, rows in parts:
            writer.write_table(small_rows(first, rows, rng))
        for first, rows in parts:
            large = pa.table(common(first, "large", rng.random(rows) < 0.9, np.full(rows, 1e11)))
            empty = {n: pa.nulls(rows, columns.field(n).type) for n in columns.names[4:]}
            cells = {n: large[n] if n in large.column_names else empty[n] for n in columns.names}
            writer.write_table(pa.table(cells, schema=columns))


def run(command: Sequence[str | Path], output: Path) -> tuple[float, float, float]:
    """Wall clock and processor seconds and peak GB of one process; its output goes to a file."""
    start = time.perf_counter()
    with output.open("w") as file:
        mapped = [(os.POSIX_SPAWN_DUP2, file.fileno(), 1)]
        process = os.posix_spawn(
            str(command[0]), [str(word) for word in command], os.environ, file_actions=mapped
        )
        _, status, used = os.wait4(process, 0)
    if status:
        raise SystemExit(f"{command[0]} ended with {os.waitstatus_to_exitcode(status)}")
    took = time.perf_counter() - start
    return took, used.ru_utime + used.ru_stime, used.ru_maxrss / 1e6


def main(queries: int) -> None:
    cascade = Path(sys.executable).with_name("cascade")
    asked = [word for name in ROUTERS for word in ("--router", name)]
    title = f"{queries:,} queries, {queries * TOKENS:,} response tokens, {len(ROUTERS)} routers"
    table = Table("process", "wall s", "processor s", "peak GB", title=title)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log, output = folder / "log.parquet", folder / "output"
        write_log(log, queries)
        size = log.stat().st_size / 1e9
        evaluate = [cascade, "evaluate", log, "--stream", "--bootstrap", "0", *asked]
        for what, command in {
            f"floor: read {size:.1f} GB": [sys.executable, "-c", FLOOR, log],
            "cascade evaluate --stream": [*evaluate, "-o", folder / "out"],
        }.items():
            table.add_row(what, *(f"{figure:.2f}" for figure in run(command, output)))
        result = output.read_text()
    print(result)
    Console().print(table)


if __name__ == "__main__":
    asked = int(sys.argv[1]) if len(sys.argv) > 1 else QUERIES
    if shutil.disk_usage(tempfile.gettempdir()).free < 1_200 * asked:
        raise SystemExit(f"{tempfile.gettempdir()}: too little room for {asked:,} queries")
    main(asked)
