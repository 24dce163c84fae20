"""The `cascade` command: finds the verb's file, runs it, turns errors into exit codes.

Exit codes: 0 done; 2 bad input (one line on stderr, nothing written) or a full disk; 1 a fault;
130 interrupted (run the same command again to continue).
"""

from __future__ import annotations

import ast
import importlib
import keyword
import pkgutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from experiments import commands
from routers.errors import InputError, did_you_mean
from routers.files import FULL


def verbs() -> dict[str, str]:
    """Every verb and the first line of its file, read without importing it."""
    found = {}
    for module in pkgutil.iter_modules(commands.__path__):
        text = Path(commands.__path__[0], f"{module.name}.py").read_text()
        doc = ast.get_docstring(ast.parse(text)) or ""
        found[module.name.rstrip("_")] = doc.partition("\n")[0]
    return found


def usage() -> str:
    """The text of `cascade --help`."""
    lines = ["usage: cascade VERB [--help] ...", "", "Cascades of language models:"]
    lines += [f"  {name:<10} {line}" for name, line in verbs().items()]
    lines += [
        "",
        "Start here:",
        "  cascade run demo                       train, route and report, in minutes on a laptop",
        "  cascade run text2text --data my.jsonl  the same on your own data",
        "  cascade evaluate logs.parquet          compare routers on your own logs, no model",
        "  cascade compare logs.parquet           which router is better, how surely, and why",
        "  cascade import table log.csv ...       any log becomes such a file",
    ]
    return "\n".join(lines)


def dispatch(arguments: Sequence[str]) -> int:
    """Run one verb; bad input raises InputError."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    name, *rest = arguments
    known = verbs()
    if name not in known:
        raise InputError(f"unknown verb '{name}'; {did_you_mean(name, list(known))}")
    module = f"{name}_" if keyword.iskeyword(name) else name  # `import` lives in import_.py
    return importlib.import_module(f"experiments.commands.{module}").main(rest) or 0


def guarded(work: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> int:
    """Run ``work``; turn what a person can act on into one line and an exit code."""
    try:
        return work(arguments)
    except InputError as error:
        print(f"cascade: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("cascade: interrupted; run the same command again to continue", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0  # the reader of our output (head, less) went away
    except OSError as error:
        if error.errno not in FULL:
            raise
        what = error.filename or "a file"
        print(
            f"cascade: {what}: could not be written ({error.strerror}); "
            "make room and run the same command again",
            file=sys.stderr,
        )
        return 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the console script; returns the exit code."""
    return guarded(dispatch, sys.argv[1:] if arguments is None else arguments)


if __name__ == "__main__":
    sys.exit(main())
