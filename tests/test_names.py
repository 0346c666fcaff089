"""Every file and module that the docs, docstrings and comments name exists."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

import pytest

from tools.wording import texts

REPOSITORY = Path(__file__).parents[1]

FILE = re.compile(r"(?<![\w/.:<*{-])[\w./-]*\w\.(?:py|md)\b(?![\w(*])")
MODULE = re.compile(r"(?<![\w/.-])agentopt(?:\.[A-Za-z_]\w*)+")
ROOM_PATH = re.compile(r"`([a-z]+(?:/[a-z_]+)+)/?`")
"""`room/module` in a Markdown page, without its suffix."""

EXAMPLES = {"planted.py", "file.py", "hotpot_evaluate_v1.py"}
"""Files of users in examples, beside those of `my_pkg`, and the official evaluation script of HotpotQA."""

OTHERS = {"Callable", "ChatOpenAI", "OpenAI", "Path", "WilcoxonPruner"}
"""Classes of other libraries that the pages name."""


@cache
def tracked() -> tuple[str, ...]:
    listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return tuple(listed.stdout.split())


def pages() -> list[str]:
    """The Markdown pages that describe the present: not the changelog and the dated results."""
    return [f for f in tracked() if f.endswith(".md") and f not in ("CHANGELOG.md", "benchmarks/RESULTS.md")]


def named_in(file: str) -> Iterator[tuple[int, str]]:
    """The prose of a file, with line numbers: a page as a whole, of Python its docstrings and comments."""
    source = (REPOSITORY / file).read_text(encoding="utf-8")
    if file.endswith(".md"):
        yield from enumerate(source.splitlines(), 1)
    else:
        yield from ((text.line, text.text) for text in texts(source))


def exists(file: str, beside: str) -> bool:
    """Whether a tracked file has this path, seen from the repository, the package or the folder of `beside`."""
    path = PurePosixPath(file)
    if path.is_absolute() or path.name in EXAMPLES or path.parts[0] == "my_pkg":
        return True
    if ".." in path.parts:
        return (REPOSITORY / beside).parent.joinpath(file).exists()
    return any(f"/{known}".endswith(f"/{file.removeprefix('./')}") for known in tracked())


@cache
def attributes_of_spans() -> set[str]:
    """The attributes that spans of OpenTelemetry have."""
    modules = (file for file in (REPOSITORY / "agentopt").rglob("*.py") if "core.spans import" in file.read_text())
    return {name for file in modules for name in re.findall(r'"(agentopt\.[a-z.]+)":', file.read_text())}


def is_there(dotted: str) -> bool:
    """Whether a dotted name is a module of the package or an attribute of one."""
    parts = dotted.split(".")
    if dotted in ("agentopt.plugins",) or dotted in attributes_of_spans():  # the group of entry points
        return True
    for length in range(len(parts), 0, -1):
        name = ".".join(parts[:length])
        if find_spec(parts[0]) and _is_module(name):
            found = import_module(name)
            for attribute in parts[length:]:
                if not hasattr(found, attribute):
                    return False
                found = getattr(found, attribute)
            return True
    return False


def _is_module(name: str) -> bool:
    path = REPOSITORY.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or path.joinpath("__init__.py").is_file()


def is_room_path(path: str) -> bool:
    """Whether a tracked module or folder has this path, seen from the repository or from any folder of the package."""
    places = (re.escape(path), rf"agentopt/(?:\w+/)*{re.escape(path)}")
    return any(re.match(rf"{place}(?:\.py|/)", file) for file in tracked() for place in places)


def missing(file: str) -> list[str]:
    """`file:line: name` for each name in the file that nothing has."""
    found = []
    for line, text in named_in(file):
        names = [name for name in FILE.findall(text) if not exists(name, file)]
        names += [name for name in MODULE.findall(text) if not is_there(name)]
        if file.startswith("docs/") or file == "README.md":
            names += [name for name in ROOM_PATH.findall(text) if not is_room_path(name)]
        found += [f"{file}:{line}: {name}" for name in names]
    return found


def test_every_file_and_module_that_is_named_exists() -> None:
    sources = [f for f in tracked() if f.endswith(".py") and (REPOSITORY / f).exists()]
    assert [place for file in (*pages(), *sources) for place in missing(file)] == []


def test_the_table_of_rooms_names_modules_that_are_in_the_room() -> None:
    page = (REPOSITORY / "docs" / "design.md").read_text(encoding="utf-8")
    rooms = re.findall(r"^\| \d* ?\| `agentopt/(\w+)` \| (.*)", page, re.M)
    assert len(rooms) == len([path for path in (REPOSITORY / "agentopt").iterdir() if (path / "__init__.py").is_file()])
    for room, described in rooms:
        folder = REPOSITORY / "agentopt" / room
        there = {path.stem for path in folder.rglob("*") if path.suffix == ".py" or path.is_dir()}
        assert set(re.findall(r"`([a-z_]+)/?`", described)) - there == set(), room


def test_every_row_of_the_table_of_changes_names_files_that_exist() -> None:
    page = (REPOSITORY / "docs" / "design.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.*) \| (`agentopt/.*\.py`) \|$", page.partition("## What is where")[2], re.M)
    assert len(rows) >= 20
    for change, places in rows:
        files = re.findall(r"`(agentopt/[\w/]+\.py)`", places)
        assert files, change
        assert [file for file in files if not (REPOSITORY / file).is_file()] == [], change


def test_every_class_that_a_page_names_exists() -> None:
    source = "\n".join((REPOSITORY / file).read_text() for file in tracked() if re.match(r"agentopt/.*\.py", file))
    defined = set(re.findall(r"^\s*(?:class|def) (\w+)|^(\w+) = ", source, re.M))
    known = {name for names in defined for name in names} | OTHERS
    for page in (page for page in pages() if page.startswith("docs/") or page == "README.md"):
        text = re.sub(r"^```.*?^```", "", (REPOSITORY / page).read_text(encoding="utf-8"), flags=re.S | re.M)
        named = set(re.findall(r"`([A-Z][a-z]+[A-Za-z]*)(?:[.(][^`]*)?`", text))
        assert named - known == set(), page


@pytest.mark.parametrize(
    "text",
    [
        "See METHODS.md.",
        "`agentopt/nowhere.py` has it",
        "in docs/nowhere.md",
        "`agentopt.core.nowhere`",
        "core/gone.py",
    ],
)
def test_a_name_that_nothing_has_is_found(text: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    assert len(missing(str(page))) == 1
