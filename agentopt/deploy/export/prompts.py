"""Prompt templates as Python source: what Jinja does with a template, written out.

Covers what prompts are made of: text, expressions, `if`, `for`, `set`, and the common filters and tests. What it
does not cover is refused, so that an exported prompt never differs from the one that was measured.
"""

from __future__ import annotations

import builtins
import json
import keyword
from collections.abc import Callable, Mapping, Sequence

import jinja2
from jinja2 import nodes

from agentopt.core.errors import UserError

_FILTERS: Mapping[str, Callable[..., str]] = {
    "count": lambda value: f"len({value})",
    "first": lambda value: f"next(iter({value}))",
    "int": lambda value: f"whole({value})",
    "join": lambda value, glue="''": f"{glue}.join(map(str, {value}))",
    "last": lambda value: f"list({value})[-1]",
    "length": lambda value: f"len({value})",
    "list": lambda value: f"list({value})",
    "lower": lambda value: f"str({value}).lower()",
    "replace": lambda value, old, new: f"str({value}).replace({old}, {new})",
    "string": lambda value: f"str({value})",
    "trim": lambda value: f"str({value}).strip()",
    "upper": lambda value: f"str({value}).upper()",
}
_TESTS: Mapping[str, str] = {
    "even": "({0} % 2 == 0)",
    "mapping": "isinstance({0}, dict)",
    "none": "({0} is None)",
    "odd": "({0} % 2 == 1)",
    "string": "isinstance({0}, str)",
}
_OPERATORS = {
    nodes.Add: "+",
    nodes.Sub: "-",
    nodes.Mul: "*",
    nodes.Div: "/",
    nodes.FloorDiv: "//",
    nodes.Mod: "%",
    nodes.Pow: "**",
    nodes.And: "and",
    nodes.Or: "or",
}
_COMPARISONS = {"eq": "==", "ne": "!=", "gt": ">", "gteq": ">=", "lt": "<", "lteq": "<=", "in": "in", "notin": "not in"}
_LOOP = {"index", "index0", "first", "last", "length"}
HELPERS = ("show", "get", "looped", "whole")
"""What the source of a prompt may call."""

_OURS = {"inputs", "outputs", "out", *HELPERS}


def prompt_function(name: str, arguments: Sequence[str], text: str, roots: Mapping[str, str], where: str) -> str:
    """The source of a function `name(*arguments) -> str` that renders the template `text`.

    `roots` maps each name that the template may read to the Python expression behind it; a subtask's value is under
    `<name>.output`. The source uses `HELPERS` of `runtime`. Raises `UserError` for what a template
    does that has no translation.
    """
    writer = _Writer(roots, where)
    tree = jinja2.Environment().parse(text)  # noqa: S701 - only parsed, and prompts are not HTML
    writer.statements(tree.body)
    head = f"def {name}({', '.join(arguments)}) -> str:"
    return "\n".join([head, "    out: list[str] = []", *writer.lines, '    return "".join(out)'])


class _Writer:
    """Writes the body of one function. A template's own names keep to their scope by being renamed where needed."""

    def __init__(self, roots: Mapping[str, str], where: str) -> None:
        self.lines: list[str] = []
        self._roots, self._where = roots, where
        self._scopes: list[dict[str, str]] = [{}]
        self._taken = {*_OURS, *roots}
        self._depth, self._conditions = 1, 0

    # Statements

    def statements(self, body: Sequence[nodes.Node]) -> None:
        for node in body:
            match node:
                case nodes.Output():
                    self._line(f"out += [{', '.join(self._shown(part) for part in node.nodes)}]")
                case nodes.If():
                    self._if(node)
                case nodes.For(recursive=False, else_=[]):
                    self._for(node)
                case nodes.Assign(target=nodes.Name(name=name)) if not self._conditions:
                    value = self._value(node.node)
                    self._line(f"{self._own(name)} = {value}")
                case _:
                    raise self._refused(node, f"the statement {type(node).__name__.lower()}")

    def _line(self, text: str) -> None:
        self.lines.append("    " * self._depth + text)

    def _block(self, head: str, body: Sequence[nodes.Node]) -> None:
        self._line(head)
        self._depth += 1
        self.statements(body)
        if not body:
            self._line("pass")
        self._depth -= 1

    def _if(self, node: nodes.If) -> None:
        # Python has no scope for a name that is set in one branch only, so `set` is refused in there.
        self._conditions += 1
        self._block(f"if {self._value(node.test)}:", node.body)
        for other in node.elif_:
            self._block(f"elif {self._value(other.test)}:", other.body)
        if node.else_:
            self._block("else:", node.else_)
        self._conditions -= 1

    def _for(self, node: nodes.For) -> None:
        items = self._value(node.iter)
        self._scopes.append({})
        target = self._target(node.target)
        if node.test:
            items = f"[{target} for {target} in {items} if {self._value(node.test)}]"
        if any(name.name == "loop" for part in node.body for name in _names(part)):
            target, items = f"{self._own('loop')}, {target}", f"looped({items})"
        conditions, self._conditions = self._conditions, 0
        self._block(f"for {target} in {items}:", node.body)
        self._conditions = conditions
        self._scopes.pop()

    def _target(self, node: nodes.Node) -> str:
        if isinstance(node, nodes.Tuple):
            return f"({', '.join(self._target(item) for item in node.items)},)"
        if isinstance(node, nodes.Name):
            return self._own(node.name)
        raise self._refused(node, "such a loop variable")

    def _own(self, name: str) -> str:
        """A Python name of its own for a name that the template sets here."""
        chosen, number = name, 1
        while chosen in self._taken or keyword.iskeyword(chosen) or hasattr(builtins, chosen):
            number += 1
            chosen = f"{name}_{number}"
        self._taken.add(chosen)
        self._scopes[-1][name] = chosen
        return chosen

    # Expressions

    def _shown(self, node: nodes.Node) -> str:
        if isinstance(node, nodes.TemplateData):
            return _literal(node.data)
        return f"show({self._value(node)})"

    def _value(self, node: nodes.Node) -> str:
        """The Python expression for an expression of the template."""
        match node:
            case nodes.Const():
                return _literal(node.value)
            case nodes.TemplateData():
                return _literal(node.data)
            case nodes.Name():
                return self._name(node)
            case nodes.Getattr() | nodes.Getitem():
                return self._part(node)
            case nodes.Call() | nodes.Filter() | nodes.Test():
                return self._applied(node)
            case nodes.List() | nodes.Tuple() | nodes.Dict():
                return self._collection(node)
        return self._combined(node)

    def _collection(self, node: nodes.List | nodes.Tuple | nodes.Dict) -> str:
        if isinstance(node, nodes.Dict):
            return f"{{{', '.join(f'{self._value(pair.key)}: {self._value(pair.value)}' for pair in node.items)}}}"
        items = "".join(f"{self._value(item)}, " for item in node.items)
        return f"[{items}]" if isinstance(node, nodes.List) else f"({items})"

    def _combined(self, node: nodes.Node) -> str:
        match node:
            case nodes.CondExpr(expr2=nodes.Expr() as other):
                return f"({self._value(node.expr1)} if {self._value(node.test)} else {self._value(other)})"
            case nodes.Compare():
                rest = " ".join(f"{_COMPARISONS[o.op]} {self._value(o.expr)}" for o in node.ops)
                return f"({self._value(node.expr)} {rest})"
            case nodes.Concat():
                return f"''.join(map(str, [{', '.join(map(self._value, node.nodes))}]))"
            case nodes.BinExpr():
                return f"({self._value(node.left)} {_OPERATORS[type(node)]} {self._value(node.right)})"
            case nodes.Not():
                return f"(not {self._value(node.node)})"
            case nodes.Neg() | nodes.Pos():
                return f"({node.operator}{self._value(node.node)})"
        raise self._refused(node, f"the expression {type(node).__name__.lower()}")

    def _name(self, node: nodes.Name) -> str:
        for scope in reversed(self._scopes):
            if node.name in scope:
                return scope[node.name]
        if node.name not in self._roots:
            raise self._refused(node, f"`{node.name}`")
        return self._roots[node.name]

    def _part(self, node: nodes.Getattr | nodes.Getitem) -> str:
        """`value.name`, `value[index]`; `inputs.column` and `subtask.output` are known for what they are."""
        if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
            ends = [self._value(end) if end else "" for end in (node.arg.start, node.arg.stop)]
            step = f":{self._value(node.arg.step)}" if node.arg.step else ""
            return f"{self._value(node.node)}[{':'.join(ends)}{step}]"
        key = _literal(node.attr) if isinstance(node, nodes.Getattr) else self._value(node.arg)
        root = node.node.name if isinstance(node.node, nodes.Name) else ""
        is_own = any(root in scope for scope in self._scopes)
        value = self._value(node.node)
        if value.startswith("outputs[") and not is_own and root in self._roots:
            return value
        if isinstance(node, nodes.Getitem) or (value == "inputs" and not is_own):
            return f"{value}[{key}]"
        if self._is_loop(node.node) and node.attr not in _LOOP:
            raise self._refused(node, f"loop.{node.attr}")
        return f"get({value}, {key})"

    def _applied(self, node: nodes.Call | nodes.Filter | nodes.Test) -> str:
        if node.dyn_args or node.dyn_kwargs or (node.kwargs and not isinstance(node, nodes.Call)):
            raise self._refused(node, "a call with such arguments")
        arguments = [self._value(argument) for argument in node.args]
        if isinstance(node, nodes.Call):
            arguments += [f"{pair.key}={self._value(pair.value)}" for pair in node.kwargs]
            return f"{self._called(node.node)}({', '.join(arguments)})"
        assert isinstance(node.node, nodes.Expr)
        value = self._value(node.node)
        if isinstance(node, nodes.Test) and node.name in _TESTS and not arguments:
            return _TESTS[node.name].format(value)
        if isinstance(node, nodes.Filter) and node.name in _FILTERS:
            try:
                return _FILTERS[node.name](value, *arguments)
            except TypeError:
                pass
        raise self._refused(node, f"the {type(node).__name__.lower()} `{node.name}` in this form")

    def _called(self, node: nodes.Node) -> str:
        if isinstance(node, nodes.Getattr) and not node.attr.startswith("_") and not self._is_loop(node.node):
            return f"{self._value(node.node)}.{node.attr}"
        if isinstance(node, nodes.Name) and node.name == "range" and node.name not in self._roots:
            return "range"
        raise self._refused(node, "a call of such a thing")

    def _is_loop(self, node: nodes.Node) -> bool:
        return isinstance(node, nodes.Name) and node.name == "loop" and any("loop" in scope for scope in self._scopes)

    def _refused(self, node: nodes.Node, what: str) -> UserError:
        return UserError(
            f"line {node.lineno} of the template uses {what}, which cannot be written as plain Python",
            where=self._where,
            remedy=f"write the prompt without it (filters: {', '.join(_FILTERS)}), or use `agentopt serve`",
        )


def _names(node: nodes.Node) -> list[nodes.Name]:
    return [node] if isinstance(node, nodes.Name) else list(node.find_all(nodes.Name))


def _literal(value: object) -> str:
    """A constant as source, in double quotes as the rest of the module."""
    if isinstance(value, str) and value.isprintable() and "\\" not in value:
        return json.dumps(value, ensure_ascii=False)
    return repr(value)
