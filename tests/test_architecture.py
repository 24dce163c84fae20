"""The architecture, held by tests: directions, light imports, the layout page, the lock, the house.

Everything here reads sources with ``ast`` or runs the command in a process of its own.
"""

import ast
import dataclasses
import graphlib
import json
import re
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("cat", "routers", "experiments")
HEAVY = {"jax", "jaxlib", "flax", "optax", "orbax", "grain", "sklearn", "scipy", "matplotlib"}
RECORD_SCHEMA = {"routers.records", "routers.schema", "routers.errors", "routers.ragged"}
CAT_MAY_IMPORT = RECORD_SCHEMA | {"routers.fields", "routers.files"}
LEARNERS = {"routers.learn"}  # need JAX themselves; imported by ``fit`` alone
MOST_LINES = 350


def module_name(path: Path) -> str:
    """``cat/models/decoder.py`` is ``cat.models.decoder``; an ``__init__.py`` is its package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    module_name(path): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when a module is imported: not functions, not ``if TYPE_CHECKING``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        yield node
        yield from at_import(node)


def imported(nodes: Iterator[ast.AST]) -> set[str]:
    """Full names of what is imported; ``from cat import mesh`` is the module ``cat.mesh``."""
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import; write the full name"
            source = node.module or ""
            inner = {f"{source}.{alias.name}" for alias in node.names}
            names |= {name if name in MODULES else source for name in inner}
    return names


def top(name: str) -> str:
    return name.partition(".")[0]


def test_the_helpers_see_what_they_should():
    tree = ast.parse(
        "import a.b\nfrom cat import config, nothing\nif TYPE_CHECKING:\n    import c\n"
        "try:\n    import d\nexcept ImportError:\n    pass\n"
        "def f():\n    import e\nclass C:\n    import g\n    def m(self):\n        import h\n"
    )
    assert imported(at_import(tree)) == {"a.b", "cat.config", "cat", "d", "g"}
    assert imported(ast.walk(tree)) == {"a.b", "cat.config", "cat", *"cdegh"}
    assert len(MODULES) > 40


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_one_way(name):
    """experiments → cat → the record schema of routers; in functions, too."""
    ours = {other for other in imported(ast.walk(TREES[name])) if top(other) in PACKAGES}
    if top(name) == "routers":
        assert {top(other) for other in ours} <= {"routers"}
    if top(name) == "cat":
        assert {o for o in ours if top(o) == "routers"} <= CAT_MAY_IMPORT
        assert "experiments" not in {top(other) for other in ours}


def test_no_import_cycles():
    graph = {
        name: {other for other in imported(at_import(tree)) if other in MODULES}
        for name, tree in TREES.items()
    }
    list(graphlib.TopologicalSorter(graph).static_order())  # CycleError names the cycle


def test_matplotlib_is_only_in_plots():
    users = {n for n, t in TREES.items() if "matplotlib" in map(top, imported(ast.walk(t)))}
    assert users <= {"experiments.plots"}


def test_routers_reach_heavy_libraries_only_inside_functions():
    first = {n: imported(at_import(t)) for n, t in TREES.items() if top(n) == "routers"}
    assert {n for n, names in first.items() if HEAVY & set(map(top, names))} <= LEARNERS
    assert {n for n, names in first.items() if LEARNERS & names} == set()


COMMANDS = (ROOT / "experiments" / "commands").glob("[!_]*.py")
VERBS = sorted(path.stem.rstrip("_") for path in COMMANDS)
LISTS = ["configs", "models", "routers", "tasks"]
LIGHT = [[], ["--help"], ["run", "demo", "--help"], *([name] for name in LISTS)]


@pytest.mark.parametrize("arguments", [*LIGHT, *([verb, "--help"] for verb in VERBS)], ids=" ".join)
def test_light_commands_stay_light(arguments):
    code = (
        "import json, sys\nfrom experiments.cli import main\n"
        f"try:\n    code = main({arguments!r})\nexcept SystemExit as stop:\n    code = stop.code\n"
        "print(json.dumps([code or 0, sorted({m.partition('.')[0] for m in sys.modules})]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    exit_code, loaded = json.loads(done.stdout.splitlines()[-1])
    assert exit_code == 0
    assert not HEAVY & set(loaded)


@pytest.mark.parametrize("name", ["cat.config", "cat.example", "cat.quality", "cat.tasks"])
def test_text_is_read_and_graded_without_jax(name):
    code = f"import sys, {name}; print(*{{m.partition('.')[0] for m in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert name.partition(".")[0] in done.stdout.split()
    assert not HEAVY & set(done.stdout.split())


def layout() -> str:
    """The fenced tree under "How it is laid out" of the README."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"^## How it is laid out$.*?^```\w*\n(.*?)^```", text, re.M | re.S)
    assert found, 'README.md has no fenced tree under "## How it is laid out"'
    return found[1]


def paths_in(tree: str) -> list[str]:
    """The paths a tree names: two spaces a level, the name, two spaces or more, what it is.

    A line that is indented deeper than its parent's children goes on with the text above.
    """
    paths, folders = [], [""]
    for line in tree.splitlines():
        indent = len(line) - len(line.lstrip())
        depth, odd = divmod(indent, 2)
        if not line.strip() or odd or depth >= len(folders):
            continue
        names = re.split(r"\s{2,}", line.strip())[0]
        del folders[depth + 1 :]
        for name in re.split(r",\s*", names):
            paths.append(folders[depth] + name)
        if names.endswith("/"):
            folders.append(paths[-1])
    return paths


def test_the_tree_parser():
    tree = "a/      rooms\n  b.py    text\n           more text\n  c/\n    d.py, e.py  x\nf.md  y\n"
    assert paths_in(tree) == ["a/", "a/b.py", "a/c/", "a/c/d.py", "a/c/e.py", "f.md"]


def test_everything_in_the_readmes_tree_exists():
    paths = paths_in(layout())
    assert paths[0] == "cat/"
    missing = [path for path in paths if not list(ROOT.glob(path.rstrip("/")))]
    assert missing == []


@pytest.mark.parametrize("package", PACKAGES)
def test_the_readmes_tree_shows_every_module(package):
    text = layout()
    shown = {p.relative_to(ROOT) for path in paths_in(text) for p in ROOT.glob(path.rstrip("/"))}
    here = [p for p in (ROOT / package).glob("[!_.]*") if p.suffix in ("", ".py")]
    missing = [
        path.name
        for path in here
        if path.relative_to(ROOT) not in shown and not re.search(rf"\b{path.name}\b", text)
    ]
    assert missing == []


PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_between_pages_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    broken = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert broken == []


REQUIREMENTS = (ROOT / "requirements.lock").read_text().replace("\\\n", "").splitlines()


def test_the_lock_names_no_address():
    text = "\n".join(REQUIREMENTS)
    for address in ("://", "--index-url", "--extra-index-url", "--find-links", " @ ", "-e "):
        assert address not in text


def test_every_requirement_is_pinned_and_hashed():
    assert len(REQUIREMENTS) > 50
    for line in REQUIREMENTS:
        assert re.match(r"[A-Za-z0-9][\w.-]*(\[[\w,-]+\])?==[^\s;]+", line), line
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", line), line


def test_the_lock_holds_every_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    names = {re.split(r"[^\w.-]", item)[0].lower().replace("_", "-") for item in wanted}
    locked = {re.split(r"[=\[]", line)[0].lower() for line in REQUIREMENTS}
    assert names - locked == set()


def public(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef | ast.ClassDef]]:
    """Public functions and classes of a module, and public methods of its public classes."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node.name, node
            for inner in node.body if isinstance(node, ast.ClassDef) else []:
                if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_"):
                    yield f"{node.name}.{inner.name}", inner


@pytest.mark.parametrize("name", MODULES)
def test_everything_public_says_what_it_is_and_returns(name):
    assert ast.get_docstring(TREES[name]), "no module docstring"
    for full, node in public(TREES[name]):
        assert ast.get_docstring(node), f"{full} has no docstring"
        if isinstance(node, ast.FunctionDef):
            assert node.returns is not None, f"{full} has no return annotation"


def test_files_stay_small(record_property, capsys):
    sizes = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    with capsys.disabled():
        print(f"\nmodules: {len(sizes)}, median {statistics.median(sizes.values()):.0f} lines")
    assert {name: lines for name, lines in sizes.items() if lines > MOST_LINES} == {}


def experiment_names() -> list[str]:
    return [p.stem for p in (ROOT / "experiments" / "configs").glob("[!_]*.py")]


@pytest.mark.parametrize("name", experiment_names())
@pytest.mark.parametrize("size", ["small", "large"])
def test_every_experiment_builds_its_models(name, size):
    """Shapes only: no memory is used."""
    import jax
    from flax import nnx

    from cat.mesh import make_mesh
    from cat.models.decoder import Decoder
    from experiments import configs

    config = configs.load(name)
    config.check()
    model = dataclasses.replace(getattr(config, size), vocab_size=300)
    with jax.set_mesh(make_mesh()):
        built = nnx.eval_shape(lambda: Decoder(model, rngs=nnx.Rngs(0)))
    shapes = [leaf.shape for leaf in jax.tree.leaves(nnx.state(built, nnx.Param))]
    assert (300, model.width) in shapes


def test_the_house_speaks_to_strangers():
    """No path of one machine, nothing left to do, no printing of debugging."""
    pattern = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|/home/|/root/|/Users/|breakpoint\(|pdb")
    assert {n: m[0] for n, p in MODULES.items() if (m := pattern.search(p.read_text()))} == {}


def test_continuous_integration_ends_with_the_suite():
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    calls = [line for line in lines if line.startswith("make ")]
    assert [line.split()[1] for line in calls] == ["env", "check", "test"]
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
