"""A YAML loader that refuses tags, and bounds what a hostile file may expand to."""

from __future__ import annotations

import re
from typing import Any

import yaml

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

    def __init__(self, problem: str, remedy: str, at: yaml.Event | yaml.Node) -> None:
        super().__init__(None, None, problem, at.start_mark)
        self.remedy = remedy


class Loader(yaml.SafeLoader):
    """YAML 1.2 scalars (`no` is a word, `1e6` a number, a date a text), and no duplicate keys."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0
        self._values: dict[int, int] = {}
        """Id of a complete node -> number of values in it, those of aliases included."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        """Compose a node within the bounds."""
        event = self.peek_event()
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise RefusedYamlError(
                f"must have no tags, but has {_short(tag)}",
                "remove the tag; put text that looks like a number in quotes",
                event,
            )
        if self._depth == MOST_DEPTH:
            raise RefusedYamlError(
                f"must be nested at most {MOST_DEPTH} levels deep, but is deeper", "flatten it", event
            )
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(event, yaml.AliasEvent):
            if id(node) not in self._values:
                raise RefusedYamlError(
                    f"a value cannot contain itself, but *{_short(event.anchor)} does", "remove the alias", event
                )
            return node
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
                problem = f"the key '{_short(key.value)}' is given twice"
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


def _parts(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


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
