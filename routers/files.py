"""Files and folders appear whole or not at all: written to a temporary name, then renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """A temporary path to write to; the file takes the name ``path`` when the block ends well.

    Whoever reads ``path`` sees the old file or the new one, never half of it. After an error
    the old file is as it was and the temporary one is gone. Folders above are made.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with written(folder / "deep" / "note.txt") as temporary:
    ...     _ = temporary.write_text("whole")
    >>> [(file.name, file.read_text()) for file in (folder / "deep").iterdir()]
    [('note.txt', 'whole')]
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def written_folder(path: Path) -> Iterator[Path]:
    """The same for a folder, which must not be there yet, or be empty.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp()) / "whole"
    >>> with written_folder(folder) as temporary:
    ...     _ = (temporary / "note.txt").write_text("whole")
    >>> [file.name for file in folder.iterdir()], len(list(folder.parent.iterdir()))
    (['note.txt'], 1)
    """
    temporary = _beside(path.absolute())
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if path.exists():
            path.rmdir()
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def renamed(path: Path, name: str) -> Path:
    """A file of a folder nobody sees yet, under its final name."""
    return path.rename(path.with_name(name))


def _beside(path: Path) -> Path:
    """A temporary name.

    Hidden, so that no glob of results finds it; beside it, as a rename cannot cross disks; the
    process in its name, so that two runs do not write into one another's.
    """
    return path.with_name(f".{path.name}.{os.getpid()}")
