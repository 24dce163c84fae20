"""Files and folders appear whole or not at all: written to a temporary name, then renamed."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says where there is no room: the disk, a quota, the size of a file."""


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
        with _naming(path):
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
        with _naming(path):
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
    process in its name says whose it is, and a random number keeps apart those of containers
    on a shared disk, where processes have equal numbers.
    """
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """A full disk names the file: the system does not where it fails in the middle of one."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL and error.filename is None:
            error.filename = str(path)
        raise
