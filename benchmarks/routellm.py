"""Wall clock of our evaluation of RouteLLM's MMLU file against RouteLLM's own evaluator.

    python benchmarks/routellm.py DATA REFERENCE_PYTHON

DATA holds RouteLLM's files: ``routellm/evals/mmlu`` (57 answer tables), ``mmlu_domain_order.json``
and ``golden/mmlu_scores.csv`` (columns len and hash). REFERENCE_PYTHON is a Python with RouteLLM as
its users have it; the version of 2024 wants the NumPy of its time:

    python -m venv reference
    reference/bin/pip install torch routellm==0.2.0 matplotlib pandarallel tiktoken psutil \\
        "numpy<2" "pyarrow<19" "datasets<4"

Timed are whole commands, from start to exit, the fastest of five turns each:

- RouteLLM: ``routellm.evals.evaluate --routers len hash --benchmark mmlu``, its own code from the
  package, with the scores in the cache where it looks for them. It reads 57 CSV files, evaluates
  2 x 11 thresholds, prints them and draws one plot. Only what makes router objects is replaced
  once it is imported (scores are cached, and weights would come over the network); and, as 0.2.0
  hands a model's name to a function that wants the pair and stops there, the name it is given
  carries the pair.
- RouteLLM, bare: the same without the two modules that load routers, and with them torch and
  transformers: what it would take if it imported only what an evaluation needs.
- starting: only the imports. What is left of a command without them is the last column.
- ours: ``cascade evaluate RECORDS --convention routellm``, which prints the same figures, those of
  the exact curve, and with them what RouteLLM does not measure; the last line adds 1,000
  bootstrap resamples. Reading the 57 files is done once, by ``cascade import``, timed too.

The figures of both are compared before anything is printed.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

TURNS = 5
MODELS = ("mistralai/Mixtral-8x7B-Instruct-v0.1", "gpt-4-1106-preview")
# Runs the evaluator as a program; "bare" without the modules that load its routers.
RUN = """
import importlib, runpy, sys, types
mode, weak, strong = sys.argv[1:]
names = {"len": None, "hash": None}
loaders = ("routellm.controller", "routellm.routers.routers")
if mode == "bare":
    sys.modules |= {name: types.ModuleType(name) for name in loaders}
controller, routers = map(importlib.import_module, loaders)
class Name(str): weak, strong = sys.argv[2:]
pair = types.SimpleNamespace(weak=weak, strong=Name(strong))
controller.Controller = lambda **_: types.SimpleNamespace(routers=names, model_pair=pair)
routers.Router, routers.ROUTER_CLS = object, names
sys.argv = ["evaluate", "--routers", "len", "hash", "--benchmark", "mmlu", "--parallel", "1"]
runpy.run_module("routellm.evals.evaluate", run_name="__main__")
"""
CACHE = """
import sys, numpy, pandas
scores = pandas.read_csv(sys.argv[1])
numpy.save(sys.argv[2], {name: scores[name].to_numpy() for name in ("len", "hash")})
"""


# The modules that either program imports before it begins.
STARTS = {
    "RouteLLM": "import matplotlib.pyplot, pandas, routellm.controller, routellm.routers.routers",
    "RouteLLM, bare": "import matplotlib.pyplot, pandas, psutil, yaml, pandarallel, tqdm",
    "cascade": "import experiments.cli, experiments.commands.evaluate, routers.evaluate",
}


def seconds(command: list[str | Path], **options) -> tuple[float, str]:
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, **options)
    took = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command[:3]))} failed:\n{done.stderr[-2000:]}")
    return took, done.stdout


def prepare_reference(python: str, data: Path, folder: Path) -> None:
    """A copy of the package with the data where it reads them; installed files stay untouched."""
    find = (
        "import importlib.util as u; print(u.find_spec('routellm').submodule_search_locations[0])"
    )
    _, installed = seconds([python, "-c", find])
    shutil.copytree(installed.strip(), folder / "routellm")
    mmlu = folder / "routellm" / "evals" / "mmlu"
    shutil.copytree(data / "routellm" / "evals" / "mmlu", mmlu, dirs_exist_ok=True)
    for path in (mmlu, *mmlu.rglob("*")):
        path.chmod(0o755)
    seconds([python, "-c", CACHE, data / "golden" / "mmlu_scores.csv", mmlu / "cache.npy"])


def check(printed: str, found: dict) -> None:
    """APGR and AUC of both programs agree to the digits that RouteLLM prints."""
    for name in ("len", "hash"):
        area, gap = map(float, re.findall(rf"{name} .*?([\d.]+)\s+([\d.]+)\n", printed)[-1])
        ours = found["routers"][name]["conventions"]["routellm"]
        if abs(100 * ours["auc"] - area) > 1e-6 or abs(ours["apgr"] - gap) > 1e-6:
            raise SystemExit(f"{name}: {area}, {gap} here and {ours['auc']}, {ours['apgr']} there")


def main(data: Path, python: str) -> None:
    cascade = Path(sys.executable).with_name("cascade")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare_reference(python, data, folder)
        records = folder / "mmlu.parquet"
        costs = [
            w
            for m, c in zip(MODELS, ("0.0001", "0.01"), strict=True)
            for w in ("--query-cost", f"{m}={c}")
        ]
        files = [data / "routellm" / "evals" / "mmlu", data / "mmlu_domain_order.json"]
        evaluate = [cascade, "evaluate", records, "--convention", "routellm", "--json"]
        commands = {
            "RouteLLM starting": [python, "-c", STARTS["RouteLLM"]],
            "RouteLLM evaluate": [python, "-c", RUN, "whole", *MODELS],
            "RouteLLM, bare starting": [python, "-c", STARTS["RouteLLM, bare"]],
            "RouteLLM, bare evaluate": [python, "-c", RUN, "bare", *MODELS],
            "cascade starting": [sys.executable, "-c", STARTS["cascade"]],
            "cascade import": [
                cascade, "import", "routellm", *files, data / "golden" / "mmlu_scores.csv",
                "-o", records, "--split", "test", *costs,
            ],
            "cascade evaluate": [*evaluate, "--bootstrap", "0"],
            "cascade evaluate, 1,000 resamples": evaluate,
        }  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": str(folder), "MPLBACKEND": "Agg"}
        environment |= {"OPENAI_API_KEY": "none"}  # its client refuses to be made without one
        best, printed = dict.fromkeys(commands, float("inf")), {}
        for _ in range(TURNS):
            for title, command in commands.items():
                env = environment if title.startswith("RouteLLM") else None
                took, printed[title] = seconds(command, cwd=folder, env=env)
                best[title] = min(best[title], took)
        check(printed["RouteLLM evaluate"], json.loads(printed["cascade evaluate"]))
    best["cascade import and evaluate"] = best["cascade import"] + best["cascade evaluate"]
    table = Table("command", "seconds", "times faster", "than bare", "without start-up s")
    for title, took in best.items():
        program = next(name for name in ("RouteLLM, bare", "RouteLLM", "cascade") if name in title)
        starting = best[f"{program} starting"] * (1 + ("import and" in title))
        peers = ("RouteLLM evaluate", "RouteLLM, bare evaluate")
        ratios = [f"{best[peer] / took:.1f}" for peer in peers]
        table.add_row(title, f"{took:.2f}", *ratios, f"{took - starting:.2f}")
    Console().print(table)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit("usage: python benchmarks/routellm.py DATA REFERENCE_PYTHON")
    main(Path(sys.argv[1]), sys.argv[2])
