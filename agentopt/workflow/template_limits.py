"""The environment of prompt templates, with bounds on what rendering one may take.

The sandbox limits one `range`, but not loops in loops, and not `"x" * 10**9`. Steps are counted instead of seconds, so
that a template that renders does so on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from agentopt.core.errors import AgentoptError

MOST_STEPS = 100_000
"""Most rounds of all loops, and calls of macros, in one rendering: about half a second."""

MOST_ITEMS = 10_000_000
"""Most characters or items of a product such as `"x" * 80`."""

MOST_BITS = 10_000
"""Most bits of a power or a product of whole numbers."""

_steps: ContextVar[list[None] | None] = ContextVar("steps", default=None)


class TooMuchError(AgentoptError):
    """A template takes more than a rendering may."""


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """A sandbox that counts the steps of a rendering, and bounds products and powers."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Compute a product or a power, unless it would be too large.

        Args:
            context: The context of the rendering.
            operator: `*` or `**`.
            left: The first operand.
            right: The second operand.

        Raises:
            TooMuchError: It would be.
        """
        if operator == "*":
            _check_product(left, right)
        elif isinstance(left, int) and isinstance(right, int) and abs(left) > 1:
            _check_bits(left.bit_length() * max(right, 0))
        return super().call_binop(context, operator, left, right)

    def step(self) -> str:
        """Count one step of the rendering, inside `counting`.

        Raises:
            TooMuchError: There are too many.
        """
        if (taken := _steps.get()) is not None:
            taken.append(None)
            if len(taken) > MOST_STEPS:
                raise TooMuchError(f"its loops take more than {MOST_STEPS:,} rounds")
        return ""

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for node in tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock)):
            call = nodes.Call(nodes.EnvironmentAttribute("step"), [], [], None, None)
            body: list[nodes.Node] = vars(node)["body"]
            body.insert(0, nodes.ExprStmt(call).set_lineno(node.lineno))
        return tree


@contextmanager
def counting() -> Iterator[None]:
    """Count the steps of one rendering inside the block."""
    before = _steps.set([])
    try:
        yield
    finally:
        _steps.reset(before)


def _check_product(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        _check_bits(left.bit_length() + right.bit_length())
    for factor, value in ((left, right), (right, left)):
        if isinstance(factor, int) and isinstance(value, str | list | tuple) and factor * len(value) > MOST_ITEMS:
            raise TooMuchError(f"a product has more than {MOST_ITEMS:,} characters or items")


def _check_bits(bits: int) -> None:
    if bits > MOST_BITS:
        raise TooMuchError(f"a number has more than {MOST_BITS:,} bits")
