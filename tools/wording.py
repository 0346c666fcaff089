"""Counts idioms in the docstrings and comments of Python packages, per 10,000 words.

Usage: python tools/wording.py [FOLDER] [OTHER FOLDER]

Compares `agentopt` with Optuna's installed source unless other folders are given. Exit code 1: the first folder uses
one of the counted words more often than the second.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

WORDS = {word: word for word in ("told", "tell", "mend", "stands", "asks")} | {
    "tells": "tell",
    "mends": "mend",
    "mended": "mend",
}
"""Counted word -> the row of the table it belongs to."""

IDIOMS = (
    r"\b(is told|are told|told (by|of|that|when)|tells? (it|them|the)|mend(ed|s)?|stands (for|in|on)|hands? on"
    r"|where there is|has to be asked)\b"
)
"""Phrases that are listed with their places; they do not change the exit code."""

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Text:
    """One docstring or comment, and the line it starts on."""

    line: int
    text: str


@dataclass(frozen=True)
class Count:
    """Occurrences of the counted words in one folder."""

    words: int
    """All words of docstrings and comments."""
    found: Counter[str]
    """Counted word -> occurrences."""
    places: tuple[str, ...]
    """`path:line: word` of each occurrence."""

    def rate(self, word: str) -> float:
        """Occurrences per 10,000 words."""
        return 10_000 * self.found[word] / max(self.words, 1)


def texts(source: str) -> Iterator[Text]:
    """Yield every docstring, attribute docstring and comment of a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, DOCUMENTED):
            for statement in node.body:
                if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                    value = statement.value.value
                    if isinstance(value, str):
                        yield Text(statement.lineno, value)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield Text(token.start[0], token.string.lstrip("#"))


def count(folder: Path) -> Count:
    """Count the words of all modules below `folder`."""
    total, found, places = 0, Counter[str](), []
    for file in sorted(folder.rglob("*.py")):
        for text in texts(file.read_text(encoding="utf-8")):
            for line, content in enumerate(text.text.lower().splitlines(), text.line):
                words = re.findall(r"[a-z][a-z'-]*", content)
                total += len(words)
                counted = [word for word in words if word in WORDS]
                found.update(WORDS[word] for word in counted)
                places += [f"{file}:{line}: {word}" for word in counted]
    return Count(total, found, tuple(places))


def rows(ours: Count, theirs: Count) -> list[tuple[str, float, float]]:
    """One row per counted word: the word, our rate and the other package's rate per 10,000 words."""
    return [(word, ours.rate(word), theirs.rate(word)) for word in dict.fromkeys(WORDS.values())]


def idioms(repository: Path) -> list[str]:
    """List `path:line: phrase` for the idioms in any line of the repository's own Python and Markdown files."""
    listed = subprocess.run(["git", "ls-files", "*.py", "*.md"], cwd=repository, capture_output=True, text=True)
    return [
        f"{file}:{number}: {match[0]}"
        for file in listed.stdout.split()
        if not file.startswith(("CHANGELOG", "benchmarks/RESULTS", "tools/"))
        for number, line in enumerate((repository / file).read_text(encoding="utf-8").splitlines(), 1)
        for match in re.finditer(IDIOMS, line)
    ]


def optuna_folder() -> Path:
    """The folder of the installed Optuna."""
    spec = find_spec("optuna")
    if spec is None or spec.origin is None:
        raise SystemExit("optuna is not installed; pip install -e .")
    return Path(spec.origin).parent


def main(arguments: list[str]) -> int:
    """Print the table and the idioms; return the exit code."""
    repository = Path(__file__).parents[1]
    folder = Path(arguments[0]) if arguments else repository / "agentopt"
    other = Path(arguments[1]) if len(arguments) > 1 else optuna_folder()
    ours, theirs = count(folder), count(other)
    print(f"{'per 10,000 words':<18}{folder.name:>12}{other.name:>12}")
    table = rows(ours, theirs)
    for word, our_rate, their_rate in table:
        print(f"{word:<18}{our_rate:>12.2f}{their_rate:>12.2f}{'  above' if our_rate > their_rate else ''}")
    print(f"{'words counted':<18}{ours.words:>12,}{theirs.words:>12,}")
    found = idioms(repository)
    print(f"\nplaces: {len(ours.places)}", *ours.places, f"\nidioms: {len(found)}", *found, sep="\n")
    return int(any(our_rate > their_rate for _, our_rate, their_rate in table))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
