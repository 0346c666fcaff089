"""Scores a Python program that a model wrote by the three measures of ChatDev (arXiv 2307.07924), each from 0 to 1.

Completeness: it has no placeholders. Executability: it runs to its end in the sandbox. Consistency: the cosine of the
embeddings of the requirement and of the code without its comments. Their product is ChatDev's quality.
"""

from __future__ import annotations

import ast
import io
import re
import textwrap
import tokenize
from collections.abc import Iterator
from functools import lru_cache

from agentopt.core.task import Unparsable
from agentopt.evaluation.checkers.embedding import similarity
from agentopt.evaluation.sandbox.sandbox import Sandbox, SandboxResult

# Possessive, so that no response takes quadratic time.
_FENCE = re.compile(
    r"""
    ^[ \t]*+(?P<fence>`{3,}+|~{3,}+)[ \t]*+\{?\.?(?P<language>[\w+-]*+)[^\n`]*+\n
    (?P<code>.*?)
    (?:^[ \t]*+(?P=fence)[`~]*+[ \t]*+$|(?P=fence)|\Z)
    """,
    re.DOTALL | re.MULTILINE | re.VERBOSE,
)
_PYTHON = {"python", "py", "python3", "py3"}
_PROMISE = re.compile(
    r"\b(?:todo|fixme|placeholder|not implemented|implement (?:this|the|me|your|here)|your code|code here|goes here)\b",
    re.IGNORECASE,
)


@lru_cache(maxsize=1)
def sandbox() -> Sandbox:
    """The sandbox that all tasks of this process share, so that a program runs once.

    Raises:
        UserError: If no confinement works on this machine.
    """
    return Sandbox()


def program(response: str) -> str:
    """Parse the longest block between fences that is marked as Python, or else the longest unmarked one.

    Fences are of backticks or tildes and may be indented, as in a list. Of the unmarked blocks those that are Python
    come first. An unclosed last fence, as in a truncated response, extends to the end. Without a fence the whole
    response is parsed if it is Python.

    Raises:
        Unparsable: If there is no Python program.
    """
    fences = list(_FENCE.finditer(response))
    blocks = [(found["language"].lower(), textwrap.dedent(found["code"]).strip()) for found in fences]
    marked = [code for language, code in blocks if language in _PYTHON]
    unmarked = [code for language, code in blocks if not language]
    choices = (marked, [code for code in unmarked if _has_statements(_tree(code))], unmarked)
    if code := next((max(codes, key=len) for codes in choices if any(codes)), ""):
        return f"{code}\n"
    whole = response.strip()
    if not fences and _has_statements(_tree(whole)):
        return f"{whole}\n"
    raise Unparsable("expected a Python program between ``` fences, got none")


def is_broken(code: str) -> bool:
    """Return whether the code has a syntax error."""
    return _tree(code) is None


def completeness(code: str) -> float:
    """Return 1 if the program has no placeholders, else 0.

    It needs statements, no function without a body, and no comment such as TODO. Code with a syntax error is searched
    for lines that are only `pass` or `...`.
    """
    return 0.0 if next(placeholders(code), None) else 1.0


def placeholders(code: str) -> Iterator[str]:
    """Yield a short description of each placeholder."""
    tree = _tree(code)
    if tree is None:
        lines = re.findall(r"(?m)^[ \t]*(?:pass|\.\.\.)[ \t]*$", code)
        yield from (f"a line that is only {line.strip()}" for line in lines)
    elif not _has_statements(tree):
        yield "no statements"
    else:
        yield from (f"the function {name} has no body" for name in _unwritten(tree))
    yield from (f"the comment {comment!r}" for comment in comments(code) if _PROMISE.search(comment))


def consistency(requirement: str, code: str) -> float:
    """Return the cosine of the embeddings of the requirement and of the code without comments, at least 0."""
    return max(0.0, similarity(requirement, without_comments(code)))


def describe(run: SandboxResult) -> str:
    """Describe how a run ended, for a prompt or for feedback."""
    end = "It ran to its end." if run.ok else f"It {run.ending}: {run.why}."
    return f"{end} It printed:\n{run.output.strip()}" if run.output.strip() else f"{end} It printed nothing."


def comments(code: str) -> list[str]:
    """Return the comments, as far as Python's tokeniser can read the program."""
    return [token.string for token in _tokens(code) if token.type == tokenize.COMMENT]


def without_comments(code: str) -> str:
    """Return the program without comments and blank lines."""
    lines = code.split("\n")  # as the tokeniser counts them: a form feed does not end a line
    for token in _tokens(code):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _tokens(code: str) -> Iterator[tokenize.TokenInfo]:
    try:
        yield from tokenize.generate_tokens(io.StringIO(code).readline)
    except (tokenize.TokenError, SyntaxError):
        return  # the rest of a broken program has no tokens


def _tree(code: str) -> ast.Module | None:
    try:
        return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # all that the parser raises for untrusted text
        return None


def _has_statements(tree: ast.Module | None) -> bool:
    """Whether the program does or defines anything; a lone word or text, as in prose, does not count."""
    idle = (ast.Import, ast.ImportFrom, ast.Pass)
    return tree is not None and any(not isinstance(node, idle) and not _is_idle(node) for node in tree.body)


def _is_idle(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant | ast.Name | ast.Tuple)


def _unwritten(tree: ast.Module) -> Iterator[str]:
    """Yield the functions without a body; abstract ones are allowed."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            abstract = any("abstract" in ast.unparse(d) or "overload" in ast.unparse(d) for d in node.decorator_list)
            if not abstract and all(_is_nothing(statement) for statement in node.body):
                yield node.name


def _is_nothing(node: ast.stmt) -> bool:
    if isinstance(node, ast.Raise) and node.exc is not None:
        return "NotImplementedError" in ast.unparse(node.exc)
    return isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
