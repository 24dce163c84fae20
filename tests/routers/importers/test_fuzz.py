"""Mutations of valid logs: every one is read, or refused in one line; never a traceback.

Where a mutated log is read, the records are the schema's: grades in [0, 1], finite costs, no
query twice. Seeded, so that a failure comes back. Mutations are of bytes (flips, cuts, splices,
repeats) and of values inside the JSON (swapped for what people and attackers write).
"""

import copy
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from foreign import (
    batch,
    chat,
    grades,
    harness_choice,
    harness_folder,
    harness_generation,
    read_jsonl,
    save_batch,
    text,
    write_jsonl,
)  # fmt: skip

from routers import schema
from routers.errors import InputError
from routers.importers import reader
from routers.importers.options import Options

ROUNDS = 25
TOKENS = np.array([[1, 9, 9], [3, 4, 5]])
STRANGE = [
    None, True, -1, 0, 1.5, 1e308, -1e308, 10**30, "", "x", "NaN", "-1", "\x00", "\ud83d",
    [], {}, [[]], [None], {"": {}}, [1, [2, [3]]], "x" * 10_000, "two\nlines\x1b[2J",
    float("nan"), float("inf"),
]  # fmt: skip


def make_csv(folder: Path):
    path = folder / "log.csv"
    rows = [f'q{i},{m},{i % 2},0.5,"a, b"' for m in "sl" for i in range(4)]
    path.write_text("\n".join(["query_id,model,quality,dollars,prompt", *rows]) + "\n")
    return "table", path, Options()


def make_jsonl(folder: Path):
    lines = [
        {
            "query_id": f"q{i}", "model": m, "quality": 0.5, "dollars": 1.0, "deep": {"x": [i]},
            "token_logprob": [-0.5], "topk_logprob": [[-0.5, -1.0]], "score:s": 0.1,
        }
        for m in "sl"
        for i in range(3)
    ]  # fmt: skip
    return (
        "table",
        write_jsonl(folder / "log.jsonl", lines),
        Options(columns={"score:d": "deep.x.0"}),
    )


def make_chat(folder: Path):
    lines = [chat(f"q{i}", [-0.5, -1.0]) for i in range(3)]
    graded = grades(folder / "g.csv", [(f"q{i}", 1) for i in range(3)])
    path = write_jsonl(folder / "log.jsonl", lines)
    return "openai", path, Options(quality=graded, prices={"small": (1.0, 2.0)})


def make_text(folder: Path):
    lines = [text(f"q{i}", [-0.5], [{"a": -0.5, "b": -2.0}]) for i in range(3)]
    graded = grades(folder / "g.csv", [(f"q{i}", 1) for i in range(3)])
    path = write_jsonl(folder / "log.jsonl", lines)
    options = Options(columns={"query_id": "name"}, quality=graded, query_cost={"small": 1.0})
    return "openai", path, options


def make_harness(folder: Path):
    lines = [harness_choice(i, [-1.0, -2.0], True) for i in range(3)]
    harness_folder(folder, "large", "arc", lines)
    path = harness_folder(folder, "small", "arc", lines)
    return "lm_eval", path, Options(query_cost={"small": 1.0})


def make_generation(folder: Path):
    lines = [harness_generation(i, name, True) for i in range(2) for name in ("a", "b")]
    path = harness_folder(folder, "small", "gsm8k", lines)
    return "lm_eval", path, Options(query_cost={"small": 1.0})


def make_batch(folder: Path):
    path = save_batch(folder / "b.safetensors", batch(TOKENS), ["q0", "q1"])
    graded = grades(folder / "g.csv", [("q0", 1), ("q1", 0)])
    return "huggingface", path, Options(quality=graded, parameters={"small": 1e6})


MAKERS = {m.__name__[5:]: m for m in (
    make_csv, make_jsonl, make_chat, make_text, make_harness, make_generation, make_batch,
)}  # fmt: skip


def outcome(name: str, path: Path, options: Options) -> str:
    """Reads, and checks what a reader promises; the reason where it refuses."""
    try:
        records = reader(name)([path], options)
    except InputError as error:
        message = str(error)
        assert message.strip()
        assert "\n" not in message
        assert len(message) <= 1_000
        assert message.isprintable()
        return message
    table = schema.normalise(records.table, "again")  # no wrong number gets through
    costs = table[schema.cost_column(table)].to_numpy()
    assert np.isfinite(costs).all()
    assert (costs >= 0).all()
    return ""


def mutate_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    array = bytearray(data)
    i, j = sorted(rng.integers(0, len(array), 2).tolist())
    kind = rng.integers(0, 7)
    if kind == 0:
        array[i] = int(rng.integers(0, 256))
    elif kind == 1:
        del array[i:]
    elif kind == 2:
        del array[i:j]
    elif kind == 3:
        array[i:i] = array[i:j]
    elif kind == 4:
        array[i:i] = bytes(rng.integers(0, 256, 5).tolist())
    elif kind == 5:
        return bytes(array).decode("latin-1").encode("utf-16")
    else:
        return gzip.compress(bytes(array))[: -int(rng.integers(0, 30)) or None]
    return bytes(array)


def mutate_value(line, rng: np.random.Generator):
    """One value, key or item somewhere inside replaced, dropped or repeated."""
    line = copy.deepcopy(line)
    places = []

    def walk(node):
        for key in node if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], dict | list):
                walk(node[key])

    walk(line)
    node, key = places[rng.integers(len(places))]
    kind = rng.integers(0, 4)
    if kind == 0:
        del node[key]
    elif kind == 1 and isinstance(node, list):
        node.append(node[key])
    else:
        node[key] = STRANGE[rng.integers(len(STRANGE))]
    return line


@pytest.mark.parametrize("name", MAKERS)
def test_the_logs_that_are_mutated_are_valid(tmp_path, name):
    assert outcome(*MAKERS[name](tmp_path)) == ""


@pytest.mark.parametrize("name", MAKERS)
def test_mutated_bytes(tmp_path, name):
    format_name, path, options = MAKERS[name](tmp_path)
    data, rng = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for round_ in range(ROUNDS):
        path.write_bytes(mutate_bytes(data, rng))
        try:
            refused += bool(outcome(format_name, path, options))
        except Exception as error:
            raise AssertionError(f"round {round_}: {path.read_bytes()[:2000]!r}") from error
    assert refused > ROUNDS / 4


@pytest.mark.parametrize("name", [n for n in MAKERS if n not in ("csv", "batch")])
def test_mutated_values(tmp_path, name):
    format_name, path, options = MAKERS[name](tmp_path)
    lines, rng = read_jsonl(path), np.random.default_rng(1)
    refused = 0
    for round_ in range(3 * ROUNDS):
        changed = list(lines)
        i = int(rng.integers(len(lines)))
        changed[i] = mutate_value(lines[i], rng)
        write_jsonl(path, changed)
        try:
            refused += bool(outcome(format_name, path, options))
        except Exception as error:
            raise AssertionError(f"round {round_}: {json.dumps(changed[i])[:2000]}") from error
    assert refused > ROUNDS / 4


@pytest.mark.parametrize("name", [n for n in MAKERS if n not in ("csv", "batch")])
def test_lines_repeated_and_mixed_with_another_format(tmp_path, name):
    format_name, path, options = MAKERS[name](tmp_path)
    lines = read_jsonl(path)
    write_jsonl(path, [*lines, lines[0]])
    assert "duplicate" in outcome(format_name, path, options)
    for other in [n for n in MAKERS if n not in ("csv", "batch", name)]:
        stranger = (
            read_jsonl(MAKERS[other](tmp_path / other)[1])[0] if _made(tmp_path / other) else {}
        )
        write_jsonl(path, [*lines, stranger])
        outcome(format_name, path, options)


def _made(folder: Path) -> bool:
    folder.mkdir(exist_ok=True)
    return True


@pytest.mark.parametrize("name", ["csv", "chat"])
def test_mutated_grades(tmp_path, name):
    format_name, path, options = MAKERS["chat"](tmp_path)
    graded = options.quality
    assert graded is not None
    data, rng = graded.read_bytes(), np.random.default_rng(2 if name == "csv" else 3)
    for _ in range(ROUNDS):
        graded.write_bytes(mutate_bytes(data, rng))
        outcome(format_name, path, options)
