"""Takes functions out of Python files together with all that they need, so that they stand in one module.

Definitions are copied as they are written. What they use of the standard library and of the `openai` client is
imported; what they use of agentopt is copied too; anything else is refused.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from agentopt.core import registry
from agentopt.core.errors import UserError

KEPT = frozenset({*sys.stdlib_module_names, "openai"})
"""Modules that the one module may import."""

ELSEWHERE = "write it with the standard library alone, or use `agentopt serve`, which needs no export"


@dataclass
class _File:
    """A file, and which of its top-level statements are wanted (by index)."""

    path: Path
    lines: list[str]
    statements: list[ast.stmt]
    wanted: set[int] = field(default_factory=set)

    @classmethod
    def read(cls, path: Path) -> _File:
        text = path.read_text(encoding="utf-8")
        statements = list(_top_level(ast.parse(text)))
        _drop_registrations(statements)
        return cls(path, text.splitlines(), statements)

    def binding(self, name: str) -> int | None:
        """The first statement that gives `name` its value."""
        return next((i for i, statement in enumerate(self.statements) if name in _bound(statement)), None)

    def text(self, index: int) -> str:
        """The statement as it is written, with its decorators and the comment above it."""
        statement = self.statements[index]
        first = min([statement.lineno, *(d.lineno for d in getattr(statement, "decorator_list", ()))]) - 1
        while first and self.lines[first - 1].startswith("#"):
            first -= 1
        written = self.lines[first : statement.end_lineno]
        return "\n".join(re.sub(r"  # (noqa|type: ignore).*", "", line) for line in written)


class Extraction:
    """Definitions of several files that are to stand in one module."""

    def __init__(self) -> None:
        self._files: dict[Path, _File] = {}
        self._imports: set[str] = set()
        self._owners: dict[str, str] = {}

    def add(self, path: Path, names: Iterable[str]) -> None:
        """Copy `names` of a file, and everything of it that they use.

        Raises `UserError` for what cannot be copied: a library that is not part of Python, a name that stands for
        something else already, the use of `__file__`.
        """
        path = path.resolve()
        if path not in self._files:
            self._files[path] = _File.read(path)
        file = self._files[path]
        for name in names:
            index = file.binding(name)
            if index is not None:
                self._take(file, index, name)
        self._take_what_alters(file)
        # Files that others build on come first, as their imports did.
        self._files[path] = self._files.pop(path)

    def claim(self, name: str, owner: str) -> None:
        """Say that `name` belongs to `owner`. Raises `UserError` where it is someone else's."""
        if self._owners.setdefault(name, owner) != owner:
            raise UserError(
                f"one module cannot hold two things called {name!r}, but got those of {self._owners[name]} and {owner}",
                remedy=f"rename {name!r} in the task's Python file",
            )

    def imports(self, *further: str) -> str:
        """The import statements that the definitions need, and `further` modules, sorted; libraries come last."""
        plain = sorted({f"import {name}" for name in further} | {line for line in self._imports if line[0] == "i"})
        by_module: dict[str, list[str]] = {}
        for line in sorted(self._imports - set(plain), key=lambda line: ("openai" in line, line)):
            _, module, _, name = line.split(" ", 3)
            by_module.setdefault(module, []).append(name)
        return "\n".join([*plain, *(f"from {module} import {', '.join(names)}" for module, names in by_module.items())])

    @property
    def definitions(self) -> str:
        """The definitions of all files, each in the order of its file."""
        texts = [file.text(index) for file in self._files.values() for index in sorted(file.wanted)]
        return "\n\n\n".join(texts)

    def _take(self, file: _File, index: int, name: str) -> None:
        statement = file.statements[index]
        if isinstance(statement, ast.Import | ast.ImportFrom):
            self._import(file, statement, name)
            return
        self.claim(name, file.path.name)
        if index not in file.wanted:
            file.wanted.add(index)
            self._need(file, statement)

    def _need(self, file: _File, statement: ast.stmt) -> None:
        """Take what a statement uses, save what Python itself brings."""
        for module, line in _imported_inside(statement):
            if module.partition(".")[0] not in KEPT:
                raise _foreign(module, f"{file.path}:{line}")
        for name in sorted(_used(statement)):
            if name == "__file__":
                rule = "a function that reads files beside its own cannot be copied, because it uses `__file__`"
                raise UserError(rule, where=f"{file.path}:{statement.lineno}", remedy=ELSEWHERE)
            index = file.binding(name)
            # What the file does not bind is a local name, or Python's own.
            if index is not None:
                self._take(file, index, name)

    def _take_what_alters(self, file: _File) -> None:
        """Statements without a name of their own, such as `OPTIONS.append(...)`, go with what they alter."""
        for index, statement in enumerate(file.statements):
            if index in file.wanted or _bound(statement) or _is_text(statement):
                continue
            taken = {name for i in file.wanted for name in _bound(file.statements[i])}
            if _used(statement) & taken:
                file.wanted.add(index)
                self._need(file, statement)

    def _import(self, file: _File, statement: ast.Import | ast.ImportFrom, name: str) -> None:
        alias = next(a for a in statement.names if (a.asname or a.name.partition(".")[0]) == name)
        module = alias.name if isinstance(statement, ast.Import) else f"{statement.module or ''}"
        root = module.partition(".")[0]
        renamed = f" as {alias.asname}" if alias.asname else ""
        if root in KEPT and not getattr(statement, "level", 0):
            self.claim(name, f"{root} (imported)")
            of = f"from {module} import {alias.name}" if isinstance(statement, ast.ImportFrom) else f"import {module}"
            self._imports.add(of + renamed)
        elif root == "agentopt" and isinstance(statement, ast.ImportFrom) and not renamed:
            found = importlib.util.find_spec(module)
            assert found
            assert found.origin
            self.add(Path(found.origin), [name])
        else:
            raise _foreign(module, f"{file.path}:{statement.lineno}")


def _top_level(tree: ast.Module) -> Iterator[ast.stmt]:
    """The statements of a module, those under `if TYPE_CHECKING` among them."""
    for statement in tree.body:
        if isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING":
            yield from statement.body
        elif not (isinstance(statement, ast.ImportFrom) and statement.module == "__future__"):
            yield statement


def _drop_registrations(statements: list[ast.stmt]) -> None:
    """Remove the decorators of the registry: a module that holds its parsers has no names to look up."""
    imports = [s for s in statements if isinstance(s, ast.ImportFrom) and s.module in ("agentopt", registry.__name__)]
    names = {alias.asname or alias.name for statement in imports for alias in statement.names}
    for statement in statements:
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            statement.decorator_list = [d for d in statement.decorator_list if not _used(d) & names]


def _imported_inside(statement: ast.stmt) -> Iterator[tuple[str, int]]:
    """The modules that a definition imports when it runs, and the lines where."""
    for node in ast.walk(statement):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or ""), node.lineno


def _foreign(module: str, where: str) -> UserError:
    rule = f"a module of its own cannot import {module!r}, which is not part of Python"
    return UserError(rule, where=where, remedy=ELSEWHERE)


def _bound(statement: ast.stmt) -> set[str]:
    """The names that a top-level statement gives a value."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return {alias.asname or alias.name.partition(".")[0] for alias in statement.names}
    return {n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def _used(statement: ast.AST) -> set[str]:
    return {n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
