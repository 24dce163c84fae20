"""Files appear whole or not at all: written to a temporary name, then renamed."""

from __future__ import annotations

import os
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
    # Hidden, so that no glob of results finds it; beside it, as a rename cannot cross disks; the
    # process in its name, so that two runs do not write into one another's.
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
