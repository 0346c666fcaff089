"""OpenTelemetry spans, recorded if the process has set OpenTelemetry up. Without it they cost one look-up.

OpenTelemetry is never imported from here: a process that records spans has imported it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

Attribute = str | bool | int | float | Sequence[str] | None
"""The value of an attribute; None leaves it out."""


@dataclass(frozen=True, slots=True)
class Span:
    """A span of OpenTelemetry, or none.

    Attributes:
        recorded: The span, if it is recorded.
        trace: The module `opentelemetry.trace`.
    """

    recorded: Any = None
    trace: Any = None

    def set(self, attributes: Mapping[str, Attribute]) -> None:
        """Set the attributes that are not None."""
        if self.recorded:
            self.recorded.set_attributes(_known(attributes))

    def fail(self, kind: str) -> None:
        """Mark the span as failed. The message of the failure, which may quote a prompt, is not recorded."""
        if self.recorded:
            self.recorded.set_attribute("error.type", kind)
            self.recorded.set_status(self.trace.StatusCode.ERROR)


@contextmanager
def span(
    name: str, attributes: Callable[[], Mapping[str, Attribute]], kind: Literal["INTERNAL", "CLIENT"] = "INTERNAL"
) -> Iterator[Span]:
    """Record a span around the block, a child of the current one. An exception marks it as failed.

    Args:
        name: Name of the span.
        attributes: Returns its attributes; called only if OpenTelemetry is loaded.
        kind: `CLIENT` for calls of a service.
    """
    trace = _opentelemetry()
    if trace is None:
        yield Span()
        return
    started = trace.get_tracer("agentopt").start_as_current_span(
        name,
        kind=trace.SpanKind[kind],
        attributes=_known(attributes()),
        record_exception=False,
        set_status_on_exception=False,
    )
    with started as recorded:
        current = Span(recorded if recorded.is_recording() else None, trace)
        try:
            yield current
        except BaseException as error:
            current.fail(getattr(error, "kind", type(error).__name__))
            raise


def current_span() -> Span:
    """Return the current span, for `within`."""
    trace = _opentelemetry()
    return Span(trace.get_current_span(), trace) if trace else Span()


@contextmanager
def within(parent: Span) -> Iterator[None]:
    """Make `parent` the current span inside the block, which may run in another task. The span is not ended."""
    if not parent.trace:
        yield
        return
    with parent.trace.use_span(parent.recorded, record_exception=False, set_status_on_exception=False):
        yield


def _known(attributes: Mapping[str, Attribute]) -> dict[str, Attribute]:
    return {name: value for name, value in attributes.items() if value is not None}


def _opentelemetry() -> ModuleType | None:
    """The module `opentelemetry.trace` if it is loaded."""
    module = sys.modules.get("opentelemetry.trace")
    # Defined in its last line: another thread may be loading it.
    return module if hasattr(module, "__all__") else None
