"""Formats are the files that define ``read``; every one keeps the protocol."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from routers import importers
from routers.errors import InputError
from routers.importers.options import Options

OURS = {"table", "openai", "lm_eval", "huggingface"}
FOLDER = Path(importers.__file__).parent


def test_formats_are_found_and_helpers_are_not():
    found = importers.formats()
    assert set(found) >= OURS
    assert not set(found) & {"options", "cost", "sources", "tabular", "complete", "grades"}
    assert list(found) == sorted(found)


@pytest.mark.parametrize("name", importers.formats())
def test_every_format_says_what_it_is_and_takes_sources_and_options(name):
    line = importers.formats()[name]
    assert 20 < len(line) <= 100
    assert not line.endswith(".")
    assert list(inspect.signature(importers.reader(name)).parameters) == ["sources", "options"]


@pytest.mark.parametrize("name", importers.formats())
def test_every_format_refuses_no_source_at_all(name):
    with pytest.raises(InputError) as caught:
        importers.reader(name)([], Options())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", importers.formats())
def test_every_format_refuses_what_is_not_there(name, tmp_path):
    with pytest.raises(InputError, match="gone"):
        importers.reader(name)([tmp_path / "gone.jsonl"], Options())


def test_an_unknown_format_gets_a_suggestion():
    with pytest.raises(InputError, match="no format 'lm-eval'; did you mean 'lm_eval'"):
        importers.reader("lm-eval")


def test_names_from_a_log_cannot_break_the_line(tmp_path):
    path = tmp_path / "log.jsonl"
    row = '{"query_id": "a\\nb\\u001b[2J", "model": "' + "m" * 5000 + '", "quality": 1}\n'
    path.write_text(row * 2)
    with pytest.raises(InputError) as caught:
        importers.reader("table")([path], Options(query_cost={"m" * 5000: 1.0}))
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < importers.MOST_SHOWN
    assert r"query_id 'a\nb\x1b[2J'" in message


def test_no_importer_can_load_a_pickle():
    for path in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            assert not {"pickle", "torch", "joblib", "dill", "pandas"} & set(names), path.name


def test_listing_the_formats_loads_no_format():
    code = (
        "import sys; from routers import importers; importers.formats(); "
        "print([m for m in sys.modules if m in ('pyarrow', 'numpy', 'routers.importers.table')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
