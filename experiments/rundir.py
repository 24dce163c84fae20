"""The run directory: what lies where, and which stages are up to date.

runs/<name>/
  config.json  data.json  tokenizer.json  summary.json  report.html
  stages/<stage>.json              fingerprint of the stage's inputs, seconds it took
  large/  base/seed<k>/  arms/<arm>/seed<k>/     metrics.jsonl, checkpoints/
  teacher/                         the large model's signals on the training rows
  records/large.parquet  records/<arm>-seed<k>.parquet
  evaluations/<arm>-seed<k>.json   what `cascade evaluate` prints, per arm and seed
  curves/<arm>/<router>.csv  plots/
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from cat.config import Config, to_dict
from routers.errors import InputError
from routers.files import written


def write_text(path: Path, text: str) -> None:
    """UTF-8, whole or not at all."""
    with written(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


ASIDE = ("track", "profile", "mesh")
"""Fields that change no result: a run goes on with others."""


@dataclasses.dataclass(frozen=True)
class RunDirectory:
    """One run's folder."""

    folder: Path

    def open(self, config: Config, redo: bool) -> None:
        """Refuse a folder of something else, or of another configuration unless ``redo``.

        Writes nothing; ``claim`` does, once the configuration has proved to be sound.
        """
        path = self.folder / "config.json"
        if path.exists() and not redo:
            kept, asked = read_json(path), to_dict(config)
            for name in ASIDE:
                asked[name] = kept.get(name)
            changed = differences(kept, asked)
            if changed:
                raise InputError(
                    f"{self.folder}: made with another configuration ({'; '.join(changed[:3])}"
                    f"{'; …' if len(changed) > 3 else ''}); choose another --name, "
                    "or --redo to redo the stages that differ"
                )
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"{self.folder}: a file, not a run directory; choose another --name")
        if self.folder.exists() and not path.exists() and any(self.folder.iterdir()):
            raise InputError(f"{self.folder}: not a run directory and not empty; choose --name")

    def claim(self, config: Config) -> None:
        """Make the folder this configuration's."""
        write_json(self.folder / "config.json", to_dict(config))

    def stage(
        self,
        name: str,
        key: str,
        work: Callable[[], object],
        *,
        clear: str = "",
        makes: Sequence[str] = (),
    ) -> bool:
        """Do ``work`` unless a finished stage has the same fingerprint; True if it was done.

        Args as ``begin``.
        """
        if not self.begin(name, key, clear=clear, makes=makes):
            return False
        start = time.perf_counter()
        work()
        self.end(name, key, time.perf_counter() - start)
        return True

    def begin(self, name: str, key: str, *, clear: str = "", makes: Sequence[str] = ()) -> bool:
        """Whether a stage is due; if so it is noted as begun.

        ``clear`` names the sub-folder the stage fills: emptied when its contents belong to another
        fingerprint, and made again when it is gone. ``makes`` names files or folders without which
        the stage is not finished: it is redone when one of them is gone.
        """
        done = self.folder / "stages" / f"{name}.json"
        begun = done.with_suffix(".begun")
        made = self.folder / clear
        whole = all((self.folder / path).exists() for path in (clear, *makes))
        if done.exists() and read_json(done)["fingerprint"] == key and whole:
            return False
        stale = done.exists() or (begun.exists() and begun.read_text() != key)
        if clear and stale:
            # Marked before anything is removed: whoever is interrupted here clears again.
            write_text(begun, "clearing")
            done.unlink(missing_ok=True)
            if made.exists():
                shutil.rmtree(made)
        done.unlink(missing_ok=True)
        write_text(begun, key)
        return True

    def end(self, name: str, key: str, seconds: float) -> None:
        """Note a stage that was begun as finished."""
        done = self.folder / "stages" / f"{name}.json"
        sources = commit(Path(__file__).resolve().parents[1])
        write_json(done, {"fingerprint": key, "seconds": round(seconds, 2), "commit": sources})
        done.with_suffix(".begun").unlink()

    def seconds(self) -> dict[str, float]:
        """How long each finished stage took."""
        stages = sorted((self.folder / "stages").glob("*.json"))
        return {path.stem: read_json(path)["seconds"] for path in stages}


def read_json(path: Path) -> Any:
    """What ``write_json`` wrote; a file that is not JSON is an InputError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}); restore it or remove the folder") from None


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Dotted fields that differ, as ``name old → new``.

    >>> differences({"a": {"b": 1}, "c": 2}, {"a": {"b": 3}, "c": 2})
    ['a.b 1 → 3']
    """
    if isinstance(old, dict) and isinstance(new, dict):
        keys = list(dict.fromkeys([*old, *new]))
        return [
            line
            for key in keys
            for line in differences(
                old.get(key), new.get(key), f"{prefix}.{key}" if prefix else key
            )
        ]
    return [] if old == new else [f"{prefix} {json.dumps(old)} → {json.dumps(new)}"]


def provenance() -> dict[str, Any]:
    """Commit (when the sources are a git checkout) and versions of the libraries that matter."""
    packages = ("cascade-lm", "jax", "flax", "optax", "numpy", "scikit-learn")
    return {
        "commit": commit(Path(__file__).resolve().parents[1]),
        "versions": {name: metadata.version(name) for name in packages},
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def commit(source: Path) -> str:
    """Twelve digits of the commit checked out in this very folder, or ``unknown``.

    ``-dirty`` follows where tracked files differ from it.
    """
    # An installed copy may lie inside some other project's checkout: its commit says nothing.
    if not (source / ".git").exists() or shutil.which("git") is None:
        return "unknown"
    command = ["git", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=12"]
    git = subprocess.run([*command, "--exclude=*"], capture_output=True, text=True, check=False)
    return git.stdout.strip() or "unknown"
