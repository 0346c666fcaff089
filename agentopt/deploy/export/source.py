"""Extracts definitions from Python files, with everything that they use, into one module.

Definitions are copied verbatim. Imports of the standard library and of `LIBRARIES` are kept, definitions of agentopt
are copied too, any other import is refused.
"""

from __future__ import annotations

import ast
import importlib.util
import io
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from agentopt.core import registry
from agentopt.core.errors import UserError

LIBRARIES = {
    "openai": "openai",
    "jinja2": "jinja2",
    "jsonschema": "jsonschema",
    "referencing": "jsonschema",
    "regex": "regex",
}
"""Top-level modules that the one module may import beside the standard library -> the package that installs each."""

_FOR_LINTERS = re.compile(r"#\s*(noqa|type:\s*ignore)\b")
"""Comments that are not copied: a reader of the module would look for the linter that they are for."""
_ALLOWED = {*sys.stdlib_module_names, *LIBRARIES}

ELSEWHERE = "use only the standard library, or deploy with `agentopt serve`, which needs no export"


@dataclass(frozen=True)
class _Parsed:
    """The lines of a file, its top-level statements, and the names that each of them binds."""

    lines: list[str]
    statements: list[ast.stmt]
    bound: list[set[str]]

    @classmethod
    @lru_cache(maxsize=256)
    def of(cls, text: str) -> _Parsed:
        """Parse a text once in a process: each export copies from the same files of agentopt."""
        statements = list(_top_level(ast.parse(text)))
        _drop_registrations(statements)
        # Not by `splitlines`: to Python, a form feed or U+2028 ends no line.
        lines = text.split("\n")
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT and _FOR_LINTERS.match(token.string):
                row, column = token.start
                lines[row - 1] = lines[row - 1][:column].rstrip()
        return cls(lines, statements, [_bound(statement) for statement in statements])


@dataclass
class _File:
    """A file and the indices of the top-level statements to copy."""

    path: Path
    parsed: _Parsed
    copied: set[int] = field(default_factory=set)

    @classmethod
    def read(cls, path: Path) -> _File:
        with tokenize.open(path) as file:
            return cls(path, _Parsed.of(file.read()))

    @property
    def statements(self) -> list[ast.stmt]:
        return self.parsed.statements

    def binding(self, name: str) -> int | None:
        """The index of the first statement that binds `name`."""
        return next((index for index, names in enumerate(self.parsed.bound) if name in names), None)

    def text(self, index: int) -> str:
        """The source of a statement, with its decorators and the comment above it."""
        statement, lines = self.statements[index], self.parsed.lines
        first = min([statement.lineno, *(d.lineno for d in getattr(statement, "decorator_list", ()))]) - 1
        while first and lines[first - 1].startswith("#"):
            first -= 1
        return "\n".join(lines[first : statement.end_lineno])


class Extraction:
    """Definitions of several files that are copied into one module."""

    def __init__(self) -> None:
        self._files: dict[Path, _File] = {}
        self._imports: set[str] = set()
        self._roots: set[str] = set()
        self._owners: dict[str, str] = {}

    def add(self, path: Path, names: Iterable[str]) -> None:
        """Copy definitions of a file and everything that they use.

        Args:
            path: A Python file.
            names: Names that its top-level statements bind.

        Raises:
            UserError: A definition cannot be copied: it imports another library, has the name of a different
                definition, uses `__file__`, or is none of the file's top-level statements.
        """
        path = path.resolve()
        if path not in self._files:
            self._files[path] = _File.read(path)
        file = self._files[path]
        for name in names:
            index = file.binding(name)
            if index is None:
                rule = f"a module copies what the top level of a file defines, which is not so of {name!r}"
                raise UserError(rule, where=str(path), remedy=f"define {name!r} there, outside of any `if` or `try`")
            self._take(file, index, name)
        self._take_statements_that_alter(file)
        # A file that others import comes before them.
        self._files[path] = self._files.pop(path)

    def claim(self, name: str, owner: str) -> None:
        """Reserve `name` for `owner`. Raises `UserError` if another owner has reserved it."""
        if self._owners.setdefault(name, owner) != owner:
            raise UserError(
                f"one module cannot define {name!r} twice, but got those of {self._owners[name]} and {owner}",
                remedy=f"rename {name!r} in the task's Python file",
            )

    def imports(self, *further: str) -> str:
        """The import statements that the definitions need, and those of the modules `further`, sorted."""
        plain = sorted({f"import {name}" for name in further} | {line for line in self._imports if line[0] == "i"})
        by_module: dict[str, list[str]] = {}
        for line in sorted(self._imports - set(plain)):
            _, module, _, name = line.split(" ", 3)
            by_module.setdefault(module, []).append(name)
        return "\n".join([*plain, *(f"from {module} import {', '.join(names)}" for module, names in by_module.items())])

    @property
    def libraries(self) -> list[str]:
        """The packages to install for the module."""
        return list(dict.fromkeys(package for root, package in LIBRARIES.items() if root in self._roots))

    @property
    def definitions(self) -> str:
        """The definitions of all files, each in the order of its file."""
        texts = [file.text(index) for file in self._files.values() for index in sorted(file.copied)]
        return "\n\n\n".join(texts)

    def _take(self, file: _File, index: int, name: str) -> None:
        statement = file.statements[index]
        if isinstance(statement, ast.Import | ast.ImportFrom):
            self._import(file, statement, name)
            return
        self.claim(name, file.path.name)
        if index not in file.copied:
            file.copied.add(index)
            self._need(file, statement)

    def _need(self, file: _File, statement: ast.stmt) -> None:
        """Copy the definitions that a statement uses, except Python's builtins."""
        for module, line in _imported_inside(statement):
            root = module.partition(".")[0]
            if root not in _ALLOWED:
                raise _foreign(module, f"{file.path}:{line}")
            self._roots.add(root)
        for name in sorted(_used(statement)):
            if name == "__file__":
                rule = "a function that uses `__file__` cannot be copied, because its path changes"
                raise UserError(rule, where=f"{file.path}:{statement.lineno}", remedy=ELSEWHERE)
            index = file.binding(name)
            # A name that the file does not bind is local, or a builtin.
            if index is not None:
                self._take(file, index, name)

    def _take_statements_that_alter(self, file: _File) -> None:
        """Copy statements that bind no name, such as `OPTIONS.append(...)`, together with what they alter."""
        for index, statement in enumerate(file.statements):
            if index in file.copied or file.parsed.bound[index] or _is_text(statement):
                continue
            taken = {name for i in file.copied for name in file.parsed.bound[i]}
            if _used(statement) & taken:
                file.copied.add(index)
                self._need(file, statement)

    def _import(self, file: _File, statement: ast.Import | ast.ImportFrom, name: str) -> None:
        alias = next(a for a in statement.names if (a.asname or a.name.partition(".")[0]) == name)
        module = alias.name if isinstance(statement, ast.Import) else f"{statement.module or ''}"
        root = module.partition(".")[0]
        renamed = f" as {alias.asname}" if alias.asname else ""
        if root in _ALLOWED and not getattr(statement, "level", 0):
            self._roots.add(root)
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
    """The top-level statements of a module, including those under `if TYPE_CHECKING`."""
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
    """The modules that a definition imports when it runs, and the line numbers."""
    for node in ast.walk(statement):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or ""), node.lineno


def _foreign(module: str, where: str) -> UserError:
    rule = f"an exported module can import only Python's library and {', '.join(LIBRARIES)}, but got {module!r}"
    return UserError(rule, where=where, remedy=ELSEWHERE)


def _bound(statement: ast.stmt) -> set[str]:
    """The names that a top-level statement binds."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return {alias.asname or alias.name.partition(".")[0] for alias in statement.names}
    return {n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def _used(statement: ast.AST) -> set[str]:
    return {n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
