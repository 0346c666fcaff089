"""Reads and writes YAML. Tags are refused, and what a hostile file may expand to is bounded."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from agentopt.core.errors import UserError
from agentopt.core.files import other_than_file
from agentopt.core.plain_text import unstorable
from agentopt.core.yaml_models import shortened

MOST_CHARACTERS = 2_000_000
"""Longest text that is parsed."""
MOST_DEPTH = 100
"""Deepest nesting of lists and mappings. Python's recursion limit allows about 300."""
MOST_VALUES = 100_000
"""Most keys and values of a document, each alias counted as a copy. Parsing so many takes seconds."""
MOST_DIGITS = 400
"""Longest number; Python refuses to print integers above 4,300 digits."""


class RefusedYamlError(yaml.MarkedYAMLError):
    """Valid YAML that is tagged or exceeds a bound; `remedy` is what to do about it."""

    def __init__(self, problem: str, remedy: str, at: Any) -> None:
        super().__init__(None, None, problem, at.start_mark)
        self.remedy = remedy


class Loader(yaml.SafeLoader):
    """YAML 1.2 scalars (`no` is a word, `1e6` a number, a date a text), and no duplicate keys."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0
        self._values: dict[int, int] = {}
        """Id of a complete node -> number of values in it, those of aliases included."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node within the bounds."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if (tag := getattr(event, "tag", None)) is not None:
            raise RefusedYamlError(
                f"must have no tags, but has {shortened(tag)}",
                "remove the tag; put text that looks like a number in quotes",
                event,
            )
        if self._depth == MOST_DEPTH:
            raise RefusedYamlError(
                f"must be nested at most {MOST_DEPTH} levels deep, but is deeper", "flatten it", event
            )
        self._depth += 1
        node = super().compose_node(parent, index)
        assert node, "there is an event"
        self._depth -= 1
        if isinstance(event, yaml.AliasEvent):
            if id(node) not in self._values:
                raise RefusedYamlError(
                    f"a value cannot contain itself, but *{shortened(str(event.anchor))} does",
                    "remove the alias",
                    event,
                )
            return node
        if isinstance(node, yaml.ScalarNode) and (what := unstorable(node.value)):
            raise RefusedYamlError(f"text must not contain {what}", "remove it", event)
        values = 1 + sum(self._values[id(part)] for part in _parts(node))
        if values > MOST_VALUES:
            raise RefusedYamlError(
                f"must have at most {MOST_VALUES:,} keys and values, aliases included", "use fewer", event
            )
        self._values[id(node)] = values
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Construct a mapping; refuse a key that is given twice."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                problem = f"the key '{shortened(str(key.value))}' is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else "")
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """Construct a number of bounded length."""
        if len(node.value) > MOST_DIGITS:
            raise RefusedYamlError(
                f"a number must have at most {MOST_DIGITS} digits, but got {len(node.value):,}",
                "put text in quotes",
                node,
            )
        is_int = node.tag.endswith(":int")
        return self.construct_yaml_int(node) if is_int else self.construct_yaml_float(node)


def _parts(node: yaml.Node) -> Iterable[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return chain.from_iterable(node.value)
    return node.value if isinstance(node, yaml.SequenceNode) else ()


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith((":null", ":merge"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
SCALARS = tuple(
    (f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), list(first))
    for tag, pattern, first in (
        ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
        ("int", r"[-+]?(0|[1-9][0-9]*)|0x[0-9a-fA-F]+", "-+0123456789"),
        ("float", r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+", "-+.0123456789"),
        ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
    )
)
"""Tag, pattern and first characters of the scalars that are no text."""
for _scalar in SCALARS:
    Loader.add_implicit_resolver(*_scalar)
for _tag in ("int", "float"):
    Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", Loader.construct_number)


class _Dumper(yaml.SafeDumper):
    """Quotes a text that a YAML 1.1 or 1.2 loader would read as another type."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # Outside double quotes these are line breaks, and read back as plain ones.
    style = '"' if re.search("[\x85\u2028\u2029]", text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
for _scalar in SCALARS:
    _Dumper.add_implicit_resolver(*_scalar)


def to_yaml(data: Any) -> str:
    """Dump plain data as YAML that `load_yaml` reads back as equal data. Keys keep their order."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def load_yaml(path: Path, error: type[UserError]) -> Any:
    """Read a YAML file.

    Args:
        path: The file.
        error: Class of the exception to raise.

    Returns:
        Its content; None for an empty file.

    Raises:
        UserError: `error`, with file and line: the file cannot be read, is not YAML, or has a duplicate key.
    """
    if kind := other_than_file(path):
        raise error(f"must be a file, but is {kind}", where=path, remedy="give the path of a YAML file")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as problem:
        reason = (problem.strerror or str(problem)).lower()
        raise error(f"cannot be read: {reason}", where=path, remedy="check the path") from problem
    except UnicodeDecodeError as problem:
        raise error("must be UTF-8 text", where=path, remedy="save the file as UTF-8") from problem
    return parse_yaml(text, path, error)


def parse_yaml(text: str, where: Path | str, error: type[UserError]) -> Any:
    """Parse YAML.

    Args:
        text: The YAML.
        where: Its place, for messages.
        error: Class of the exception to raise.

    Raises:
        UserError: `error`, with the line: the text is not YAML, has a tag or a duplicate key, or exceeds a bound.
    """
    if len(text) > MOST_CHARACTERS:
        rule = f"must have at most {MOST_CHARACTERS:,} characters, but has {len(text):,}"
        raise error(rule, where=where, remedy="put data into data files")
    try:
        return yaml.load(text, Loader=Loader)  # noqa: S506 - a subclass of SafeLoader
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        place = f"{where}:{mark.line + 1}" if mark else str(where)
        if isinstance(problem, RefusedYamlError):
            raise error(str(problem.problem), where=place, remedy=problem.remedy) from problem
        raise error(_yaml_message(problem), where=place, remedy="correct the YAML on that line") from problem
    except yaml.YAMLError as problem:
        remedy = "remove characters that are not plain text"
        raise error(f"is not valid YAML: {problem}", where=where, remedy=remedy) from problem


def _yaml_message(problem: yaml.MarkedYAMLError) -> str:
    message = ", ".join(part for part in (problem.context, problem.problem) if part)
    return f"is not valid YAML: {shortened(message) or 'unreadable'}"


def without_key(text: str, mapping: str, key: str) -> str:
    """Return a document without one key of a mapping in which each key is below the one before.

    The comments after it are those of the next key. A mapping of another form is left as it is.

    Args:
        text: The document.
        mapping: Key of the mapping.
        key: Its key, which it has.
    """
    root: Any = yaml.compose(text, yaml.SafeLoader)
    within: Any = next(value for name, value in root.value if name.value == mapping)
    name, value = next(pair for pair in within.value if pair[0].value == key)
    if within.flow_style:
        return text
    lines = text.splitlines(keepends=True)
    end = value.end_mark.line + 1 if value.flow_style else value.end_mark.line
    while not lines[end - 1].partition("#")[0].strip():
        end -= 1
    del lines[name.start_mark.line : end]
    return "".join(lines)
