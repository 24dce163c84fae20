"""Whole or not at all, whatever interrupts; nothing is left beside the file."""

import ast
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from routers.files import written, written_folder

ROOT = Path(__file__).resolve().parents[2]


def tree(folder) -> dict[str, str]:
    """Every file below, hidden ones too, and its text."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}


def put(path, text: str) -> None:
    with written(path) as temporary:
        temporary.write_text(text)


def test_made_with_its_folders_and_replaced(tmp_path):
    put(tmp_path / "a" / "b" / "c.json", "first")
    assert tree(tmp_path) == {"a/b/c.json": "first"}
    put(tmp_path / "a" / "b" / "c.json", "2")
    assert tree(tmp_path) == {"a/b/c.json": "2"}


def test_readers_see_the_old_file_until_the_block_ends(tmp_path):
    path = tmp_path / "c.json"
    put(path, "old")
    with written(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert list(tmp_path.glob("[!.]*")) == [path]  # globs of results do not meet it
        assert temporary.parent == path.parent  # on the same disk: a rename, not a copy
        assert str(os.getpid()) in temporary.name
    assert tree(tmp_path) == {"c.json": "new"}


def fail(path, error) -> None:
    with written(path) as temporary:
        temporary.write_text("half")
        raise error


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("before", [None, "old"])
def test_after_an_error_all_is_as_it_was(tmp_path, error, before):
    path = tmp_path / "c.json"
    if before:
        put(path, before)
    with pytest.raises(error):
        fail(path, error)
    assert tree(tmp_path) == ({"c.json": before} if before else {})


def test_an_error_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="early"), written(tmp_path / "c"):
        raise ValueError("early")
    assert tree(tmp_path) == {}


def test_a_folder_in_the_place_of_the_file(tmp_path):
    (tmp_path / "c").mkdir()
    with pytest.raises(OSError, match="c"):
        put(tmp_path / "c", "text")
    assert tree(tmp_path) == {}


def test_two_processes_do_not_share_a_temporary_name(tmp_path):
    code = (
        "import sys, pathlib\nfrom routers.files import written\n"
        "with written(pathlib.Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('theirs')\n"
    )
    with written(tmp_path / "c") as temporary:
        temporary.write_text("ours")
        subprocess.run([sys.executable, "-c", code, str(tmp_path / "c")], cwd=ROOT, check=True)
        assert (tmp_path / "c").read_text() == "theirs"
    assert tree(tmp_path) == {"c": "ours"}


def test_two_containers_whose_processes_have_the_same_number_do_not_either(tmp_path, monkeypatch):
    monkeypatch.setattr("os.getpid", lambda: 1)
    with written(tmp_path / "c") as ours, written(tmp_path / "c") as theirs:
        assert ours != theirs
        ours.write_text("ours")
        theirs.write_text("theirs")
    assert tree(tmp_path) == {"c": "ours"}


@pytest.mark.parametrize("how", [written, written_folder])
@pytest.mark.parametrize(("code", "named"), [(errno.ENOSPC, True), (errno.EIO, False)])
def test_a_full_disk_names_the_file(tmp_path, how, code, named):
    """Writing into an open file fails without its name."""
    with pytest.raises(OSError, match="left") as caught, how(tmp_path / "c"):
        raise OSError(code, "none left")
    assert caught.value.filename == (str(tmp_path / "c") if named else None)
    with pytest.raises(OSError, match="left") as caught, how(tmp_path / "c"):
        raise OSError(code, "none left", "inner")
    assert caught.value.filename == "inner"


@pytest.mark.parametrize("package", ["cat", "routers", "experiments"])
def test_nothing_else_renames_files(package):
    """One rule for temporary names: no other module renames or asks for the process."""
    renaming = {"rename", "renames", "getpid", "NamedTemporaryFile", "mkstemp"}
    for path in (ROOT / package).rglob("*.py"):
        if path == ROOT / "routers" / "files.py":
            continue
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        used = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        assert not used & renaming, path
